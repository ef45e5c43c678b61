"""NumPy, float64: what each op means, and the backend of last resort."""

from naa_fast.kernels.reference.classes import classes
from naa_fast.kernels.reference.compare import Comparison, compare
from naa_fast.kernels.reference.fold import empty, fold, read
from naa_fast.kernels.reference.reduce import reduce
from naa_fast.kernels.reference.samples import reduce_kept, samples
from naa_fast.kernels.reference.tally import bins, read_tails, tails, tally

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
