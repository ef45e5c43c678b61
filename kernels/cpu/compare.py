"""`compare` on the host is the definition itself: O(neurons), once a scan, and nothing to gain."""

from naa_fast.kernels.reference.compare import Comparison, compare

__all__ = ["Comparison", "compare"]
