"""Proof by transplant: what the highest-ranked suspect samples share in their input, put on clean samples.

Start at evidence.py, the steps of a scan, and prove.py, which searches target by target. images.py, matched_filter.py,
crops.py, tokens.py and token_pairs.py read candidate triggers off groups of samples, transplant.py and trials.py measure them,
pictures.py and texts.py give clean groups the same chances, erase.py and erase_words.py take a trigger out of suspects again.
triggered.py finds the samples that hold what was proved, clusters.py says where samples come from that lie outside their class.
"""
