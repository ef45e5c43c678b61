"""State on the device: what the hooks see becomes one record per layer (`Accumulator`), what the model says a count per class."""

from naa_fast.accumulate.accumulator import Accumulator
from naa_fast.accumulate.predictions import Predictions

__all__ = ["Accumulator", "Predictions"]
