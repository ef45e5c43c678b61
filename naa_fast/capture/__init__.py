"""From a model's forward to `[outer, channels, inner]` views: layer selection, hooks, views."""

from naa_fast.capture.hooks import Capture, Observer
from naa_fast.capture.scores import ClassScores
from naa_fast.capture.selection import Selection, select

__all__ = ["Capture", "ClassScores", "Observer", "Selection", "select"]
