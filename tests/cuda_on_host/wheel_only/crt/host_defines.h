// Stands in for the toolkit's file of this name where only the nvidia-cuda-runtime wheel is installed, which lacks it: just the
// words that vector_types.h and the fp16 and bf16 headers use, for g++. A toolkit's own file is found first.
#pragma once
#define __device_builtin__
#define __builtin_align__(n) __attribute__((aligned(n)))
#define __align__(n) __attribute__((aligned(n)))
#define __host__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __cudart_builtin__
#define CUDARTAPI
#define __global__
#define __shared__
#define __launch_bounds__(...)
