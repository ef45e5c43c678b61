// reduce where channels lie next to each other, or nothing does: lanes along the channels, V elements each.
#ifndef NAA_ROWS
#define NAA_ROWS

#include "tile.cuh"

static const int BLOCK = 256;
// Vectors a thread keeps on their way. Two blocks of 256 threads an SM then have 32 (16-bit) or 48 KB in flight; bandwidth times
// latency of an H200 is about 27 KB an SM.
#ifndef NAA_AHEAD
#define NAA_AHEAD (NAA_DTYPE == 0 ? 6 : 4)
#endif
static const i64 NOWHERE = 0x7fffffffffffffffLL;

// The rows of an item and this lane's share of them: row r of the tile is position(r); the lane's m-th is first + m * step.
struct Walk {
  i64 item, rows;               // rows: of the tile; in row numbers for the candidates and the mask
  i64 begin, spread;            // inner == 1: first block of the tile and tiles; else: first position and 1
  i64 limit, phase;             // positions end before limit
  i64 origin, pitch;            // element offset of position 0, and between positions
  i64 mask_origin;
  i64 first, step;
  int count;
  bool folds;

  NAA_DEVICE i64 position(i64 r) const {
    return folds ? FOLD_BLOCK * (begin + (r / FOLD_BLOCK) * spread) + r % FOLD_BLOCK - phase : begin + r;
  }
  NAA_DEVICE bool inside(i64 at) const { return at >= 0 && at < limit; }
  NAA_DEVICE i64 offset(i64 at) const { return origin + at * pitch; }
};

// `lane` of `lanes` (1, or a multiple of FOLD_BLOCK) walks item `item`.
NAA_DEVICE Walk walk_of(const ReduceArgs& a, i64 item, i64 lane, i64 lanes) {
  Walk w;
  w.item = item, w.folds = a.inner == 1, w.phase = a.phase;
  if (w.folds) {
    const i64 oldest = a.phase / FOLD_BLOCK;  // the block of the first sample
    const i64 blocks = (a.phase + a.outer + FOLD_BLOCK - 1) / FOLD_BLOCK;
    w.begin = oldest + (item - oldest % a.tiles + a.tiles) % a.tiles;
    w.rows = w.begin < blocks && a.outer > 0 ? ((blocks - 1 - w.begin) / a.tiles + 1) * FOLD_BLOCK : 0;
    w.spread = a.tiles, w.limit = a.outer, w.origin = 0, w.pitch = a.stride_outer, w.mask_origin = 0;
    w.step = lanes * a.tiles;
  } else {
    const i64 sample = item / a.tiles;
    w.begin = (item % a.tiles) * a.length;
    w.limit = w.begin + a.length < a.inner ? w.begin + a.length : a.inner;
    w.rows = w.limit > w.begin ? w.limit - w.begin : 0;
    w.spread = 1, w.origin = sample * a.stride_outer, w.pitch = a.stride_inner, w.mask_origin = sample * a.inner;
    w.step = lanes;
  }
  w.first = w.position(lane);
  if (w.first < 0) w.first += w.step;  // of the first block only the samples from `phase` on are of this batch
  w.count = w.rows > 0 && w.first < w.limit ? int((w.limit - 1 - w.first) / w.step) + 1 : 0;
  return w;
}

// Three rows spread over the tile; a whole block is folded, so its rows differ too.
NAA_DEVICE i64 candidate(const Walk& w, int which) {
  if (!w.folds) return w.begin + w.rows * (2 * which + 1) / 6;
  const i64 block = w.rows / FOLD_BLOCK * (2 * which + 1) / 6;
  const i64 at = w.position(block * FOLD_BLOCK + 1 + which * 5 / 2);
  return at < 0 ? 0 : at < w.limit ? at : w.limit - 1;
}

// The first observed row of each third of the tile, so that a pivot is never taken from what the mask hides.
NAA_DEVICE void observed_candidates(const Walk& w, const unsigned char* mask, bool team, i64 (&at)[3]) {
  __shared__ int found[3];
  const int none = 0x7fffffff;
  if (team) {
    if (threadIdx.x < 3) found[threadIdx.x] = none;
    __syncthreads();
#pragma unroll 1
    for (i64 r = threadIdx.x; r < w.rows; r += BLOCK) {
      const i64 p = w.position(r);
      if (w.inside(p) && mask[w.mask_origin + p]) atomicMin(&found[r * 3 / w.rows], int(r));
    }
    __syncthreads();
  }
#pragma unroll
  for (int third = 0; third < 3; ++third) {
    i64 r = none;
    if (team) {
      r = found[third];
    } else {
      const i64 end = w.rows * (third + 1) / 3;
#pragma unroll 1
      for (r = w.rows * third / 3; r < end; ++r)
        if (mask[w.mask_origin + w.position(r)]) break;
      if (r >= end) r = none;
    }
    at[third] = r == none ? -1 : w.position(r);
  }
}

// Column sums over the position lanes of a block, in their order. Padded so that neither side meets a bank twice; two pools in
// turn, so that a barrier a field is enough.
template <int V> struct Columns {
  Real (*pools)[BLOCK * (V + 1)];
  int lane, place, lanes, places, pad, turn;

  template <class Field, class Join> NAA_DEVICE auto operator()(Field field, Join join) {
    Real value[V];
#pragma unroll
    for (int i = 0; i < V; ++i) value[i] = Real(field(i));
    return decltype(field(0))(over(value, join));  // counts are small enough for any Real
  }
  template <class Join> NAA_DEVICE Real over(const Real (&value)[V], Join join) {
    const int line = V * (lanes + pad), column = threadIdx.x;
    Real* pool = pools[turn];
    turn ^= 1;
#pragma unroll
    for (int i = 0; i < V; ++i) pool[place * line + i * (lanes + pad) + lane] = value[i];
    __syncthreads();
    Real total = Real(0);
    if (column < lanes * V) {
      const Real* own = pool + (column % V) * (lanes + pad) + column / V;
      total = own[0];
#pragma unroll 4
      for (int p = 1; p < places; ++p) total = join(total, own[p * line]);
    }
    return total;
  }
};

// One value over the position lanes of a block; every lane gets it. `memory`: 8 bytes a thread.
template <class T, class Join> NAA_DEVICE T over_places(T value, double* memory, int lane, int lanes, int places, Join join) {
  T* pool = reinterpret_cast<T*>(memory);
  pool[threadIdx.x] = value;
  __syncthreads();
  T total = pool[lane];
#pragma unroll 1
  for (int p = 1; p < places; ++p) total = join(total, pool[p * lanes + lane]);
  __syncthreads();
  return total;
}

// Where a thread stands in its block, and what it works on: `vector` neurons from `channel` on, in `item`.
struct Spot {
  int lane, lanes, place, places;
  i64 group, item, channel;
  bool team, live;
};

NAA_DEVICE Spot spot_of(const ReduceArgs& a, int vector) {
  Spot s;
  s.lanes = int(a.width), s.places = BLOCK / s.lanes;
  s.lane = threadIdx.x % s.lanes, s.place = threadIdx.x / s.lanes;
  s.team = a.team != 0;
  s.group = blockIdx.x % a.groups;
  const i64 rest = blockIdx.x / a.groups;
  s.item = s.team ? rest : rest * s.places + s.place;
  s.channel = (s.group * s.lanes + s.lane) * vector;
  s.live = s.channel < a.channels && s.item < items_of(a);
  return s;
}

NAA_DEVICE Walk walk_of(const ReduceArgs& a, const Spot& s) {
  return walk_of(a, s.item < items_of(a) ? s.item : 0, s.team ? s.place : 0, s.team ? s.places : 1);
}

// The neurons in `again`, bits over the thread's `vector`, once more, value by value. The bits may differ between threads,
// barriers do not. Apart, and with nothing handed over, so that the fast path keeps its registers to itself.
NAA_APART void careful_rows(const ReduceArgs& a, int vector, unsigned again) {
  __shared__ double memory[BLOCK];
  const Spot s = spot_of(a, vector);
  const Walk w = walk_of(a, s);
  const unsigned char* mask = reinterpret_cast<const unsigned char*>(a.mask);
  auto least = [](i64 p, i64 q) { return p < q ? p : q; };
  auto over = [&](auto value, auto join) {
    return s.team ? over_places(value, memory, s.lane, s.lanes, s.places, join) : value;
  };

#pragma unroll 1
  for (int i = 0; i < vector; ++i) {
    const bool wanted = s.live && (again >> i & 1);
    const Element* x = reinterpret_cast<const Element*>(a.x) + (s.live ? s.channel + i : 0) * a.stride_channel;
    i64 at = NOWHERE;
#pragma unroll 1
    for (int m = 0; wanted && m < w.count; ++m) {
      const i64 p = w.first + m * w.step;
      if (mask && !mask[w.mask_origin + p]) continue;
      if (!is_finite(to_real(x[w.offset(p)]))) continue;
      at = p;
      break;
    }
    at = over(at, least);
    const Real pivot = wanted && at != NOWHERE ? to_real(x[w.offset(at)]) : Real(0);

    Careful c;
    c.clear();
#pragma unroll 1
    for (int m = 0; wanted && m < w.count; ++m) {
      const i64 p = w.first + m * w.step;
      if (!mask || mask[w.mask_origin + p]) c.observe(to_real(x[w.offset(p)]), pivot);
    }
    c.join(over);
    if (wanted && (!s.team || s.place == 0)) write(a, w.item, s.channel + i, c.finish(pivot));
  }
}

// The single read. KEPT: `kept` takes a copy of this lane's first row and of those that
// follow, NaN where the mask hides them.
template <int V, bool MASKED, bool KEPT>
NAA_DEVICE void read_rows(const ReduceArgs& a, const Walk& w, const Element* x, bool live, Sums<V, V>& sums, bool team,
                          Element* kept) {
  static const int AHEAD = NAA_AHEAD;
  const unsigned char* mask = reinterpret_cast<const unsigned char*>(a.mask);
  const int count = live ? w.count : 0;
  const i64 inc = w.step * w.pitch, along = KEPT ? w.step * a.channels : 0;
  const Element* p = x + w.offset(w.first);
  Vec<V> ring[AHEAD];
  i64 at[3];
  if (!MASKED) {
#pragma unroll
    for (int u = 0; u < AHEAD; ++u)
      if (u < count) ring[u] = load<V>(p + u * inc);  // on their way while the pivot is found
    for (int c = 0; c < 3; ++c) at[c] = w.rows > 0 ? candidate(w, c) : -1;
  } else {
    observed_candidates(w, mask, team, at);
  }
  Vec<V> sample[3];
#pragma unroll
  for (int c = 0; c < 3; ++c)
    if (live && at[c] >= 0) sample[c] = load<V>(x + w.offset(at[c]));
  const Real missing = infinity<Real>();
#pragma unroll
  for (int i = 0; i < V; ++i) {
    sums.pivot[i] = !live ? Real(0)
                          : median(at[0] < 0 ? missing : sample[0].get(i), at[1] < 0 ? missing : sample[1].get(i),
                                   at[2] < 0 ? missing : sample[2].get(i));
  }
  sums.clear();
  if (!MASKED) {
    for (int m = 0; m < count; m += AHEAD) {
      p += AHEAD * inc;
      if (m + 2 * AHEAD <= count) {
#pragma unroll
        for (int u = 0; u < AHEAD; ++u) {
          const Vec<V> v = ring[u];
          ring[u] = load<V>(p + u * inc);
          sums.observe(v);
          if (KEPT) store<V>(kept, v), kept += along;
        }
        continue;
      }
#pragma unroll
      for (int u = 0; u < AHEAD; ++u)
        if (m + u < count) {
          sums.observe(ring[u]);
          if (KEPT) store<V>(kept, ring[u]), kept += along;
        }
#pragma unroll
      for (int u = 0; u < AHEAD; ++u)
        if (m + AHEAD + u < count) ring[u] = load<V>(p + u * inc);
    }
    sums.observed = count;
    return;
  }
  Vec<V> hidden;
#pragma unroll
  for (int i = 0; KEPT && i < V; ++i) hidden.set(i, to_element(subtract(infinity<Real>(), infinity<Real>())));
  for (int m = 0; m < count; m += AHEAD) {
    bool seen[AHEAD];
#pragma unroll
    for (int u = 0; u < AHEAD; ++u) seen[u] = m + u < count && mask[w.mask_origin + w.first + (m + u) * w.step];
#pragma unroll
    for (int u = 0; u < AHEAD; ++u)
      if (seen[u]) ring[u] = load<V>(p + u * inc);
#pragma unroll
    for (int u = 0; u < AHEAD; ++u)
      if (seen[u]) sums.observe(ring[u]), ++sums.observed;
#pragma unroll
    for (int u = 0; KEPT && u < AHEAD; ++u) {
      if (seen[u]) store<V>(kept, ring[u]);
      else if (m + u < count) store<V>(kept, hidden);
      kept += along;
    }
    p += AHEAD * inc;
  }
}

template <int V, bool MASKED, bool KEPT = false> NAA_DEVICE void rows(const ReduceArgs& a) {
  __shared__ Real pools[2][BLOCK * (V + 1)];
  __shared__ unsigned char flags[BLOCK];
  const Spot s = spot_of(a, V);
  const Element* x = reinterpret_cast<const Element*>(a.x) + (s.live ? s.channel : 0) * a.stride_channel;

  Sums<V, V> sums;
  const Walk w = walk_of(a, s);
  Element* kept = reinterpret_cast<Element*>(a.kept) + w.first * a.channels + s.channel;
  read_rows<V, MASKED, KEPT>(a, w, x, s.live, sums, s.team, kept);

  unsigned again = 0;
  if (s.team) {
    Columns<V> columns{pools, s.lane, s.place, s.lanes, s.places, s.lanes == 32 ? 32 / V : 0, 0};
    const Item t = sums.item(columns);
    const i64 own = s.group * s.lanes * V + threadIdx.x;
    const bool mine = threadIdx.x < s.lanes * V && own < a.channels;
    const bool good = !mine || plain(t);
    if (mine && good) write(a, s.item, own, t);
    flags[threadIdx.x] = !good;
    if (!__syncthreads_or(!good)) return;
#pragma unroll
    for (int i = 0; i < V; ++i) again |= unsigned(flags[s.lane * V + i]) << i;
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const Item t = sums.item([&](auto field, auto) { return field(i); });
      if (plain(t)) {
        if (s.live) write(a, s.item, s.channel + i, t);
      } else {
        again |= 1u << i;
      }
    }
    if (again == 0) return;
  }
  careful_rows(a, V, again);
}

#endif
