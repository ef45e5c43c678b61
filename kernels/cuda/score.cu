// score: how far each sample lies outside the clean distribution, summed over a layer's neurons in a fixed order.
#include "common.cuh"

static const int BLOCK = 256;

struct ScoreArgs {
  i64 values, mean, deviation, out;  // addresses: Element [samples, channels], double [channels] twice, double [samples]
  i64 samples, channels, stride_sample, stride_channel;
};

// A block a sample. Division and sum in double, as in the definition: an audit ranks samples by the last digits of a tail.
extern "C" __global__ void __launch_bounds__(BLOCK) score(const ScoreArgs a) {
  __shared__ double pool[BLOCK];
  const double cut = 3.0;
  const Element* values = reinterpret_cast<const Element*>(a.values) + i64(blockIdx.x) * a.stride_sample;
  const double* mean = reinterpret_cast<const double*>(a.mean);
  const double* deviation = reinterpret_cast<const double*>(a.deviation);
  double total = 0.0;
  for (i64 c = threadIdx.x; c < a.channels; c += BLOCK) {
    const Real value = to_real(values[c * a.stride_channel]);
    const double scale = deviation[c];
    if (!is_finite(value)) {
      total = infinity<double>();
    } else if (scale > 0.0) {
      const double z = fabs(double(value) - mean[c]) / scale;
      if (!(z <= cut)) total += z - cut;  // a NaN in the clean statistics stays a NaN
    }
  }
  pool[threadIdx.x] = total;
  __syncthreads();
  for (int half = BLOCK / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) pool[threadIdx.x] += pool[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) reinterpret_cast<double*>(a.out)[blockIdx.x] = pool[0];
}
