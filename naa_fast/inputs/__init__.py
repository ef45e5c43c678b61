"""Models and data, read without running code from them.

`open_source` in batches.py turns whatever a person calls their data into batches; `load_model` in models.py builds the model;
fingerprint.py says later what was read. Arrays in files are in arrays.py, folders of images in images.py, weights in weights.py.
"""
