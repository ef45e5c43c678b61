"""Judgement: two measurements in, findings and a verdict out. NumPy and SciPy only; torch is never imported here.

Start with `judge` in judgement.py: it compares, asks each detector, and gives a verdict.

- judgement.py: the one place where a scan is judged
- comparison.py: the numbers of a layer's neurons
- sets.py: what detectors may read
- detectors.py: the one list of detectors
- findings.py: what a finding is, and the findings of means
- verdict.py: findings become an outcome
- sentences.py: the verdict in one sentence

What findings rest on:
- null.py: what chance alone would give
- interim.py: how strictly, of a scan that is judged while it runs
- tails.py: the tails of single neurons
- directions.py: whole layers, along directions that others fixed
- rises.py: classes that suspects get oftener
- enrichment.py: target classes that outlying suspects gather in
- proof.py: triggers that were tried
- trigger.py: what a trigger is
- axes.py: where an image's channels are

What ran:
- checks.py: what a pass rests on
- coverage.py: which of it ran, and the gaps
- accuracy.py: what labels say of the clean set

What the samples tell:
- evidence.py: the ranked samples
- scored.py: suspects that were scored while they were measured
- evidence_file.py: the same in a file
- names.py: what people call the classes
- frames.py: tables for pandas

Without suspect samples:
- inversion.py: what a search came to, class by class
- inverted.py: its findings and its verdict

Repairs:
- repair.py: what a repair is, and what it was seen to do
- change.py: what it does to one layer

For scripts:
- accept.py: which findings count for the exit code
- baseline.py: the findings of an earlier report
- arrays.py: `naa_fast.detect`, the classic rule on plain arrays
"""
