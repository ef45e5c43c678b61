"""Plain torch: any device torch knows, and the CUDA path's substitute where CuPy is missing."""

from naa_fast.kernels.portable.compare import Comparison, compare
from naa_fast.kernels.portable.fold import empty, fold, read
from naa_fast.kernels.portable.reduce import reduce
from naa_fast.kernels.portable.score import score

__all__ = ["Comparison", "compare", "empty", "fold", "read", "reduce", "score"]
