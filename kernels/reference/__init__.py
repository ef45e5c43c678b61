"""NumPy, float64: what each op means, and the backend of last resort."""

from naa_fast.kernels.reference.compare import Comparison, compare
from naa_fast.kernels.reference.fold import empty, fold, read
from naa_fast.kernels.reference.reduce import reduce
from naa_fast.kernels.reference.score import score

__all__ = ["Comparison", "compare", "empty", "fold", "read", "reduce", "score"]
