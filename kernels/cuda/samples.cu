// samples: every sample's mean and maximum in all layers, side by side, out of what `reduce` has written of them.
//
// Of a layer its partials (common.cuh), or, with one position a sample, the values that `reduce` has set aside. A module that was
// called several times in one forward takes a launch a call, in order: means add up where they lie, and the last call divides.
#include "common.cuh"

static const int LAYERS = 84;  // a table of 4,032 bytes: kernel parameters may hold 4,096 on every driver
static const int NEURONS = 32;
static const int SAMPLES = 64;  // a block: 8 warps, 8 samples each

struct SamplesLayer {
  i64 given;    // address of the layer's partials, or of values [samples, channels]
  i64 channels;
  i64 shape;    // tiles a sample * 2 + (1 if the reals are double); of values: -1 - NAA_DTYPE
  i64 column;   // where its features begin: the means, then the maxima
  i64 last;     // calls * 2 + (1 if there are maxima); 0 calls: this one is not the last
  i64 first;    // the layer's first block
};

struct SamplesArgs {
  i64 layers, samples;
  i64 out, width;  // address of [samples, width]; the last column is 0
  i64 wide, call;  // 1 if `out` is double; how many calls came before
  SamplesLayer layer[LAYERS];
};

// Without cuda_fp16.h, so that one compilation reads all types.
NAA_DEVICE double half_value(unsigned bits) {
  const unsigned magnitude = (bits & 0x7fffu) << 13 | ((bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u);
  const float value = __uint_as_float(magnitude | (bits & 0x8000u) << 16);
  return double(value) * 5192296858534827628530496329220096.0;  // 2^112; what is not finite stays so
}

NAA_DEVICE double value_at(i64 given, i64 type, i64 at) {
  if (type == 0) return double(reinterpret_cast<const float*>(given)[at]);
  if (type == 1) return reinterpret_cast<const double*>(given)[at];
  const unsigned bits = reinterpret_cast<const unsigned short*>(given)[at];
  return type == 2 ? half_value(bits) : double(__uint_as_float(bits << 16));
}

struct Seen {
  double mean, high;
};

// Over the tiles of a sample; NaN where a position was not finite, or none was observed.
template <class R> NAA_DEVICE Seen seen_in(const SamplesLayer& layer, i64 samples, i64 channel, i64 sample) {
  const i64 channels = layer.channels, tiles = layer.shape / 2, n = samples * tiles;
  const Items<R> items(layer.given, n, channels, channel);
  double sum = 0.0, high = -infinity<double>();
  i64 count = 0;
  bool finite = true;
#pragma unroll 1
  for (i64 item = sample * tiles; item < (sample + 1) * tiles; ++item) {
    const int seen = items.count(item, COUNT), exponent = items.exponent(item);
    finite = finite && items.count(item, NONFINITE) == 0;
    if (seen == 0) continue;
    double first = items.real(item, S1);
    if (exponent != 0) first *= power_of_two(exponent);
    sum += items.real(item, PIVOT) * seen + first;
    high = larger(high, items.real(item, HIGH));
    count += seen;
  }
  const double nothing = __longlong_as_double(0x7ff8000000000000LL);
  Seen s = {nothing, nothing};
  if (finite && count > 0) s.mean = sum / double(count), s.high = high;
  return s;
}

template <class T> NAA_DEVICE void put(const SamplesArgs& a, const SamplesLayer& layer, i64 channel, i64 sample, Seen s) {
  T* mean = reinterpret_cast<T*>(a.out) + sample * a.width + layer.column + channel;
  if (a.call > 0) s.mean += double(mean[0]);
  if (layer.last > 3) s.mean /= double(layer.last / 2);
  mean[0] = T(s.mean);
  if ((layer.last & 1) == 0) return;
  T* high = mean + layer.channels;
  if (a.call > 0) {
    const double before = double(high[0]);
    if (s.high == s.high && !(before <= s.high)) s.high = before;  // a NaN stays
  }
  high[0] = T(s.high);
}

// A block takes 32 neurons of one layer and 64 samples; a lane a neuron, a warp every eighth sample.
extern "C" __global__ void __launch_bounds__(256) samples(const __grid_constant__ SamplesArgs a) {
  const i64 block = blockIdx.x;
  const int at = layer_at(a, block);
  const SamplesLayer layer = a.layer[at];
  const i64 across = (layer.channels + NEURONS - 1) / NEURONS, own = block - layer.first;
  const i64 channel = own % across * NEURONS + threadIdx.x % NEURONS, start = own / across * SAMPLES;
  if (channel >= layer.channels) return;
  const bool closes = at == 0 && channel == 0;  // writes the column of zeros
  for (i64 sample = start + threadIdx.x / NEURONS; sample < start + SAMPLES && sample < a.samples; sample += 8) {
    Seen s;
    if (layer.shape < 0) {
      s.mean = s.high = value_at(layer.given, -1 - layer.shape, sample * layer.channels + channel);
    } else {
      s = layer.shape & 1 ? seen_in<double>(layer, a.samples, channel, sample) : seen_in<float>(layer, a.samples, channel, sample);
    }
    if (a.wide) put<double>(a, layer, channel, sample, s);
    else put<float>(a, layer, channel, sample, s);
    const i64 end = (sample + 1) * a.width - 1;
    if (closes && a.wide) reinterpret_cast<double*>(a.out)[end] = 0.0;
    if (closes && !a.wide) reinterpret_cast<float*>(a.out)[end] = 0.0f;
  }
}
