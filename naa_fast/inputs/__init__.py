"""Models and data, read without running code from them.

Start with `open_source` in opening.py, which turns whatever a person calls their data into batches, and `load_model` in
models.py, which builds the model.

Data: batches.py says what a set and a batch are; arrays.py, dumps.py and tensors.py read arrays in files, images.py,
formats.py, decoding.py and preprocessing.py images, text.py, lines.py, arrow.py and padding.py texts; labels.py, masks.py and
order.py say what comes beside them. Models: pretrained.py, folders.py and adapters.py read those of Hugging Face,
timm_models.py those of timm, exported.py .pt2 files, weights.py and states.py weights; loaded.py keeps what was taken and left,
untrained.py knows a model that was never trained, fingerprint.py says later what was read.
"""
