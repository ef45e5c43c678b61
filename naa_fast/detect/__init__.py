"""Judgement: two measurements in, findings and a verdict out. NumPy only; torch is never imported here.

`judge` in judgement.py is the entry; comparison.py holds the per-neuron numbers, null.py what chance alone would give,
verdict.py the rules. The function
`naa_fast.detect`, the classic rule on plain arrays, is in arrays.py.
"""
