"""Judgement: two measurements in, findings and a verdict out. NumPy only; torch is never imported here.

`judge` in judgement.py is the entry; comparison.py holds the per-neuron numbers, null.py what chance alone would give,
verdict.py the rules. Called as a function, `naa_fast.detect(clean, test)` is the classic rule on plain arrays.
"""
