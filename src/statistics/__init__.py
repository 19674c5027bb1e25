"""Statistics over users: bootstrap, permutation test, Holm correction."""
