"""How well a backdoor is found without a suspect set: `python -m benchmarks.inversion --subset`. The models are the detection
study's, with clean twins; the figures and what is missed stand in docs/inversion.md.
"""
