// reduce: one read of a layer's output [outer, channels, inner] -> partial moments, an item per (tile, neuron).
//
// All rows of an item belong to one sample (inner > 1), or, with one position a sample, to one fold: tile t takes the blocks
// of FOLD_BLOCK samples whose number is t modulo tiles. The kernels called kept write a copy of what they read, which ranking is
// given of samples with one position (samples.cu). `kernels/cuda/reduce.py` says which kernel takes which layout.
#include "planes.cuh"
#include "rows.cuh"

static const int VECTOR = 16 / sizeof(Element);

#define NAA_KERNEL(blocks) extern "C" __global__ void __launch_bounds__(BLOCK, blocks)  // that many an SM

NAA_KERNEL(2) reduce_rows(const __grid_constant__ ReduceArgs a) { rows<VECTOR, false>(a); }
NAA_KERNEL(2) reduce_rows_masked(const __grid_constant__ ReduceArgs a) { rows<VECTOR, true>(a); }
NAA_KERNEL(2) reduce_rows_kept(const __grid_constant__ ReduceArgs a) { rows<VECTOR, false, true>(a); }
NAA_KERNEL(2) reduce_rows_masked_kept(const __grid_constant__ ReduceArgs a) { rows<VECTOR, true, true>(a); }
NAA_KERNEL(NAA_DTYPE == 1 ? 2 : 3) reduce_rows_scalar(const __grid_constant__ ReduceArgs a) { rows<1, false>(a); }
NAA_KERNEL(NAA_DTYPE == 1 ? 2 : 3) reduce_rows_scalar_masked(const __grid_constant__ ReduceArgs a) { rows<1, true>(a); }
NAA_KERNEL(2) reduce_rows_scalar_kept(const __grid_constant__ ReduceArgs a) { rows<1, false, true>(a); }
NAA_KERNEL(2) reduce_rows_scalar_masked_kept(const __grid_constant__ ReduceArgs a) { rows<1, true, true>(a); }
NAA_KERNEL(NAA_DTYPE == 1 ? 2 : 3) reduce_planes(const __grid_constant__ ReduceArgs a) { planes<true>(a); }
NAA_KERNEL(NAA_DTYPE == 1 ? 2 : 3) reduce_planes_ragged(const __grid_constant__ ReduceArgs a) { planes<false>(a); }
