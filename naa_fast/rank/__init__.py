"""The second look: which suspect samples lie outside the clean set, class by class (`look`; `Beside` while measuring).

reference.py holds what clean samples of a class look like in a layer, surprise.py makes one score of what the layers say, look.py
ranks by it, passes.py brings the samples, keep.py holds on to those that matter, groups.py says which predicted classes get
statistics of their own; tokens.py counts words, directions.py finds what the layers' samples differ along.
"""

from naa_fast.rank.look import Beside, Look, look

__all__ = ["Beside", "Look", "look"]
