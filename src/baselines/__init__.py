"""Models to compare with: count models, and recommenders that are trained.

Each has one file, and one entry in a table of src/config/names.py.
"""
