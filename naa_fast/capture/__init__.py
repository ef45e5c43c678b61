"""A model while it runs: which layers it has, hooks on them, and `[outer, channels, inner]` views of what they give.

Start with `Capture` in hooks.py: it hooks the layers that `select` (selection.py) chose, and gives an observer views of what they
return.

Which layers:
- selection.py: layers by name, glob or type, and what was chosen in words
- defaults.py: the layers that are read where none were asked for
- friendly.py: names that mean the same place in every transformer
- points.py: which tensor of a module is read: what it gives, what it takes, or how a router decides
- experts.py: the modules that hold the experts of a mixture

What they give:
- hooks.py: the hooks, put on and always taken off again
- compiled.py: how compiled models hand layers on, since their graphs run no hook
- outputs.py: which tensor it is of what a module returns
- views.py: which axis has the neurons, and the view
- known.py: a layer that gave a form once is not asked again
- row_order.py: which sample a row belongs to where a layer gives several a sample
- lengths.py: masks of layers that shorten their input
- tokens.py: the last token of every sample

What the model says:
- scores.py: which of its outputs the class scores are
- score_items.py: the tensors in whatever a model returns
- origins.py: which layer an output comes from

Facts of a model, and what it needs to run:
- runnable.py: whether it can be hooked and run, and if not, what to do
- fingerprint.py: which model it was
- loaded.py: how it was loaded, kept on it until the report tells it
- padding.py: the token that pads its texts, lent where its configuration names none
- positions.py: how many tokens it has positions for
- class_names.py: what its configuration calls its classes
- fast_path.py: fused attention, off meanwhile
- keras.py: Keras models as torch modules
- unseen.py: parts that no hook sees into, and layers that mix samples
"""

from naa_fast.capture.hooks import Capture, LayerObserver
from naa_fast.capture.scores import ClassScores
from naa_fast.capture.selection import Selection, select

__all__ = ["Capture", "ClassScores", "LayerObserver", "Selection", "select"]
