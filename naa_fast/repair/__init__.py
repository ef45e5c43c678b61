"""Repairs: does silencing what a scan found cure the model?

`attempt` (attempt.py) tries a bounded number of changes to single layers (candidates.py makes them, change.py applies them) and
measures the best one. `with applied(model, repair): ...` runs the repaired model; `load(path)` reads a repair.safetensors.
"""

from naa_fast.detect.repair import Repair
from naa_fast.repair.attempt import attempt
from naa_fast.repair.change import applied

load = Repair.load

__all__ = ["Repair", "applied", "attempt", "load"]
