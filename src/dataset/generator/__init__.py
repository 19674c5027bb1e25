"""Generated logs with known transfer: `python -m src.dataset.generator --preset NAME --out DIR`."""
