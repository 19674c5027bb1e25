"""Models to compare with: count models, and recommenders that are trained.

A file holds one of them; its name stands in a table of src/config/names.py.
"""
