"""The study at size: pretrained models of real size with planted backdoors, or with none. `python -m benchmarks.at_size`."""
