"""Changes to the arrays of a dataset folder, for the tests of what refuses them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np


def change(data: Path, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace an array of the folder by what `edit` makes of it."""
    path = data / "sequences" / f"{name}.npy"
    np.save(path, edit(np.load(path)))


def put(index: int, value: int) -> Callable[[np.ndarray], np.ndarray]:
    """The edit that changes one value."""

    def edit(array):
        array[index] = value
        return array

    return edit
