"""State on the device: what the hooks see becomes one record per layer (`Accumulator`), what the model says a count per class
(`Predictions`), and, for the ranking, each sample's own view of a layer (`Samples`).
"""

from naa_fast.accumulate.accumulator import Accumulator
from naa_fast.accumulate.frame import Decoder
from naa_fast.accumulate.predictions import Predictions, chosen_classes
from naa_fast.accumulate.samples import Samples, Views

__all__ = ["Accumulator", "Decoder", "Predictions", "Samples", "Views", "chosen_classes"]
