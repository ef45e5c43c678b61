// compare: difference and standardised difference of the means of every layer, and each layer's largest, a block a layer.
#include "common.cuh"

static const int LAYERS = 36;  // a table of 4,032 bytes, as in fold.cu
static const int BLOCK = 512;
static const int MOST = 1024;  // the largest k

typedef unsigned long long u64;

struct CompareLayer {
  i64 clean_mean, clean_spread, clean_count;  // addresses [channels]; count 0: spread is the variance, else the square sum
  i64 suspect_mean, suspect_spread, suspect_count;
  i64 difference, z, top;                     // addresses of the results: double, double [channels], i64 [k]
  i64 channels, k;                            // k <= channels, k <= MOST
  double resolution, spare0, spare1;
};

struct CompareArgs {
  i64 layers;
  CompareLayer layer[LAYERS];
};

NAA_DEVICE double nan() { return __longlong_as_double(0x7ff8000000000000LL); }

NAA_DEVICE double variance(i64 spread, i64 count, i64 channel) {
  const double s = reinterpret_cast<const double*>(spread)[channel];
  if (count == 0) return s;
  const i64 n = reinterpret_cast<const i64*>(count)[channel];
  return n > 1 ? s / double(n - 1) : nan();
}

NAA_DEVICE double mean_of(i64 mean, i64 count, i64 channel) {
  if (count != 0 && reinterpret_cast<const i64*>(count)[channel] == 0) return nan();
  return reinterpret_cast<const double*>(mean)[channel];
}

// Order-preserving: the bits of doubles >= 0 rise with their value; what cannot be compared ranks above every number.
NAA_DEVICE u64 rank_of(double difference) {
  return difference == difference ? u64(__double_as_longlong(difference)) : 0xffffffffffffffffULL;
}

// The k largest ranks, by 8 passes over 8 bits each: `limit` is the k-th largest, `ties` how many that equal it are taken.
NAA_DEVICE void select(const double* difference, i64 channels, i64 k, u64& limit, i64& ties) {
  __shared__ unsigned histogram[256];
  __shared__ u64 prefix;
  __shared__ i64 wanted;
  if (threadIdx.x == 0) prefix = 0, wanted = k;
  for (int shift = 56; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) histogram[threadIdx.x] = 0;
    __syncthreads();
    const u64 chosen = prefix;
    for (i64 c = threadIdx.x; c < channels; c += BLOCK) {
      const u64 rank = rank_of(difference[c]);
      if (shift == 56 || rank >> (shift + 8) == chosen >> (shift + 8)) atomicAdd(&histogram[rank >> shift & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = 255;
      while (digit > 0 && i64(histogram[digit]) < wanted) wanted -= histogram[digit--];
      prefix = chosen | u64(digit) << shift;
    }
    __syncthreads();
  }
  limit = prefix, ties = wanted;
}

extern "C" __global__ void __launch_bounds__(BLOCK) compare(const CompareArgs a) {
  __shared__ u64 ranks[MOST];
  __shared__ i64 places[MOST];
  __shared__ int before[BLOCK];
  __shared__ int taken;
  const CompareLayer layer = a.layer[blockIdx.x];
  double* difference = reinterpret_cast<double*>(layer.difference);
  double* z = reinterpret_cast<double*>(layer.z);
  for (i64 c = threadIdx.x; c < layer.channels; c += BLOCK) {
    const double clean = mean_of(layer.clean_mean, layer.clean_count, c);
    const double suspect = mean_of(layer.suspect_mean, layer.suspect_count, c);
    const double ca = fabs(clean), sa = fabs(suspect);
    const double noise = layer.resolution * (ca > sa || ca != ca ? ca : sa);
    const double pooled = variance(layer.clean_spread, layer.clean_count, c) +
                          variance(layer.suspect_spread, layer.suspect_count, c);
    const double scale = sqrt(pooled / 2.0 + noise * noise);
    const double d = fabs(suspect - clean);
    difference[c] = d;
    z[c] = d == 0.0 ? 0.0 * scale : d / (scale == 0.0 ? 1.0 : scale);
  }
  if (layer.k == 0) return;
  __syncthreads();

  u64 limit;
  i64 ties;
  select(difference, layer.channels, layer.k, limit, ties);
  // Gather what lies above the limit, and of its equals the first `ties`; a thread owns a run of channels so that equals are
  // counted in their order.
  int slots = 1;
  while (slots < layer.k) slots *= 2;
  for (int s = threadIdx.x; s < slots; s += BLOCK) ranks[s] = 0, places[s] = 0x7fffffffffffffffLL;
  if (threadIdx.x == 0) taken = 0;
  const i64 run = (layer.channels + BLOCK - 1) / BLOCK, from = threadIdx.x * run;
  const i64 to = from + run < layer.channels ? from + run : layer.channels;
  int equals = 0;
  for (i64 c = from; c < to; ++c) equals += rank_of(difference[c]) == limit;
  before[threadIdx.x] = equals;
  __syncthreads();
  i64 earlier = 0;
  for (int t = 0; t < int(threadIdx.x); ++t) earlier += before[t];
  for (i64 c = from; c < to; ++c) {
    const u64 rank = rank_of(difference[c]);
    if (rank < limit || (rank == limit && earlier++ >= ties)) continue;
    const int slot = atomicAdd(&taken, 1);  // any order: sorted below by a total order
    ranks[slot] = rank, places[slot] = c;
  }
  __syncthreads();

  // Bitonic: rank falling, then place rising. Empty slots have the lowest rank and the highest place: last.
  for (int size = 2; size <= slots; size *= 2) {
    for (int gap = size / 2; gap > 0; gap /= 2) {
      for (int s = threadIdx.x; s < slots; s += BLOCK) {
        const int other = s ^ gap;
        if (other < s) continue;
        const bool after = ranks[s] < ranks[other] || (ranks[s] == ranks[other] && places[s] > places[other]);
        if (after == ((s & size) == 0)) {
          const u64 rank = ranks[s];
          const i64 place = places[s];
          ranks[s] = ranks[other], places[s] = places[other];
          ranks[other] = rank, places[other] = place;
        }
      }
      __syncthreads();
    }
  }
  i64* top = reinterpret_cast<i64*>(layer.top);
  for (int s = threadIdx.x; s < layer.k; s += BLOCK) top[s] = places[s];
}
