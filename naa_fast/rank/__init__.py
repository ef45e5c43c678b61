"""The second look: which suspect samples lie outside what the clean set does, class by class (`look`).

reference.py holds what clean samples of a class look like, look.py runs both sets past it, keep.py holds on to the samples that
matter, groups.py says which predicted classes get statistics of their own.
"""

from naa_fast.rank.look import Look, look

__all__ = ["Look", "look"]
