// What the kernels share: element types, arithmetic with its rounding spelled out, the layout of partials.
//
// NAA_DTYPE chooses the element type of a compilation (0 float32, 1 float64, 2 float16, 3 bfloat16). No host header is
// included and none may be: NVRTC compiles this, and g++ in the tests.
#ifndef NAA_COMMON
#define NAA_COMMON

#ifndef NAA_DTYPE
#define NAA_DTYPE 0
#endif
#if NAA_DTYPE >= 2
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

typedef long long i64;

#if NAA_DTYPE == 0
typedef float Element;
typedef float Real;
#elif NAA_DTYPE == 1
typedef double Element;
typedef double Real;
#else
typedef unsigned short Element;  // the bits: every use converts first
typedef float Real;
#endif

#define NAA_DEVICE __device__ __forceinline__
#define NAA_APART __device__ __noinline__
#define NAA_FULL_WARP 0xffffffffu

static const int FOLDS = 8;
static const int FOLD_BLOCK = 8;

// The fields of records.py, told by the launcher in its order (compile.py) and in capitals: the state has a word for each.
enum Moment { NAA_MOMENT_FIELDS, MOMENTS };
enum Count { NAA_COUNT_FIELDS, COUNTED };

// An item: a Real for the pivot and for every moment (of mean and m2 to m4 the power sum about the pivot), then 16 bits for every
// count and for the exponent of the sums' unit, two a word; each word [channels].
enum Sum { PIVOT, S1, S2, S3, S4, LOW, HIGH, REALS };
static_assert(REALS == 1 + MOMENTS, "a field of records.MOMENT_FIELDS has no word in an item");
static const int EXPONENT = COUNTED, HALVES = COUNTED + 1, COUNTS = (HALVES + 1) / 2;

// The rounding is part of the contract: a contracted multiply-add would differ between host, architectures and compilers.
NAA_DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
NAA_DEVICE float subtract(float a, float b) { return __fsub_rn(a, b); }
NAA_DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
NAA_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
NAA_DEVICE double add(double a, double b) { return __dadd_rn(a, b); }
NAA_DEVICE int add(int a, int b) { return a + b; }
NAA_DEVICE double subtract(double a, double b) { return __dsub_rn(a, b); }
NAA_DEVICE double multiply(double a, double b) { return __dmul_rn(a, b); }
NAA_DEVICE double fused(double a, double b, double c) { return __fma_rn(a, b, c); }
NAA_DEVICE float smaller(float a, float b) { return fminf(a, b); }
NAA_DEVICE float larger(float a, float b) { return fmaxf(a, b); }
NAA_DEVICE double smaller(double a, double b) { return fmin(a, b); }
NAA_DEVICE double larger(double a, double b) { return fmax(a, b); }

// NVRTC has no INFINITY.
template <class R> NAA_DEVICE R infinity();
template <> NAA_DEVICE float infinity<float>() { return __int_as_float(0x7f800000); }
template <> NAA_DEVICE double infinity<double>() { return __longlong_as_double(0x7ff0000000000000LL); }
template <class R> NAA_DEVICE bool is_finite(R x) { return x - x == R(0); }

// 2^exponent, and the exponent of x: for what lies in the normal range of double, as all differences of floats do.
NAA_DEVICE double power_of_two(int exponent) { return __longlong_as_double(i64(exponent + 1023) << 52); }
NAA_DEVICE int exponent_of(double x) { return int(__double_as_longlong(x) >> 52 & 0x7ff) - 1023; }

NAA_DEVICE Real to_real(Element x) {
#if NAA_DTYPE == 2
  return __half2float(__ushort_as_half(x));
#elif NAA_DTYPE == 3
  return __uint_as_float(unsigned(x) << 16);
#else
  return x;
#endif
}

// The inverse, for values that came from elements.
NAA_DEVICE Element to_element(Real x) {
#if NAA_DTYPE == 2
  return __half_as_ushort(__float2half_rn(x));
#elif NAA_DTYPE == 3
  return (unsigned short)(__float_as_uint(x) >> 16);
#else
  return x;
#endif
}

// V neighbouring elements, kept as the words that were loaded.
template <int V> struct Vec {
  static const int WORDS = V * sizeof(Element) < 4 ? 1 : int(V * sizeof(Element) / 4);
  unsigned word[WORDS];

  NAA_DEVICE Real get(int i) const {
#if NAA_DTYPE == 0
    return __uint_as_float(word[i]);
#elif NAA_DTYPE == 1
    return __hiloint2double(int(word[2 * i + 1]), int(word[2 * i]));
#elif NAA_DTYPE == 2
    return __half2float(__ushort_as_half((unsigned short)(word[i / 2] >> (i % 2 * 16))));
#else
    return __uint_as_float(i % 2 ? word[i / 2] & 0xffff0000u : word[i / 2] << 16);
#endif
  }

  NAA_DEVICE void set(int i, Element x) {
#if NAA_DTYPE == 0
    word[i] = __float_as_uint(x);
#elif NAA_DTYPE == 1
    word[2 * i] = unsigned(__double2loint(x));
    word[2 * i + 1] = unsigned(__double2hiint(x));
#else
    const unsigned half = unsigned(x) << (i % 2 * 16);
    word[i / 2] = (word[i / 2] & (i % 2 ? 0x0000ffffu : 0xffff0000u)) | half;
#endif
  }
};

// `p` must be aligned to the V elements.
template <int V> NAA_DEVICE Vec<V> load(const Element* p) {
  Vec<V> v;
  if (V * sizeof(Element) == 16) {
    const uint4 w = __ldg(reinterpret_cast<const uint4*>(p));
    v.word[0] = w.x, v.word[1 % v.WORDS] = w.y, v.word[2 % v.WORDS] = w.z, v.word[3 % v.WORDS] = w.w;
  } else if (V * sizeof(Element) == 8) {
    const uint2 w = __ldg(reinterpret_cast<const uint2*>(p));
    v.word[0] = w.x, v.word[1 % v.WORDS] = w.y;
  } else if (V * sizeof(Element) == 4) {
    v.word[0] = __ldg(reinterpret_cast<const unsigned*>(p));
  } else {
    v.word[0] = __ldg(reinterpret_cast<const unsigned short*>(p));
  }
  return v;
}

// The same for writing.
template <int V> NAA_DEVICE void store(Element* p, const Vec<V>& v) {
  if (V * sizeof(Element) == 16) {
    *reinterpret_cast<uint4*>(p) = make_uint4(v.word[0], v.word[1 % v.WORDS], v.word[2 % v.WORDS], v.word[3 % v.WORDS]);
  } else if (V * sizeof(Element) == 8) {
    *reinterpret_cast<uint2*>(p) = make_uint2(v.word[0], v.word[1 % v.WORDS]);
  } else if (V * sizeof(Element) == 4) {
    *reinterpret_cast<unsigned*>(p) = v.word[0];
  } else {
    *reinterpret_cast<unsigned short*>(p) = (unsigned short)(v.word[0]);
  }
}

// A neuron's items, as `reduce` has written them.
template <class R> struct Items {
  const R* reals;
  const unsigned* counts;
  i64 channels;

  NAA_DEVICE Items(i64 address, i64 items, i64 channels_, i64 channel) : channels(channels_) {
    reals = reinterpret_cast<const R*>(address) + channel;
    counts = reinterpret_cast<const unsigned*>(address + items * REALS * channels * i64(sizeof(R))) + channel;
  }
  NAA_DEVICE double real(i64 item, int field) const { return double(reals[(item * REALS + field) * channels]); }
  NAA_DEVICE unsigned word(i64 item, int half) const { return counts[(item * COUNTS + half / 2) * channels]; }
  NAA_DEVICE int count(i64 item, int field) const { return int(word(item, field) >> (field % 2 * 16) & 0xffffu); }
  NAA_DEVICE int exponent(i64 item) const { return int(word(item, EXPONENT) << (EXPONENT % 2 ? 0 : 16)) >> 16; }
};

// Which layer of a launch's table this block is of: the last that starts at or before it.
template <class Args> NAA_DEVICE int layer_at(const Args& a, i64 block) {
  int at = 0;
  for (int end = int(a.layers); at + 1 < end;) {
    const int middle = (at + end) / 2;
    if (a.layer[middle].first <= block) at = middle;
    else end = middle;
  }
  return at;
}

#endif
