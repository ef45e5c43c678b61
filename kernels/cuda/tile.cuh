// One tile of one neuron: power sums around a pivot, extremes, counts, and the item they are written to.
//
// All that `reduce` knows of a single statistic stands here: how a lane keeps it and observes a value (`Extremes`; of two 16-bit
// values at once `PackedExtremes`; value by value `Careful`), and how lanes that share a tile join theirs (`Sums::item`,
// `Careful::join`). rows.cuh and planes.cuh move data and say how lanes meet.
#ifndef NAA_TILE
#define NAA_TILE

#include "common.cuh"

// 8-byte fields only, so that host and device agree on the layout without a thought. Strides are in elements.
struct ReduceArgs {
  i64 x, mask, reals, counts;  // addresses; mask 0: everything was observed
  i64 outer, channels, inner;
  i64 stride_outer, stride_channel, stride_inner;
  i64 tiles;   // inner == 1: tiles of the batch, a multiple of FOLDS; else tiles of a sample
  i64 length;  // inner > 1: positions a tile
  i64 width;   // rows: lanes along the channels, a power of two <= 32; planes: lanes a tile, likewise
  i64 team;    // rows: 1 if the position lanes of a block share an item, 0 if each has its own
  i64 groups;  // rows: blocks along the channels
  i64 phase;   // global index of the first sample modulo FOLDS * FOLD_BLOCK
  i64 low, high;  // planes: the tensor's first byte and the one after its last
  i64 kept;       // rows, inner == 1: address of Element [outer, channels] that takes a copy (NaN where masked), or 0
};

NAA_DEVICE i64 items_of(const ReduceArgs& a) { return a.inner == 1 ? a.tiles : a.outer * a.tiles; }

template <class R> struct Powers {
  R s1, s2, s3, s4;

  NAA_DEVICE void clear() { s1 = s2 = s3 = s4 = R(0); }
  // No test for NaN: what is not finite, or too large, shows in s4 and sends the tile to the careful path.
  NAA_DEVICE void observe(R x, R pivot) {
    const R d = subtract(x, pivot);
    const R q = multiply(d, d);
    s1 = add(s1, d);
    s2 = add(s2, q);
    s3 = fused(q, d, s3);
    s4 = fused(q, q, s4);
  }
};

// Minimum, maximum and positives of V elements at a time; N == V: a neuron each, N == 1: all of one neuron.
template <int V, int N> struct Extremes {
  Real low[N], high[N];
  int positives[N];

  NAA_DEVICE void clear() {
#pragma unroll
    for (int n = 0; n < N; ++n) low[n] = infinity<Real>(), high[n] = -infinity<Real>(), positives[n] = 0;
  }
  NAA_DEVICE void observe(const Vec<V>& v) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const int n = N == 1 ? 0 : i;
      const Real x = v.get(i);
      low[n] = smaller(low[n], x);
      high[n] = larger(high[n], x);
      positives[n] += x > Real(0);
    }
  }
  NAA_DEVICE Real minimum(int n) const { return low[n]; }
  NAA_DEVICE Real maximum(int n) const { return high[n]; }
  NAA_DEVICE int positive(int n) const { return positives[n]; }
};

#if NAA_DTYPE >= 2
#if NAA_DTYPE == 2
typedef __half2 Pair;
#else
typedef __nv_bfloat162 Pair;
#endif
template <class T> NAA_DEVICE T as(unsigned word) {
  static_assert(sizeof(T) == 4, "one word");
  return *reinterpret_cast<T*>(&word);
}
template <class T> NAA_DEVICE unsigned word_of(T pair) { return *reinterpret_cast<unsigned*>(&pair); }

// Two 16-bit elements an instruction: 10 instructions an element in place of 13. A count lives in half precision, exact up
// to 2048 additions (a lane sees at most 512). Positive bfloat16 bits are positive as half bits too, but for those from 2^121
// up, which are NaN there: such tiles go to the careful path (`plain`).
template <int V, int N> struct PackedExtremes {
  static const int WORDS = N == 1 ? 1 : V / 2;
  Pair low[WORDS], high[WORDS];
  __half2 positives[WORDS];

  NAA_DEVICE void clear() {
    const unsigned top = NAA_DTYPE == 2 ? 0x7c007c00u : 0x7f807f80u;  // +infinity twice
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
      low[w] = as<Pair>(top), high[w] = as<Pair>(top | 0x80008000u), positives[w] = as<__half2>(0u);
    }
  }
  NAA_DEVICE void observe(const Vec<V>& v) {
#pragma unroll
    for (int i = 0; i < V / 2; ++i) {
      const int w = N == 1 ? 0 : i;
      low[w] = __hmin2(low[w], as<Pair>(v.word[i]));
      high[w] = __hmax2(high[w], as<Pair>(v.word[i]));
      positives[w] = __hadd2(positives[w], __hgt2(as<__half2>(v.word[i]), as<__half2>(0u)));
    }
  }
  template <class T> NAA_DEVICE static Real half_of(T pair, int side) {
    return to_real((unsigned short)(word_of(pair) >> (side * 16)));
  }
  NAA_DEVICE Real minimum(int n) const {
    const Real a = half_of(low[n / 2], n % 2);
    return N == 1 ? smaller(a, half_of(low[0], 1)) : a;
  }
  NAA_DEVICE Real maximum(int n) const {
    const Real a = half_of(high[n / 2], n % 2);
    return N == 1 ? larger(a, half_of(high[0], 1)) : a;
  }
  NAA_DEVICE int positive(int n) const {
    const float2 both = __half22float2(positives[n / 2]);
    return N == 1 ? int(both.x) + int(both.y) : int(n % 2 ? both.y : both.x);
  }
};
template <> struct Extremes<8, 8> : PackedExtremes<8, 8> {};
template <> struct Extremes<8, 1> : PackedExtremes<8, 1> {};
template <> struct Extremes<4, 4> : PackedExtremes<4, 4> {};
template <> struct Extremes<4, 1> : PackedExtremes<4, 1> {};
#endif

// How two lanes' values of a field become one; Same: all lanes hold the same.
struct Add { template <class T> NAA_DEVICE T operator()(T a, T b) const { return add(a, b); } };
struct Smaller { template <class T> NAA_DEVICE T operator()(T a, T b) const { return smaller(a, b); } };
struct Larger { template <class T> NAA_DEVICE T operator()(T a, T b) const { return larger(a, b); } };
struct Same { template <class T> NAA_DEVICE T operator()(T a, T) const { return a; } };

// A tile's finished sums, ready to be written.
struct Item {
  Real reals[REALS];
  int counts[HALVES];

  NAA_DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < REALS; ++i) reals[i] = Real(0);
#pragma unroll
    for (int i = 0; i < HALVES; ++i) counts[i] = 0;
    reals[LOW] = infinity<Real>(), reals[HIGH] = -infinity<Real>();
  }
  NAA_DEVICE bool empty() const { return counts[COUNT] == 0; }
};

// What one lane knows of its tile, of N neurons.
template <int V, int N> struct Sums {
  Real pivot[N];
  Powers<Real> powers[N];
  Extremes<V, N> extremes;
  int observed, fillers;  // elements of each neuron; of them those that only fill a vector and equal the pivot

  NAA_DEVICE void clear() {
#pragma unroll
    for (int n = 0; n < N; ++n) powers[n].clear();
    extremes.clear();
    observed = fillers = 0;
  }
  NAA_DEVICE void observe(const Vec<V>& v) {
    extremes.observe(v);
#pragma unroll
    for (int i = 0; i < V; ++i) powers[N == 1 ? 0 : i].observe(v.get(i), pivot[N == 1 ? 0 : i]);
  }

  // The item of a tile: `over(field, join)` joins field(n) of the lanes that share it, n being the lane's number of the neuron.
  // A filler adds nothing to the sums and moves no extreme, but it counts as positive if the pivot does.
  template <class Over> NAA_DEVICE Item item(Over&& over) const {
    Item t;
    t.reals[S1] = over([&](int n) { return powers[n].s1; }, Add());
    t.reals[S2] = over([&](int n) { return powers[n].s2; }, Add());
    t.reals[S3] = over([&](int n) { return powers[n].s3; }, Add());
    t.reals[S4] = over([&](int n) { return powers[n].s4; }, Add());
    t.reals[LOW] = over([&](int n) { return extremes.minimum(n); }, Smaller());
    t.reals[HIGH] = over([&](int n) { return extremes.maximum(n); }, Larger());
    t.reals[PIVOT] = over([&](int n) { return pivot[n]; }, Same());
    t.counts[COUNT] = over([&](int) { return observed - fillers; }, Add());
    t.counts[POSITIVES] = over([&](int n) { return extremes.positive(n) - (pivot[n] > Real(0) ? fillers : 0); }, Add());
    t.counts[NONFINITE] = t.counts[EXPONENT] = 0;
    return t;
  }
};

// The middle one, so that no single outlier becomes the pivot; NaN and infinities stand aside, and 0 says there was none.
NAA_DEVICE Real median(Real a, Real b, Real c) {
  const bool fa = is_finite(a), fb = is_finite(b), fc = is_finite(c);
  if (fa && fb && fc) return larger(smaller(a, b), smaller(larger(a, b), c));
  return fa ? a : fb ? b : fc ? c : Real(0);
}

// Whether the fast path's sums can be trusted: everything finite, and fourth powers neither above nor below the range of
// the format (a tile of one value is exact, however small). The bound on the extremes: see PackedExtremes.
NAA_DEVICE bool plain(const Item& t) {
  if (t.empty()) return true;
  const Real tiny = sizeof(Real) == 4 ? Real(1e-30) : Real(1e-280);
  const Real huge = sizeof(Real) == 4 ? Real(1e36) : Real(1e300);
  const Real s4 = t.reals[S4], low = t.reals[LOW], high = t.reals[HIGH];
  return s4 < infinity<Real>() && high < huge && low > -huge && (s4 >= tiny || low == high);
}

NAA_DEVICE void write(const ReduceArgs& a, i64 item, i64 channel, const Item& t) {
  Real* reals = reinterpret_cast<Real*>(a.reals) + item * REALS * a.channels + channel;
  unsigned* counts = reinterpret_cast<unsigned*>(a.counts) + item * COUNTS * a.channels + channel;
#pragma unroll
  for (int i = 0; i < REALS; ++i) reals[i * a.channels] = t.reals[i];
#pragma unroll
  for (int i = 0; i < HALVES; i += 2) {
    const unsigned first = unsigned(t.counts[i]) & 0xffffu, second = i + 1 < HALVES ? unsigned(t.counts[(i + 1) % HALVES]) : 0u;
    counts[i / 2 * a.channels] = first | second << 16;
  }
}

// The careful path: every value tested, sums in double around the first finite value.
struct Careful {
  Powers<double> powers;
  Real low, high;
  int counts[COUNTED];

  NAA_DEVICE void clear() {
    powers.clear();
    low = infinity<Real>(), high = -infinity<Real>();
#pragma unroll
    for (int i = 0; i < COUNTED; ++i) counts[i] = 0;
  }
  NAA_DEVICE void observe(Real x, Real pivot) {
    if (!is_finite(x)) {
      ++counts[NONFINITE];
      return;
    }
    powers.observe(double(x), double(pivot));
    low = smaller(low, x), high = larger(high, x);
    ++counts[COUNT];
    counts[POSITIVES] += x > Real(0);
  }

  // With what the other lanes of the tile have seen: `over(value, join)`.
  template <class Over> NAA_DEVICE void join(Over&& over) {
    powers.s1 = over(powers.s1, Add()), powers.s2 = over(powers.s2, Add());
    powers.s3 = over(powers.s3, Add()), powers.s4 = over(powers.s4, Add());
    low = over(low, Smaller()), high = over(high, Larger());
#pragma unroll
    for (int i = 0; i < COUNTED; ++i) counts[i] = over(counts[i], Add());
  }

  // Around the mean, so that rounding the sums to Real costs nothing, and in units of 2^exponent, so that they fit.
  NAA_DEVICE Item finish(Real pivot) const {
    Item t;
    t.clear();
#pragma unroll
    for (int i = 0; i < COUNTED; ++i) t.counts[i] = counts[i];
    if (counts[COUNT] == 0) return t;
    t.reals[LOW] = low, t.reals[HIGH] = high;
    const double n = counts[COUNT];
    t.reals[PIVOT] = low == high ? low : Real(add(double(pivot), powers.s1 / n));
    if (low == high) return t;
    const double centre = double(t.reals[PIVOT]);
    const double b = subtract(double(pivot), centre), b2 = multiply(b, b);
    double s1 = fused(n, b, powers.s1);
    double s2 = add(powers.s2, fused(multiply(2.0, b), powers.s1, multiply(n, b2)));
    double s3 = add(powers.s3, multiply(b, fused(3.0, powers.s2, multiply(b, fused(3.0, powers.s1, multiply(n, b))))));
    double s4 = add(fused(multiply(4.0, b), powers.s3, powers.s4),
                    multiply(b2, fused(6.0, powers.s2, multiply(b, fused(4.0, powers.s1, multiply(n, b))))));
    if (sizeof(Real) == 4) {
      const int exponent = exponent_of(larger(subtract(double(high), centre), subtract(centre, double(low))));
      t.counts[EXPONENT] = exponent;
      const double unit = power_of_two(-exponent), unit2 = multiply(unit, unit);
      s1 = multiply(s1, unit), s2 = multiply(s2, unit2);
      s3 = multiply(s3, multiply(unit2, unit)), s4 = multiply(s4, multiply(unit2, unit2));
    }
    t.reals[S1] = Real(s1), t.reals[S2] = Real(s2), t.reals[S3] = Real(s3), t.reals[S4] = Real(s4);
    return t;
  }
};

#endif
