"""Judgement: two measurements in, findings and a verdict out. NumPy and SciPy only; torch is never imported here.

Start with `judge` in judgement.py: it compares (comparison.py, axes.py), asks each detector, and gives a verdict (verdict.py).

detectors.py is the one list of detectors, sets.py what they read, findings.py what a finding is. What they rest on: null.py what
chance alone would give, tails.py the tails of single neurons, directions.py whole layers, enrichment.py target classes that
suspects gather in, proof.py triggers that were tried (trigger.py says what they are). coverage.py and checks.py say what ran and
what did not, sentences.py puts the verdict into one sentence. evidence.py is what the ranked samples tell, accuracy.py what
labels do; repair.py and change.py say what a repair is.

What a script is told: accept.py and baseline.py. The function `naa_fast.detect`, the classic rule on plain arrays, is in
arrays.py.
"""
