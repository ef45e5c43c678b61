"""The loop over a set: batches through the model, statistics kept on the device, one measurement at the end.

`measure` in loop.py is the entry. Called as a function, `naa_fast.scan(model, clean, suspect)` is the whole audit.
"""
