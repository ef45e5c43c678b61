"""Proof by transplant: what the highest-ranked suspect samples share in their input, put on clean samples (`gather`).

images.py, cuts.py, tokens.py and apart.py read candidate triggers off groups of samples, transplant.py measures them, prove.py
and texts.py give clean groups the same chances and keep what is left.
"""

from naa_fast.proof.gather import gather

__all__ = ["gather"]
