// reduce where positions lie next to each other (NCHW): `width` lanes a tile, V positions a load, joined by shuffles.
#ifndef NAA_PLANES
#define NAA_PLANES

#include "rows.cuh"

// One tile of one plane: elements [0, length) from `x`, of which `head` follow a 16-byte boundary.
struct Stretch {
  const Element* x;
  const unsigned char* mask;  // of the first element, or null
  i64 length;
  int head;
  i64 vectors;

  // Vector j holds elements from j * V - head on. Where it reaches over an end, what is outside or masked becomes `filler`.
  template <int V> NAA_DEVICE Vec<V> vector(i64 j) const { return load<V>(x + (j * V - head)); }
  template <int V> NAA_DEVICE bool ragged(i64 j) const { return mask || j * V < head || (j + 1) * V - head > length; }
  template <int V> NAA_DEVICE Vec<V> patched(i64 j, Element filler, i64 low, i64 high, int& fillers) const {
    const i64 from = j * V - head;
    Vec<V> v;
    const i64 at = i64(x + from);
    const bool whole = at >= low && at + 16 <= high;  // else it would read before or behind the tensor
    if (whole) v = load<V>(x + from);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const i64 e = from + i;
      const bool seen = e >= 0 && e < length && (!mask || mask[e]);
      if (!seen) v.set(i, filler), ++fillers;
      else if (!whole) v.set(i, x[e]);
    }
    return v;
  }
};

// Over the `lanes` lanes of a tile; every lane gets the result.
template <int UNROLL, class T, class Join> NAA_DEVICE T over_lanes(T value, int lanes, Join join) {
#pragma unroll UNROLL
  for (int step = lanes / 2; step > 0; step /= 2) value = join(value, __shfl_xor_sync(NAA_FULL_WARP, value, step));
  return value;
}
template <int UNROLL, class T> NAA_DEVICE T over_lanes(T value, int, Same) { return value; }

// Where a thread stands in its tile, and which tile that is. No lane leaves early: the shuffles name the whole warp.
struct Unit {
  int lane, lanes;
  i64 item, channel;
  bool live;
  Stretch stretch;
};

NAA_DEVICE Unit unit_of(const ReduceArgs& a, bool aligned) {
  static const int V = 16 / sizeof(Element);
  Unit u;
  u.lanes = int(a.width), u.lane = threadIdx.x % u.lanes;
  const i64 asked = i64(blockIdx.x) * (BLOCK / u.lanes) + threadIdx.x / u.lanes;
  u.live = asked < a.outer * a.channels * a.tiles;
  const i64 unit = u.live ? asked : 0;
  const i64 tile = unit % a.tiles, plane = unit / a.tiles, sample = plane / a.channels;
  u.channel = plane % a.channels, u.item = sample * a.tiles + tile;
  const i64 begin = tile * a.length;
  Stretch& s = u.stretch;
  s.length = begin >= a.inner ? 0 : begin + a.length < a.inner ? a.length : a.inner - begin;
  s.x = reinterpret_cast<const Element*>(a.x) + sample * a.stride_outer + u.channel * a.stride_channel + begin;
  s.mask = a.mask ? reinterpret_cast<const unsigned char*>(a.mask) + sample * a.inner + begin : nullptr;
  s.head = aligned ? 0 : int((i64(s.x) & 15) / i64(sizeof(Element)));
  s.vectors = s.length > 0 ? (s.head + s.length + V - 1) / V : 0;
  return u;
}

// The tiles of the lanes that say `again` once more, value by value; every lane of the warp must call. Apart: see careful_rows.
NAA_APART void careful_planes(const ReduceArgs& a, bool again) {
  const Unit u = unit_of(a, true);
  const Stretch& s = u.stretch;
  const int lane = u.lane, lanes = u.lanes;
  const bool wanted = u.live && again;
  auto least = [](i64 p, i64 q) { return p < q ? p : q; };
  i64 at = NOWHERE;
#pragma unroll 1
  for (i64 e = lane; wanted && e < s.length; e += lanes) {
    if ((s.mask && !s.mask[e]) || !is_finite(to_real(s.x[e]))) continue;
    at = e;
    break;
  }
  at = over_lanes<1>(at, lanes, least);
  const Real pivot = wanted && at != NOWHERE ? to_real(s.x[at]) : Real(0);
  Careful c;
  c.clear();
#pragma unroll 1
  for (i64 e = lane; wanted && e < s.length; e += lanes)
    if (!s.mask || s.mask[e]) c.observe(to_real(s.x[e]), pivot);
  c.join([&](auto value, auto join) { return over_lanes<1>(value, lanes, join); });
  if (wanted && lane == 0) write(a, u.item, u.channel, c.finish(pivot));
}

// ALIGNED: every tile starts at a 16-byte boundary and holds whole vectors, and there is no mask.
template <bool ALIGNED> NAA_DEVICE void planes(const ReduceArgs& a) {
  static const int V = 16 / sizeof(Element);
  static const int AHEAD = 4;  // three blocks an SM: 48 KB in flight
  const Unit u = unit_of(a, ALIGNED);
  const Stretch& s = u.stretch;
  const int lane = u.lane, lanes = u.lanes;
  const int count = s.vectors > lane ? int((s.vectors - 1 - lane) / lanes) + 1 : 0;

  Vec<V> ring[AHEAD];
  if (ALIGNED) {
#pragma unroll
    for (int u = 0; u < AHEAD; ++u)
      if (u < count) ring[u] = s.vector<V>(lane + u * lanes);  // on their way while the pivot is found
  }
  Real middle[3];
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    i64 e = s.length * (2 * c + 1) / 6;
    if (!ALIGNED && s.mask) {  // the first observed one of this third
      const i64 end = s.length * (c + 1) / 3;
      e = s.length * c / 3;
      while (e < end && !s.mask[e]) ++e;
      if (e >= end) e = s.length;
    }
    middle[c] = e < s.length ? to_real(s.x[e]) : infinity<Real>();
  }

  Sums<V, 1> sums;
  sums.clear();
  sums.pivot[0] = median(middle[0], middle[1], middle[2]);
  sums.observed = count * V;
  if (ALIGNED) {
    const Element* p = s.x + i64(lane) * V;
    const i64 inc = i64(lanes) * V;
    for (int m = 0; m < count; m += AHEAD) {
      p += AHEAD * inc;
      if (m + 2 * AHEAD <= count) {
#pragma unroll
        for (int u = 0; u < AHEAD; ++u) {
          const Vec<V> v = ring[u];
          ring[u] = load<V>(p + u * inc);
          sums.observe(v);
        }
        continue;
      }
#pragma unroll
      for (int u = 0; u < AHEAD; ++u)
        if (m + u < count) sums.observe(ring[u]);
#pragma unroll
      for (int u = 0; u < AHEAD; ++u)
        if (m + AHEAD + u < count) ring[u] = load<V>(p + u * inc);
    }
  } else {
    const Element filler = to_element(sums.pivot[0]);
    for (int m = 0; m < count; m += AHEAD) {
#pragma unroll
      for (int u = 0; u < AHEAD; ++u) {
        const i64 j = lane + i64(m + u) * lanes;
        if (m + u < count) ring[u] = s.ragged<V>(j) ? s.patched<V>(j, filler, a.low, a.high, sums.fillers) : s.vector<V>(j);
      }
#pragma unroll
      for (int u = 0; u < AHEAD; ++u)
        if (m + u < count) sums.observe(ring[u]);
    }
  }

  Item t = sums.item([&](auto field, auto join) { return over_lanes<5>(field(0), lanes, join); });
  if (t.empty()) t.clear();  // of fillers alone
  const bool good = plain(t);
  if (u.live && good && lane == 0) write(a, u.item, u.channel, t);
  if (__any_sync(NAA_FULL_WARP, !good)) careful_planes(a, !good);
}

#endif
