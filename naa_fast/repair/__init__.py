"""Repairs: does silencing what a scan found cure the model?

`attempt` (search.py) tries a bounded number of changes to single layers (candidates.py makes them, fit.py tunes them, change.py
applies them, sizes.py says how many samples and layers the budget allows) and measures the best one. `with applied(model,
repair): ...` runs the repaired model; `load(path)` reads a repair.safetensors.
"""

from naa_fast.detect.repair import Repair
from naa_fast.repair.change import applied
from naa_fast.repair.search import attempt

load = Repair.load

__all__ = ["Repair", "applied", "attempt", "load"]
