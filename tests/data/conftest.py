"""The modules here load a data engine; `pytest -k WORD` loads those alone that have the word."""

from pathlib import Path


def pytest_ignore_collect(collection_path: Path, config) -> bool | None:
    """Leave out a module in whose text a single word of -k does not stand."""
    word = config.option.keyword.lower()
    if word.isidentifier() and word != "not" and collection_path.suffix == ".py":
        text = f"{collection_path}\n{collection_path.read_text()}".lower()
        return True if word not in text else None
    return None
