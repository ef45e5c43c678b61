"""How classes share the ranking's statistics where there are many: `python -m benchmarks.sharing`."""
