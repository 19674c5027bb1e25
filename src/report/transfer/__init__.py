"""The negative-transfer report: run folders -> one page, its figures and its tables."""
