"""Proof by transplant: what the highest-ranked suspect samples share in their input, put on clean samples (`gather`).

images.py, matched_filter.py, crops.py, tokens.py and token_pairs.py read candidate triggers off groups of samples,
transplant.py and trials.py measure them, pictures.py and texts.py give clean groups the same chances, and prove.py keeps what is
left. clusters.py says where samples come from that lie outside their class, triggered.py which samples hold what was proved.
"""

from naa_fast.proof.gather import gather

__all__ = ["gather"]
