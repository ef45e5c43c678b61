"""State on the device: what the hooks see becomes one record a layer, and, for the ranking, each sample's own view of it.

Start with `Accumulator` in accumulator.py: `begin` a batch, `observe` each layer, `commit` the batch, `records` at the end.

- accumulator.py: the state of all layers, added to one whole batch at a time
- frame.py: one batch's samples, and how a layer's rows belong to them
- calls.py: layers that a forward calls several times: one value a sample all the same
- samples.py: each sample's own mean and maximum of every neuron, for the ranking
- predictions.py: how often the model chose each class
"""

from naa_fast.accumulate.accumulator import Accumulator
from naa_fast.accumulate.frame import Decoder
from naa_fast.accumulate.predictions import Predictions, chosen_classes
from naa_fast.accumulate.samples import Samples, Views

__all__ = ["Accumulator", "Decoder", "Predictions", "Samples", "Views", "chosen_classes"]
