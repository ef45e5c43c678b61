"""Models and data, read without running code from them.

Start with `open_source` in opening.py, which turns whatever a person calls their data into batches, and `load_model` in
models.py, which builds the model.

Sets:
- opening.py: which source reads what lies at a path
- batches.py: what a set and a batch are
- tensors.py: what counts as data: dtypes, masks, columns of equal length
- fingerprint.py: which set it was, by what was read of it
- identity.py: which set a shard is of, by what the set holds
- order.py: whether a set can be read again, and in the same order
- labels.py: which class each sample is said to be of
- masks.py: masks in batches that are tuples

Kinds of data:
- arrays.py: `.npy`, `.npz` and `.safetensors`
- dumps.py: folders of stored activations
- images.py: folders and archives of images
- formats.py: which files are images, and their pixels
- decoding.py: images decoded by processes that may die
- preprocessing.py: what is done to an image before the model sees it
- text.py: texts as batches of tokens
- lines.py: files of lines and records
- arrow.py: `.parquet`, and folders of the `datasets` library

Sets suited to their model:
- padding.py: texts padded with the model's own token
- names.py: what people call its classes: given, the model's own, or texts of tokens

Models:
- models.py: models from a person's own code
- pretrained.py: folders of Hugging Face
- folders.py: what else lies in such a folder
- adapters.py: LoRA adapters, merged or refused
- timm_models.py: architectures of timm
- exported.py: programs of torch.export, `.pt2`
- weights.py: weights from a file
- states.py: which weights of a file are the model's, and under which names
- untrained.py: a model that nobody seems to have trained
"""
