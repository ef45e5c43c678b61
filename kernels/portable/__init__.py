"""Plain torch: any device torch knows, and the CUDA path's substitute where CuPy is missing."""

from naa_fast.kernels.portable.classes import classes
from naa_fast.kernels.portable.compare import Comparison, compare
from naa_fast.kernels.portable.fold import empty, fold, read
from naa_fast.kernels.portable.reduce import reduce
from naa_fast.kernels.portable.samples import reduce_kept, samples
from naa_fast.kernels.portable.tally import bins, read_tails, tails, tally

__all__ = [
    "Comparison",
    "bins",
    "classes",
    "compare",
    "empty",
    "fold",
    "read",
    "read_tails",
    "reduce",
    "reduce_kept",
    "samples",
    "tails",
    "tally",
]
