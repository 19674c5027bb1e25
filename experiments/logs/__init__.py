"""The real logs of the published tables: from the publishers' files to the log a spec reads."""
