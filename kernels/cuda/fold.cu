// fold: the items of every layer of a batch enter the layers' states, in a fixed order, in double.
//
// A block takes 32 neurons of one layer; its warp j takes fold j, so the folds come free. An item's sums are carried from its
// own pivot to one of the batch, which needs no division, and each view then enters the state by one merge.
#include "common.cuh"

static const int LAYERS = 84;  // a table of 4,032 bytes: kernel parameters may hold 4,096 on every driver
static const int NEURONS = 32;

struct FoldLayer {
  i64 items;     // address of the layer's partials: reals, then counts
  i64 state;     // address of 8-byte words, each [channels]: moments, counts, folds (records.LayerRecord.packed)
  i64 channels;
  i64 samples;   // items are samples * tiles; -1: items are tiles of folds
  i64 shape;     // tiles * 2 + (1 if the reals are double)
  i64 first;     // the layer's first block
};

struct FoldArgs {
  i64 layers, phase;
  FoldLayer layer[LAYERS];
};

// Fields by name, here and below: with arrays of counts and loops over them the kernel spilled, on sm_75 to 90 (48 bytes of stack)
// or on 100 and 120 (56 and 88), by the order of the loads.
struct Loaded {
  double pivot, s1, s2, s3, s4, low, high;
  int count, positives, nonfinite;
};

template <class R> NAA_DEVICE Loaded loaded(const Items<R>& items, i64 item) {
  Loaded t;
  t.pivot = items.real(item, PIVOT), t.s1 = items.real(item, S1), t.s2 = items.real(item, S2);
  t.s3 = items.real(item, S3), t.s4 = items.real(item, S4), t.low = items.real(item, LOW), t.high = items.real(item, HIGH);
  t.count = items.count(item, COUNT), t.positives = items.count(item, POSITIVES), t.nonfinite = items.count(item, NONFINITE);
  const int exponent = items.exponent(item);
  if (exponent != 0) {
    const double unit = power_of_two(exponent), unit2 = unit * unit;
    t.s1 *= unit, t.s2 *= unit2, t.s3 *= unit2 * unit, t.s4 *= unit2 * unit2;
  }
  return t;
}

// Observations of one view in one fold of one batch, their powers around a pivot kept beside.
struct View {
  double s1, s2, s3, s4, low, high;
  unsigned count, positives, nonfinite;  // the launcher refuses a batch with more than 2^32 positions a neuron

  NAA_DEVICE void clear() {
    s1 = s2 = s3 = s4 = 0.0;
    low = infinity<double>(), high = -infinity<double>();
    count = positives = nonfinite = 0;
  }
  // `d`: the value's distance to the pivot.
  NAA_DEVICE void observe(double value, double d) {
    const double q = d * d;
    s1 += d, s2 += q, s3 += q * d, s4 += q * q;
    low = smaller(low, value), high = larger(high, value);
    ++count;
    positives += value > 0.0;
  }
  // All of `t`, whose pivot lies `b` above this one's. Returns its first power.
  NAA_DEVICE double observe(const Loaded& t, double b) {
    const double n = t.count, first = t.s1 + n * b;
    s1 += first;
    s2 += t.s2 + b * (2.0 * t.s1 + n * b);
    s3 += t.s3 + b * (3.0 * t.s2 + b * (3.0 * t.s1 + n * b));
    s4 += t.s4 + b * (4.0 * t.s3 + b * (6.0 * t.s2 + b * (4.0 * t.s1 + n * b)));
    low = smaller(low, t.low), high = larger(high, t.high);
    count += t.count, positives += t.positives, nonfinite += t.nonfinite;
    return first;
  }
};

// The same over folds.
struct Total {
  double s1, s2, s3, s4, low, high;
  i64 count, positives, nonfinite;

  NAA_DEVICE void clear() {
    s1 = s2 = s3 = s4 = 0.0;
    low = infinity<double>(), high = -infinity<double>();
    count = positives = nonfinite = 0;
  }
};

struct Merged {
  double count, mean, m2, m3, m4;
};

NAA_DEVICE Merged central(const Total& v, double pivot) {
  Merged m;
  const double n = double(v.count), b = v.count > 0 ? v.s1 / n : 0.0, b2 = b * b;
  m.count = n;
  m.mean = v.count > 0 ? pivot + b : 0.0;
  m.m2 = larger(v.s2 - n * b2, 0.0);
  m.m3 = v.s3 - 3.0 * b * v.s2 + 2.0 * n * b2 * b;
  m.m4 = larger(v.s4 - 4.0 * b * v.s3 + 6.0 * b2 * v.s2 - 3.0 * n * b2 * b2, 0.0);
  return m;
}

// records.Moments.merge, term for term: a constant stays exactly constant.
NAA_DEVICE Merged merge(const Merged& a, const Merged& b) {
  Merged m;
  m.count = a.count + b.count;
  const double n = larger(m.count, 1.0);
  const double delta = a.count > 0.0 && b.count > 0.0 ? b.mean - a.mean : 0.0;
  const double share_a = a.count / n, share_b = b.count / n, both = a.count * share_b, delta2 = delta * delta;
  const double skew = share_a - share_b;
  m.mean = b.mean == a.mean ? a.mean : share_a * a.mean + share_b * b.mean;
  m.m2 = (a.m2 + b.m2) + delta2 * both;
  m.m3 = (a.m3 + b.m3) + delta2 * delta * both * skew + 3.0 * delta * (share_a * b.m2 - share_b * a.m2);
  m.m4 = (a.m4 + b.m4) + delta2 * delta2 * both * (skew * skew + share_a * share_b) +
         6.0 * delta2 * (share_a * share_a * b.m2 + share_b * share_b * a.m2) +
         4.0 * delta * (share_a * b.m3 - share_b * a.m3);
  return m;
}

// One neuron's words of the state.
struct State {
  double* moments;
  i64* counts;
  double* folds;
  i64 channels;

  NAA_DEVICE void add_view(int view, const Total& v, double pivot) const {
    double* real = moments + view * MOMENTS * channels;
    i64* integer = counts + view * COUNTED * channels;
    Merged old;
    old.count = double(integer[0]), old.mean = real[0];
    old.m2 = real[channels], old.m3 = real[2 * channels], old.m4 = real[3 * channels];
    const Merged m = merge(old, central(v, pivot));
    real[0] = m.mean, real[channels] = m.m2, real[2 * channels] = m.m3, real[3 * channels] = m.m4;
    real[4 * channels] = smaller(real[4 * channels], v.low);
    real[5 * channels] = larger(real[5 * channels], v.high);
    integer[0] += v.count, integer[channels] += v.positives, integer[2 * channels] += v.nonfinite;
  }
  NAA_DEVICE void add_fold(int which, int fold, const Total& v, double pivot) const {
    double* real = folds + (which * 3 * FOLDS + fold) * channels;
    const i64 field = FOLDS * channels;
    Merged old;
    old.count = real[0], old.mean = real[field], old.m2 = real[2 * field], old.m3 = old.m4 = 0.0;
    const Merged m = merge(old, central(v, pivot));
    real[0] = m.count, real[field] = m.mean, real[2 * field] = m.m2;
  }
};

// One sample over its tiles: the distance of its mean to `pivot`, and its maximum.
struct Sample {
  double d, high;
  int count;
};

template <class R> NAA_DEVICE Sample sample_of(const Items<R>& items, int sample, int tiles, double pivot) {
  Sample s = {0.0, -infinity<double>(), 0};
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    const Loaded t = loaded(items, i64(sample) * tiles + tile);
    if (t.count > 0) s.d += t.s1 + double(t.count) * (t.pivot - pivot);
    s.high = larger(s.high, t.high);
    s.count += t.count;
  }
  s.d *= 1.0 / double(s.count > 0 ? s.count : 1);
  return s;
}

NAA_DEVICE double middle(double a, double b, double c) { return larger(smaller(a, b), smaller(larger(a, b), c)); }

// A value of the batch near its middle: the median of three spread items' pivots, or that of the first with observations.
template <class R> NAA_DEVICE double batch_pivot(const Items<R>& items, i64 n) {
  double found[3], only = 0.0;
  bool held[3], any = false;
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const i64 item = n * (2 * c + 1) / 6;
    held[c] = item < n && items.count(item, COUNT) > 0;
    found[c] = held[c] ? items.real(item, PIVOT) : 0.0;
    if (held[c] && !any) only = found[c], any = true;
  }
  if (held[0] && held[1] && held[2]) return middle(found[0], found[1], found[2]);
  for (i64 item = 0; !any && item < n; ++item)
    if (items.count(item, COUNT) > 0) only = items.real(item, PIVOT), any = true;
  return only;
}

// The same for the samples' means (as distances to `pivot`) and maxima: values that were observed, so that the powers around
// them lose nothing even when there are only a few samples.
template <class R> NAA_DEVICE void sample_pivots(const Items<R>& items, int samples, int tiles, double pivot, double& d, double& high) {
  Sample found[3];
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const int sample = int(i64(samples) * (2 * c + 1) / 6);
    found[c].count = 0;
    if (sample < samples) found[c] = sample_of(items, sample, tiles, pivot);
  }
  if (found[0].count > 0 && found[1].count > 0 && found[2].count > 0) {
    d = middle(found[0].d, found[1].d, found[2].d);
    high = middle(found[0].high, found[1].high, found[2].high);
    return;
  }
  Sample only = found[0].count > 0 ? found[0] : found[1].count > 0 ? found[1] : found[2];
  for (int sample = 0; only.count == 0 && sample < samples; ++sample) only = sample_of(items, sample, tiles, pivot);
  if (only.count > 0) d = only.d, high = only.high;
}

// What a warp has gathered for its fold, a neuron a lane, and the pivots its powers are around.
struct Gathered {
  View positions, means, maxima;
  double pivot, centre, top;  // of positions; of means, as a distance to it; of maxima
};

// Warp `fold` reads its items of `channel`: tiles of its fold, or the tiles of its samples.
template <class R> NAA_DEVICE void gather(const FoldLayer& layer, i64 phase, i64 channel, int fold, Gathered& g) {
  const int tiles = int(layer.shape / 2);
  const bool per_sample = layer.samples >= 0;
  const i64 n = per_sample ? layer.samples * tiles : tiles;
  const Items<R> items(layer.items, n, layer.channels, channel);

  g.pivot = batch_pivot(items, n);
  if (!per_sample) {
    for (int item = fold; item < tiles; item += FOLDS) {
      const Loaded t = loaded(items, item);
      g.positions.observe(t, t.count > 0 ? t.pivot - g.pivot : 0.0);
    }
    return;
  }
  sample_pivots(items, int(layer.samples), tiles, g.pivot, g.centre, g.top);
  const int samples = int(layer.samples), oldest = int(phase) / FOLD_BLOCK;
  // The first block of 8 samples that is this warp's.
  int from = (oldest + (fold - oldest % FOLDS + FOLDS) % FOLDS) * FOLD_BLOCK - int(phase);
  int reciprocal_of = 1;
  double reciprocal = 1.0;
  for (; from < samples; from += FOLDS * FOLD_BLOCK) {
    const int stop = from + FOLD_BLOCK < samples ? from + FOLD_BLOCK : samples;
    for (int sample = from < 0 ? 0 : from; sample < stop; ++sample) {
      int count = 0, nonfinite = 0;
      double first = 0.0, high = -infinity<double>();
#pragma unroll 1  // registers: two blocks an SM
      for (int tile = 0; tile < tiles; ++tile) {
        const Loaded t = loaded(items, i64(sample) * tiles + tile);
        first += g.positions.observe(t, t.count > 0 ? t.pivot - g.pivot : 0.0);
        high = larger(high, t.high);
        count += t.count, nonfinite += t.nonfinite;
      }
      if (count > 0) {
        if (count != reciprocal_of) reciprocal_of = count, reciprocal = 1.0 / count;
        const double d = first * reciprocal;
        g.means.observe(g.pivot + d, d - g.centre);
        g.maxima.observe(high, high - g.top);
      } else if (nonfinite > 0) {
        ++g.means.nonfinite, ++g.maxima.nonfinite;
      }
    }
  }
}

// What the warps of a block have gathered, so that nobody holds it in registers while it is merged. 45 of the 48 KB a block may
// have: a count more fits, a moment more only a view at a time.
struct Shared {
  double reals[3][MOMENTS][FOLDS][NEURONS];
  unsigned counts[3][COUNTED][FOLDS][NEURONS];

  NAA_DEVICE void put(int view, int fold, int lane, const View& v) {
    const double real[6] = {v.s1, v.s2, v.s3, v.s4, v.low, v.high};
    const unsigned count[3] = {v.count, v.positives, v.nonfinite};
#pragma unroll
    for (int i = 0; i < 6; ++i) reals[view][i][fold][lane] = real[i];
#pragma unroll
    for (int i = 0; i < 3; ++i) counts[view][i][fold][lane] = count[i];
  }
  NAA_DEVICE void get(int view, int fold, int lane, Total& t) const {
    t.s1 += reals[view][0][fold][lane], t.s2 += reals[view][1][fold][lane];
    t.s3 += reals[view][2][fold][lane], t.s4 += reals[view][3][fold][lane];
    t.low = smaller(t.low, reals[view][4][fold][lane]), t.high = larger(t.high, reals[view][5][fold][lane]);
    t.count += counts[view][0][fold][lane], t.positives += counts[view][1][fold][lane];
    t.nonfinite += counts[view][2][fold][lane];
  }
};

// Two blocks an SM: the items of many layers are waited for, and registers are what limits how many can be.
extern "C" __global__ void __launch_bounds__(NEURONS * FOLDS, 2) fold(const FoldArgs a) {
  __shared__ Shared shared;
  const i64 block = blockIdx.x;
  const FoldLayer layer = a.layer[layer_at(a, block)];
  const int lane = threadIdx.x % NEURONS, fold = threadIdx.x / NEURONS;
  const i64 channel = (block - layer.first) * NEURONS + lane;
  const bool live = channel < layer.channels, per_sample = layer.samples >= 0;

  double pivot[3];  // of each view
  {
    Gathered g;
    g.positions.clear(), g.means.clear(), g.maxima.clear();
    g.pivot = g.centre = g.top = 0.0;
    if (live && (layer.shape & 1)) gather<double>(layer, a.phase, channel, fold, g);
    if (live && !(layer.shape & 1)) gather<float>(layer, a.phase, channel, fold, g);
    shared.put(0, fold, lane, g.positions);
    // One position a sample: it is the sample's mean and maximum.
    shared.put(1, fold, lane, per_sample ? g.means : g.positions);
    shared.put(2, fold, lane, per_sample ? g.maxima : g.positions);
    pivot[0] = g.pivot, pivot[1] = g.pivot + g.centre, pivot[2] = per_sample ? g.top : g.pivot;
  }
  __syncthreads();
  if (!live) return;

  State state;
  state.moments = reinterpret_cast<double*>(layer.state) + channel;
  state.counts = reinterpret_cast<i64*>(layer.state) + 3 * MOMENTS * layer.channels + channel;
  state.folds = reinterpret_cast<double*>(layer.state) + 3 * (MOMENTS + COUNTED) * layer.channels + channel;
  state.channels = layer.channels;
#pragma unroll 1
  for (int view = 0; view < 3; ++view) {
    const double around = view == 0 ? pivot[0] : view == 1 ? pivot[1] : pivot[2];
    if (view > 0) {
      Total own;
      own.clear();
      shared.get(view, fold, lane, own);
      state.add_fold(view - 1, fold, own, around);
    }
    if (fold != view) continue;
    Total all;
    all.clear();
    for (int f = 0; f < FOLDS; ++f) shared.get(view, f, lane, all);
    state.add_view(view, all, around);
  }
}
