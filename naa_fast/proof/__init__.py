"""Proof by transplant: what the highest-ranked suspect samples share in their input, put on clean samples (`gather`).

images.py and tokens.py read candidate triggers off groups of samples, transplant.py measures them, prove.py gives clean groups
the same chances and keeps what is left.
"""

from naa_fast.proof.gather import gather

__all__ = ["gather"]
