"""Reports on finished runs: tables, paired comparisons, protocols, the transfer report."""
