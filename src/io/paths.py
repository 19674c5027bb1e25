"""Where the repository lies: the defaults runs/ and src/dataset/ are in it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
