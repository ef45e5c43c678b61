"""CUDA C++ through NVRTC and CuPy: the fast path for torch tensors on NVIDIA devices. Imports without CuPy or a device."""

from naa_fast.kernels.cuda.compare import compare, compare_all, compare_states
from naa_fast.kernels.cuda.fold import empty, fold, read
from naa_fast.kernels.cuda.reduce import partial_bytes, partials_for, reduce, reduce_into
from naa_fast.kernels.cuda.samples import reduce_kept, samples
from naa_fast.kernels.cuda.tally import bins, read_tails, tails, tally
from naa_fast.kernels.portable.classes import classes
from naa_fast.kernels.reference.compare import Comparison

__all__ = [
    "Comparison",
    "bins",
    "classes",
    "compare",
    "compare_all",
    "compare_states",
    "empty",
    "fold",
    "partial_bytes",
    "partials_for",
    "read",
    "read_tails",
    "reduce",
    "reduce_into",
    "reduce_kept",
    "samples",
    "tails",
    "tally",
]
