"""What is read off finished runs: tables, comparisons, figures, the negative-transfer report."""
