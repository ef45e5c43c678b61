// Runs an unmodified .cu on the host: every CUDA thread is a fibre (ucontext), barriers and warp operations are where fibres
// wait for each other, __shared__ is a static. Blocks run one after another; between two waits the threads of a block run one
// by one, in the order asked for (forward, reverse, random anew at every phase), so results that depend on the order differ.
//
// It reports a thread that leaves, or waits elsewhere, while others wait at a barrier or a warp operation; threads that meet
// at different lines; lanes that read from a lane outside the mask; and loads that are not aligned to their width.
// It cannot see: memory ordering (a missing fence or volatile), races between threads inside one phase whose outcome does not
// depend on the three orders, reads outside an array, stale shared memory of an earlier block, uninitialised registers, what
// the compilers for the device make of the code, and speed. `benchmarks/gpu_check.py` looks for those on a device.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <ucontext.h>
#include <vector>

#undef __global__
#undef __device__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#undef __noinline__
#undef __grid_constant__
#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __noinline__
#define __grid_constant__

namespace shim {

struct Index { unsigned x, y, z; };
enum Wait { RUN, BARRIER, WARP, DONE };

struct Fibre {
  ucontext_t start;
  jmp_buf here;
  std::vector<char> stack;
  bool started = false;
  Wait wait = DONE;
  int line = 0, kind = 0, argument = 0;
  unsigned mask = 0;
  std::uint64_t given = 0, taken = 0;
};

inline std::vector<Fibre*> fibres;
inline jmp_buf scheduler;
inline int current;
inline Index thread_index, block_index, block_dim, grid_dim;
inline std::string failure;
inline void (*kernel)(const void*);
inline const void* arguments;

inline void fail(const std::string& what) {
  if (failure.empty()) failure = what;
}

inline void pause() {
  if (!_setjmp(fibres[current]->here)) _longjmp(scheduler, 1);
}

inline void body() {
  for (;;) {  // a fibre serves the thread of its number in every block
    kernel(arguments);
    fibres[current]->wait = DONE;
    pause();
  }
}

inline void wait_for(Wait wait, int kind, int line, unsigned mask, std::uint64_t given, int argument) {
  Fibre& f = *fibres[current];
  f.wait = wait, f.kind = kind, f.line = line, f.mask = mask, f.given = given, f.argument = argument;
  pause();
}

inline int barrier(int line, int predicate) {
  wait_for(BARRIER, 0, line, 0, predicate != 0, 0);
  return int(fibres[current]->taken);
}

inline bool any(int line, unsigned mask, int predicate) {
  wait_for(WARP, 1, line, mask, predicate != 0, 0);
  return fibres[current]->taken != 0;
}

template <class T> T exchange(int line, unsigned mask, T value, int partner) {
  static_assert(sizeof(T) <= 8, "a warp operation moves at most 8 bytes");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  wait_for(WARP, 2, line, mask, bits, partner);
  std::memcpy(&value, &fibres[current]->taken, sizeof(T));
  return value;
}

inline void resume(int thread) {
  Fibre& f = *fibres[thread];
  current = thread;
  thread_index = {unsigned(thread), 0, 0};
  if (_setjmp(scheduler)) return;
  if (f.started) _longjmp(f.here, 1);
  f.started = true;
  setcontext(&f.start);
}

// Lets the lanes of a warp go that have all arrived at the same operation.
inline bool release_warp(int first, int threads) {
  bool released = false;
  for (int lane = 0; lane < 32 && first + lane < threads; ++lane) {
    Fibre& leader = *fibres[first + lane];
    if (leader.wait != WARP) continue;
    if (!(leader.mask >> lane & 1)) return fail("line " + std::to_string(leader.line) + ": a lane outside its own mask"), false;
    bool here = true, any = false;
    for (int other = 0; other < 32; ++other) {
      if (!(leader.mask >> other & 1)) continue;
      if (first + other >= threads || fibres[first + other]->wait == DONE) {
        fail("line " + std::to_string(leader.line) + ": a lane of the mask has left");
        return false;
      }
      Fibre& f = *fibres[first + other];
      here = here && f.wait == WARP && f.line == leader.line && f.kind == leader.kind && f.mask == leader.mask;
      any = any || f.given;
    }
    if (!here) continue;
    const unsigned mask = leader.mask;
    for (int other = 0; other < 32; ++other) {
      if (!(mask >> other & 1)) continue;
      Fibre& f = *fibres[first + other];
      const int from = f.argument & 31;
      if (f.kind == 2 && !(mask >> from & 1)) fail("line " + std::to_string(f.line) + ": reads a lane outside the mask");
      f.taken = f.kind == 1 ? any : fibres[first + from]->given;
    }
    for (int other = 0; other < 32; ++other)
      if (mask >> other & 1) fibres[first + other]->wait = RUN;
    released = true;
  }
  return released;
}

inline bool release_barrier(int threads) {
  std::uint64_t any = 0;
  int left = 0, line = 0, waiting = 0;
  for (int t = 0; t < threads; ++t) {
    const Fibre& f = *fibres[t];
    left += f.wait == DONE;
    if (f.wait != BARRIER) continue;
    if (waiting && f.line != line)
      fail("threads wait at barriers in lines " + std::to_string(line) + " and " + std::to_string(f.line));
    ++waiting, line = f.line, any |= f.given;
  }
  if (waiting && left) fail("divergent barrier in line " + std::to_string(line) + ": " + std::to_string(left) + " threads left");
  if (waiting != threads || !failure.empty()) return false;
  for (int t = 0; t < threads; ++t) fibres[t]->wait = RUN, fibres[t]->taken = any;
  return true;
}

// order: 0 forward, 1 reverse, 2 random. Returns false with `failure` set when the threads cannot go on.
inline bool run_block(int threads, int order, std::mt19937& random) {
  for (int t = 0; t < threads; ++t) fibres[t]->wait = RUN;
  std::vector<int> turn(threads);
  for (int t = 0; t < threads; ++t) turn[t] = order == 1 ? threads - 1 - t : t;
  for (;;) {
    if (order == 2) std::shuffle(turn.begin(), turn.end(), random);
    bool moved = false;
    for (int t : turn)
      if (fibres[t]->wait == RUN) resume(t), moved = true;
    if (!failure.empty()) return false;
    int done = 0;
    for (int t = 0; t < threads; ++t) done += fibres[t]->wait == DONE;
    if (done == threads) return true;
    for (int first = 0; first < threads; first += 32) moved = release_warp(first, threads) || moved;
    moved = release_barrier(threads) || moved;
    if (!failure.empty()) return false;
    if (!moved) return fail("deadlock: some threads wait at a barrier, others at a warp operation"), false;
  }
}

inline int launch(void (*call)(const void*), long long grid, int threads, const void* args, int order, unsigned seed) {
  failure.clear();
  kernel = call, arguments = args;
  block_dim = {unsigned(threads), 1, 1}, grid_dim = {unsigned(grid), 1, 1};
  while (int(fibres.size()) < threads) {
    Fibre* f = new Fibre;
    f->stack.resize(128 << 10);
    getcontext(&f->start);
    f->start.uc_stack.ss_sp = f->stack.data(), f->start.uc_link = nullptr;
    // Staggered: stacks that all end at the same place of a page would share a few cache lines (10 %).
    f->start.uc_stack.ss_size = f->stack.size() - fibres.size() % 128 * 448;
    makecontext(&f->start, body, 0);
    fibres.push_back(f);
  }
  std::mt19937 random(seed);
  for (long long b = 0; b < grid; ++b) {
    block_index = {unsigned(order == 1 ? grid - 1 - b : b), 0, 0};
    if (run_block(threads, order, random)) continue;
    for (Fibre* f : fibres) delete f;  // their stacks hold half-run threads
    fibres.clear();
    return 1;
  }
  return 0;
}

template <class T> T loaded(const T* p) {
  if (reinterpret_cast<std::uintptr_t>(p) % sizeof(T)) fail("a load of " + std::to_string(sizeof(T)) + " bytes is not aligned");
  return *p;
}

template <class To, class From> To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

}  // namespace shim

#define threadIdx shim::thread_index
#define blockIdx shim::block_index
#define blockDim shim::block_dim
#define gridDim shim::grid_dim
#define __syncthreads() ((void)shim::barrier(__LINE__, 0))
#define __syncthreads_or(predicate) shim::barrier(__LINE__, predicate)
#define __any_sync(mask, predicate) shim::any(__LINE__, mask, predicate)
#define __shfl_xor_sync(mask, value, lanes) shim::exchange(__LINE__, mask, value, int(threadIdx.x % 32) ^ (lanes))
#define __ldg(p) shim::loaded(p)

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __int_as_float(int a) { return shim::bits<float>(a); }
inline float __uint_as_float(unsigned a) { return shim::bits<float>(a); }
inline unsigned __float_as_uint(float a) { return shim::bits<unsigned>(a); }
inline double __longlong_as_double(long long a) { return shim::bits<double>(a); }
inline long long __double_as_longlong(double a) { return shim::bits<long long>(a); }
inline double __hiloint2double(int high, int low) {
  return shim::bits<double>(std::uint64_t(unsigned(high)) << 32 | unsigned(low));
}
inline int __double2loint(double a) { return int(shim::bits<std::uint64_t>(a)); }
inline int __double2hiint(double a) { return int(shim::bits<std::uint64_t>(a) >> 32); }
inline int atomicMin(int* p, int a) { const int old = *p; *p = std::min(old, a); return old; }
template <class T> T atomicAdd(T* p, T a) { const T old = *p; *p = old + a; return old; }
