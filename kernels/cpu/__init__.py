"""Numba on the host: every statistic from one read of the tensor, columns or positions as SIMD lanes.

`reduce` chooses between `rows` (channels fastest) and `images` (positions fastest); `planes` holds the arithmetic both share, and
is all that knows single statistics there. `parts` merges what they give, `threads` hands tasks to threads, `elements` compiles.
"""

from naa_fast.kernels.cpu.classes import classes
from naa_fast.kernels.cpu.compare import Comparison, compare
from naa_fast.kernels.cpu.fold import empty, fold, read
from naa_fast.kernels.cpu.reduce import reduce
from naa_fast.kernels.cpu.samples import reduce_kept, samples
from naa_fast.kernels.cpu.tally import bins, read_tails, tails, tally

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
