"""Proof by transplant: what the highest-ranked suspect samples share in their input, put on clean samples.

Start at evidence.py, the steps of a scan, and prove.py, which searches target by target. images.py, matched_filter.py,
crops.py, tokens.py and token_pairs.py read candidate triggers off groups of samples, transplant.py and trials.py measure them,
pictures.py and texts.py give clean groups the same chances, erase.py and erase_words.py take a trigger out of suspects again.
triggered.py finds the samples that hold what was proved, clusters.py says where samples come from that lie outside their class.
reconstruct.py makes the search a step of a scan, given.py lets triggers from outside say where it looks first. token_heat.py
shows which tokens deviate; continuations.py makes classes of what a language model answers, against_base.py compares a model
with the one it was tuned from.
"""
