// tally: every sample's mean and maximum is counted in its bin of the neuron's histogram (records.bin_of).
//
// Integer atomics alone: additions of integers give the same sum in any order, so the same input gives the same bits.
#include "common.cuh"

static const int LAYERS = 84;  // a table of 4,032 bytes: kernel parameters may hold 4,096 on every driver
static const int NEURONS = 32;
static const int SAMPLES = 64;  // a block: 8 warps, 8 samples each
static const int BINS = 255, MIDDLE = 127, LEFT_OUT = 255;
static const int BELOW = 439;  // (127 - 17) * 4 - 1: the topmost bits of the largest magnitude in the bin around zero

// An infinity comes from a double beyond float: it is finite, and belongs outermost. Subnormals are around zero either way.
NAA_DEVICE int bin_of(float x) {
  const unsigned bits = __float_as_uint(x);
  int steps = int((bits & 0x7fffffffu) >> 21) - BELOW;
  steps = steps < 0 ? 0 : steps > MIDDLE ? MIDDLE : steps;
  return bits >> 31 ? MIDDLE - steps : MIDDLE + steps;
}

struct BinsArgs {
  i64 x, mask, out;  // addresses: Element [samples, channels], bool [samples] or 0, bytes [samples, channels]
  i64 samples, channels, stride_sample, stride_channel;
};

// A thread a value.
extern "C" __global__ void __launch_bounds__(256) bins(const BinsArgs a) {
  const i64 at = i64(blockIdx.x) * 256 + threadIdx.x;
  if (at >= a.samples * a.channels) return;
  const i64 sample = at / a.channels, channel = at - sample * a.channels;
  const Element* x = reinterpret_cast<const Element*>(a.x);
  const unsigned char* mask = reinterpret_cast<const unsigned char*>(a.mask);
  const Real value = to_real(x[sample * a.stride_sample + channel * a.stride_channel]);
  const bool kept = is_finite(value) && (a.mask == 0 || mask[sample] != 0);
  reinterpret_cast<unsigned char*>(a.out)[at] = (unsigned char)(kept ? bin_of(float(value)) : LEFT_OUT);
}

struct TallyLayer {
  i64 items;      // address of the layer's partials (common.cuh), or of its bins: bytes [samples, channels]
  i64 histogram;  // address of int [2, BINS, channels], of bins [1, BINS, channels]
  i64 channels, samples;
  i64 shape;      // tiles a sample * 2 + (1 if the reals are double); -1: bins
  i64 first;      // the layer's first block
};

struct TallyArgs {
  i64 layers, unused;
  TallyLayer layer[LAYERS];
};

template <class R> NAA_DEVICE void tally_items(const TallyLayer& layer, i64 channel, i64 sample, int* histogram) {
  const i64 channels = layer.channels, tiles = layer.shape / 2, n = layer.samples * tiles;
  const Items<R> items(layer.items, n, channels, channel);
  double sum = 0.0, high = -infinity<double>();
  i64 count = 0;
  for (i64 item = sample * tiles; item < (sample + 1) * tiles; ++item) {
    const int seen = items.count(item, COUNT);
    if (seen == 0) continue;
    const int exponent = items.exponent(item);
    double first = items.real(item, S1);
    if (exponent != 0) first *= power_of_two(exponent);
    sum += items.real(item, PIVOT) * seen + first;
    high = larger(high, items.real(item, HIGH));
    count += seen;
  }
  if (count == 0) return;
  const double mean = sum / double(count);
  if (is_finite(mean)) atomicAdd(histogram + bin_of(float(mean)) * channels + channel, 1);
  atomicAdd(histogram + (BINS + bin_of(float(high))) * channels + channel, 1);
}

// A block takes 32 neurons of one layer and 64 samples; a lane a neuron, a warp every eighth sample.
extern "C" __global__ void __launch_bounds__(256) tally(const TallyArgs a) {
  const i64 block = blockIdx.x;
  const TallyLayer layer = a.layer[layer_at(a, block)];
  const i64 across = (layer.channels + NEURONS - 1) / NEURONS, own = block - layer.first;
  const i64 channel = own % across * NEURONS + threadIdx.x % NEURONS, start = own / across * SAMPLES;
  if (channel >= layer.channels) return;
  int* histogram = reinterpret_cast<int*>(layer.histogram);
  for (i64 sample = start + threadIdx.x / NEURONS; sample < start + SAMPLES && sample < layer.samples; sample += 8) {
    if (layer.shape < 0) {
      const int chosen = reinterpret_cast<const unsigned char*>(layer.items)[sample * layer.channels + channel];
      if (chosen != LEFT_OUT) atomicAdd(histogram + chosen * layer.channels + channel, 1);
    } else if (layer.shape & 1) {
      tally_items<double>(layer, channel, sample, histogram);
    } else {
      tally_items<float>(layer, channel, sample, histogram);
    }
  }
}
