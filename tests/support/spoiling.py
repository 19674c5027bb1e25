"""Good files spoiled by hypothesis: their bytes, or JSON, arrays, tables and checkpoints by parts.

`draw` is that of `st.data()`, so that what hypothesis finds it also shrinks and repeats.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

Draw = Callable[[st.SearchStrategy], Any]

NUMBERS = (
    "-1", "0", "1", "-0.0", "2147483648", "-9223372036854775809", "18446744073709551616", "1e400",
    "-1e400", "1e-400", "NaN", "nan", "Infinity", "-inf", "0x10", "1_000", "9" * 5000, "1e308",
    "10000000000000000000000000000000", "1.5", "true", "null", '""', "[]", "{}", "٣",
)  # fmt: skip
NAMES = (
    "", ".", "..", "../../up", "/etc/passwd", "a\0b", "two\nlines", "tab\there", "x" * 300, "CON",
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "it's", "a|b",
    "\x1b[2J", "\x1b]0;title\x07", "\u202egnp.exe", "\u2066x\u2069", "\ud800", "é", "🙂", "%2e%2e",
    "macro", "users", "n", "\r", "\u2028", "-", "--hidden=9", "NA", "null", "=1+1", "$x$",
)  # fmt: skip
words = st.sampled_from(NUMBERS + NAMES) | st.text(max_size=9)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | words
    | st.sampled_from((10**400, 2**31, 2**63, -1, 0))
)  # fmt: skip
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=9,
)
cells = (  # what a column of a Parquet file can hold
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats()
    | st.text(max_size=9) | st.binary(max_size=4) | st.lists(st.integers(0, 9), max_size=2)
    | st.just({"a": 1})
)  # fmt: skip
any_array = arrays.arrays(
    arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, max_dims=3, max_side=6)
)
FRAGMENTS = (
    b"", b"\0", b"\n", b"\r", b'"', b",", b"\t", b"\xff\xfe", b"\xef\xbb\xbf", b"PK\x03\x04",
    b"[" * 100_000, b'{"a":' * 1000,
)  # fmt: skip


def spoiled_bytes(draw: Draw, good: bytes) -> bytes:
    """The content with a word or any other part of it replaced, taken out or added to."""
    spans = [found.span() for found in re.finditer(rb"[\w.+-]+", good[:100_000])]
    spans = spans or [(0, len(good))]
    if draw(st.booleans()):
        start, end = spans[draw(st.integers(0, len(spans) - 1))]
    else:
        edges = st.integers(0, len(good))
        start, end = sorted((draw(edges), draw(edges | st.just(len(good)))))
    encoded = words.map(lambda word: word.encode("utf-8", "surrogatepass"))
    part = draw(st.sampled_from(FRAGMENTS) | encoded | st.binary(max_size=9))
    return good[:start] + part + good[end:]


def _holders(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(dict or list, key) of everything below."""
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _holders(tree[key])


def _spoil_tree(draw: Draw, tree: Any, values: st.SearchStrategy = json_values) -> Any:
    """The tree with one value changed, renamed or taken out; a new one where nothing is in it."""
    holders = list(_holders(tree))
    if not holders or draw(st.integers(0, 9)) == 0:
        return draw(values)
    holder, key = holders[draw(st.integers(0, len(holders) - 1))]
    change = draw(st.sampled_from(("replace", "replace", "remove", "rename")))
    value = holder.pop(key)
    if change == "rename" and isinstance(holder, dict):
        holder[draw(words)] = value
    elif change == "replace":
        if isinstance(value, torch.Tensor) and draw(st.booleans()):
            value = draw(st.sampled_from(_other_tensors(value)))
        else:
            value = draw(values)
        holder.insert(key, value) if isinstance(holder, list) else holder.update({key: value})
    return tree


def _other_tensors(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensor with another shape, type or values."""
    return [
        tensor[:0] if tensor.dim() else tensor[None], tensor.flatten(), tensor[None],
        tensor.to(torch.int8), tensor.to(torch.complex64), torch.full_like(tensor.float(), 1e30),
        torch.full_like(tensor.float(), float("nan")), torch.zeros(1).expand(10**12),
        tensor.to_sparse() if tensor.dim() else tensor,
    ]  # fmt: skip


def _spoil_json(draw: Draw, path: Path) -> None:
    """One JSON value, or one a line, of which one is spoiled."""
    lines = path.read_text().splitlines()
    try:
        parts = [json.loads("\n".join(lines))]
    except ValueError:
        parts = [json.loads(line) for line in lines]
    number = draw(st.integers(0, len(parts) - 1))
    parts[number] = _spoil_tree(draw, parts[number])
    text = "\n".join(json.dumps(part, ensure_ascii=False) for part in parts)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def _spoil_checkpoint(draw: Draw, path: Path) -> None:
    tensors = any_array.filter(lambda array: array.dtype.kind in "biufc").map(_as_tensor)
    state = torch.load(path, weights_only=True)
    torch.save(_spoil_tree(draw, state, json_values | tensors), path)


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    except TypeError:  # torch lacks some of numpy's types
        return torch.zeros(array.shape)


def _spoil_array(draw: Draw, path: Path) -> None:
    good = np.load(path)
    changed = good.copy()
    limits = np.iinfo(good.dtype)
    changed[draw(st.integers(0, len(good) - 1))] = draw(st.integers(limits.min, limits.max))
    others = (
        changed, changed, good[: draw(st.integers(0, len(good)))], good[::-1],
        np.concatenate([good, good]), good.reshape(1, -1), good.astype("float32"),
        good.astype("int64"), good.astype(">i4"), good.astype("U4"), draw(any_array),
    )  # fmt: skip
    np.save(path, others[draw(st.integers(0, len(others) - 1))])


def _spoil_archive(draw: Draw, path: Path) -> None:
    with np.load(path) as stored:
        parts = dict(stored)
    name = draw(st.sampled_from(sorted(parts)))
    good = parts.pop(name)
    if draw(st.booleans()):
        parts[name] = draw(any_array | st.just(good.ravel()[:0]) | st.just(np.full((12, 6), 10**6)))
    np.savez_compressed(path, **parts)


def _spoil_parquet(draw: Draw, path: Path) -> None:
    table = pq.read_table(path)
    names = table.column_names
    column, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
    rows, index = len(table), names.index(column)
    renamed = [draw(st.text(max_size=9)) if name == column else name for name in names]
    changes: tuple[Callable[[], pa.Table], ...] = (
        lambda: table.set_column(index, column, pa.array([draw(cells)] * rows)),
        lambda: table.set_column(index, column, table[other]),
        lambda: table.drop_columns([column]),
        lambda: table.rename_columns(renamed),
        lambda: table.append_column(column, table[column]),
        lambda: table.slice(draw(st.integers(0, rows)), draw(st.integers(0, rows))),
        lambda: table.take(pa.array(draw(st.permutations(range(min(rows, 50)))))),
        lambda: pa.concat_tables([table, table]),
    )
    pq.write_table(changes[draw(st.integers(0, len(changes) - 1))](), path)


BY_SUFFIX: dict[str, Callable[[Draw, Path], None]] = {
    ".json": _spoil_json, ".npy": _spoil_array, ".parquet": _spoil_parquet,
    ".pt": _spoil_checkpoint, ".npz": _spoil_archive,
}  # fmt: skip


def _replace(draw: Draw, path: Path) -> None:
    """Put a folder or a link in the file's place, or nothing."""
    path.unlink()
    target = draw(st.sampled_from(("nothing", "folder", path.name, "nowhere", "/dev/null")))
    if target == "folder":
        path.mkdir()
    elif target != "nothing":
        path.symlink_to(target)  # to itself, to no file, or to an empty one


@contextmanager
def spoiled(draw: Draw, path: Path) -> Iterator[None]:
    """A good file, spoiled within the context and restored after it."""
    good = path.read_bytes()
    remove(path)  # another file: the good one may be mapped into memory
    try:
        path.write_bytes(good)
        how = draw(st.sampled_from(("parts",) * 5 + ("bytes",) * 4 + ("file",)))
        if how == "file":
            _replace(draw, path)
        elif how == "parts" and path.suffix in BY_SUFFIX:
            BY_SUFFIX[path.suffix](draw, path)
        else:
            path.write_bytes(spoiled_bytes(draw, good))
        yield
    finally:
        remove(path)
        path.write_bytes(good)


def remove(path: Path) -> None:
    """Remove what lies at a path, whatever it is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
