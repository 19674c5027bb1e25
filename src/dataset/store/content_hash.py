"""The SHA-256 of the content of a dataset: the same on every machine, with every engine."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from src.dataset.store.folder import ARRAYS, CHUNK

Strings = Callable[[], Iterable[pa.Array]]  # yields the strings in arrays


def content_hash(
    domain_names: list[str],
    item_ids: Strings,
    user_ids: Strings,
    item_starts: np.ndarray,
    arrays: Mapping[str, np.ndarray],
) -> str:
    """SHA-256 of the content: names and ids as lengths (int64) and bytes, numbers little-endian.

    `item_starts` [D + 1] as in `Dataset`; `arrays` holds `ARRAYS` and `offsets`. Reads all in
    chunks.
    """
    digest = hashlib.sha256()
    for strings in (lambda: [pa.array(domain_names, pa.string())], item_ids, user_ids):
        _add_strings(digest, strings)
    domains = np.arange(len(domain_names), dtype="<i2")
    digest.update(np.repeat(domains, np.diff(item_starts)).data)  # of each item
    for name, dtype in {**ARRAYS, "offsets": "int64"}.items():
        array = arrays[name]
        for start in range(0, len(array), CHUNK):
            part = np.ascontiguousarray(array[start : start + CHUNK])
            digest.update(part.astype(np.dtype(dtype).newbyteorder("<"), copy=False).data)
    return digest.hexdigest()


def _add_strings(digest: Any, strings: Strings) -> None:
    """Add strings in two passes: their number and lengths, then their bytes."""
    digest.update(np.int64(sum(map(len, strings()))).tobytes())
    for add_bytes in (False, True):
        for part in strings():
            binary = part.cast(pa.large_binary())
            _, offsets, data = binary.buffers()
            ends = np.frombuffer(offsets, np.int64)
            ends = ends[binary.offset : binary.offset + len(binary) + 1]
            if add_bytes:
                digest.update(memoryview(data)[ends[0] : ends[-1]])
            else:
                digest.update(np.diff(ends).astype("<i8").data)
