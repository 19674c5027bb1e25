"""Simple recommenders that stand in every table."""

BASELINES = ("popularity", "markov")  # their names as ranking paths
