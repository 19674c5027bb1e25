"""The runner of experiments: specs, the queue, searches and tables (experiments/run.py)."""
