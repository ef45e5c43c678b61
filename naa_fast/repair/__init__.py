"""Repairs: does silencing what a scan found cure the model?

Start with `cure` in search.py. `with applied(model, repair): ...` runs the repaired model; `load(path)` reads a
repair.safetensors.

- search.py: a bounded number of changes tried, the best one measured
- candidates.py: the changes of one layer that are tried
- space.py: what is usual in a layer, and along which directions others leave it
- fit.py: an ablation tuned by gradients
- outputs.py: what layers give, and in which of them a repair can be made
- trial.py: what a change leaves of the trigger and of clean predictions
- sizes.py: how many samples and layers the budget allows
- change.py: a model with changes applied
- deploy.py: the repair as files that people deploy
- fold.py: weights with the repair in them
- standalone.py: a file that runs the model where no weights can hold it
"""

from naa_fast.detect.repair import Repair
from naa_fast.repair.change import applied
from naa_fast.repair.search import attempt

load = Repair.load

__all__ = ["Repair", "applied", "attempt", "load"]
