"""From a model's forward to `[outer, channels, inner]` views: layer selection, hooks, views.

Start with `Capture` in hooks.py: it hooks the layers that selection.py chose (friendly.py knows places by name, points.py which
tensor of a layer is read, tokens.py which token, experts.py those of mixtures; without a choice defaults.py chooses) and gives
an observer views (views.py) of what they return.

outputs.py, lengths.py, origins.py and row_order.py find out what an output's axes are, scores.py and score_items.py which
output the class scores are; runnable.py, fast_path.py and keras.py make models run, unseen.py says what no hook sees into.
"""

from naa_fast.capture.hooks import Capture, LayerObserver
from naa_fast.capture.scores import ClassScores
from naa_fast.capture.selection import Selection, select

__all__ = ["Capture", "ClassScores", "LayerObserver", "Selection", "select"]
