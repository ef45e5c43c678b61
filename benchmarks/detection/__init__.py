"""The study of detection: real models with real attacks on real data, every set with its truth.

Run it with `python -m benchmarks.detection`. Where to start reading: `cases` is the list of models, `attacks` and `models` what
they are made of, `train` gives a trained one, `sets` the samples each is shown, `runner` scans them, `tables` turns the rows into
docs/detection.md.
"""
