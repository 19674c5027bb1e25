"""Spoiling files: bytes, JSON, arrays, tables and checkpoints that were good before."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

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
VALUES = (
    None, True, False, -1, 0, 1, 2, 2**31, 2**63, -(2**63), 2**64, 10**400, 1e308, -0.0,
    float("nan"), float("inf"), 0.5, [], {}, [None], {"": None}, [[]], "1", *NAMES,
)  # fmt: skip


# ------------------------------------------------------------------------ bytes


def spoil_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to three changes of a file's bytes."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(BYTE_CHANGES)(data, rng)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    return rng.randrange(len(data) + 1)


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 32)) if data else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _remove(data: bytes, rng: random.Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + data[start + rng.choice((1, 2, 8, 100)) :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    added = rng.choice(
        (b"\0", b"\n", b"\r", b'"', b",", b"\t", b"\xff\xfe", b"\xef\xbb\xbf", rng.randbytes(9))
    )
    start = _place(data, rng)
    return data[:start] + added + data[start:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    first, second = sorted((_place(data, rng), _place(data, rng)))
    return data[:second] + data[first:second][:100_000] + data[second:]


def _swap(data: bytes, rng: random.Random) -> bytes:
    first, second, third = sorted(_place(data, rng) for _ in range(3))
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def _number(data: bytes, rng: random.Random) -> bytes:
    """Another number, or name, in the place of a run of letters and digits."""
    start = _place(data, rng)
    while start < len(data) and not data[start : start + 1].isalnum():
        start += 1
    end = start
    while end < len(data) and (data[end : end + 1].isalnum() or data[end] in b".-+"):
        end += 1
    word = rng.choice(NUMBERS + NAMES).encode("utf-8", "surrogatepass")
    return data[:start] + word + data[end:]


def _recode(data: bytes, rng: random.Random) -> bytes:
    return data.decode("latin-1").encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "utf-8")))


def _other(_: bytes, rng: random.Random) -> bytes:
    deep = rng.choice((10, 1000, 100_000))
    return rng.choice(
        (b"", b"\0", b"\n", rng.randbytes(100), b"[" * deep, b'{"a":' * deep, b'"', b"PK\x03\x04")
    )


BYTE_CHANGES = (
    _flip, _flip, _cut, _remove, _insert, _insert, _repeat, _swap, _number, _number, _number,
    _recode, _other,
)  # fmt: skip


# ------------------------------------------------------------------------ values of a tree


def spoil_tree(tree: Any, rng: random.Random, values: tuple = VALUES) -> Any:
    """One to three changes of what lies in dicts and lists; the tree itself is changed."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        holders = list(_holders(tree))
        if not holders:
            return rng.choice(values)
        holder, key = rng.choice(holders)
        _change(holder, key, rng, values)
    return tree


def _holders(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(dict or list, key) of everything below."""
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _holders(tree[key])


def _change(holder: Any, key: Any, rng: random.Random, values: tuple) -> None:
    kind = rng.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(NAMES)] = holder.pop(key)
    elif kind == 2:
        other = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        holder[key], holder[other] = holder[other], holder[key]
    elif kind == 3:
        deep: Any = holder[key]
        for _ in range(rng.choice((1, 3, 60))):
            deep = [deep]
        holder[key] = deep
    elif kind == 4 and isinstance(holder[key], torch.Tensor):
        holder[key] = spoil_tensor(holder[key], rng)
    else:
        holder[key] = rng.choice(values)


def spoil_tensor(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """The tensor with another shape, type or values."""
    changes: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: tensor[:0] if tensor.dim() else tensor[None],
        lambda: tensor[:1] if tensor.dim() else tensor[None, None],
        lambda: tensor.flatten(),
        lambda: torch.cat([tensor, tensor]) if tensor.dim() else tensor[None].repeat(2),
        lambda: tensor.to(rng.choice((torch.int8, torch.float16, torch.bool, torch.complex64))),
        lambda: torch.full_like(tensor.float(), rng.choice((float("nan"), float("inf"), 1e30, -1))),
        lambda: torch.zeros(1).expand(10**12),
        lambda: tensor.to_sparse() if tensor.dim() else tensor,
        lambda: torch.zeros(()),
    )
    return rng.choice(changes)()


# ------------------------------------------------------------------------ files by their kind


def spoil_file(path: Path, rng: random.Random) -> None:
    """Spoil a good file in a way of its kind, or any file by its bytes, or what lies there."""
    kind = rng.random()
    if kind < 0.04:
        _replace_by_something_else(path, rng)
    elif kind < 0.5 and path.suffix in BY_KIND:
        BY_KIND[path.suffix](path, rng)
    else:
        path.write_bytes(spoil_bytes(path.read_bytes(), rng))


def _replace_by_something_else(path: Path, rng: random.Random) -> None:
    path.unlink()
    kind = rng.randrange(5)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to(path.name)  # a loop
    elif kind == 2:
        path.symlink_to("nowhere")
    elif kind == 3:
        path.symlink_to("/dev/null")


def _spoil_json(path: Path, rng: random.Random) -> None:
    """One JSON value, or one a line, of which one is spoiled."""
    text = path.read_text()
    try:
        parts, place = [json.loads(text)], 0
    except ValueError:
        parts = [json.loads(line) for line in text.splitlines()]
        place = rng.randrange(len(parts))
    whole = rng.random() < 0.1
    parts[place] = rng.choice(VALUES) if whole else spoil_tree(parts[place], rng)
    lines = [json.dumps(part, ensure_ascii=rng.random() < 0.5) for part in parts]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))


def _spoil_array(path: Path, rng: random.Random) -> None:
    array = np.load(path)
    changes = (
        lambda: array.astype(rng.choice(["int8", "int64", "float32", "bool", "U4", ">i4"])),
        lambda: array[: rng.randrange(len(array) + 1)],
        lambda: array.reshape(1, -1),
        lambda: np.concatenate([array, array]),
        lambda: rng.sample(array.tolist(), len(array)),
        lambda: _with_value(array, rng),
        lambda: _with_value(array, rng),
        lambda: _with_value(array, rng),
        lambda: np.array([(1, "a")], dtype=[("a", "i4"), ("b", "U1")]),
        lambda: np.asarray(array[::-1]),
    )
    changed = np.asarray(rng.choice(changes)())
    kind = array.dtype if rng.random() < 0.5 and changed.dtype.kind in "iub" else changed.dtype
    np.save(path, changed.astype(kind, casting="unsafe"))


def _with_value(array: np.ndarray, rng: random.Random) -> np.ndarray:
    changed, limits = array.copy(), np.iinfo(array.dtype)
    value = rng.choice((0, -1, 1, 2, 3, 9, limits.min, limits.max, limits.max - 1))
    changed[rng.randrange(len(array))] = value
    return changed


def _spoil_parquet(path: Path, rng: random.Random) -> None:
    table = pq.read_table(path)
    names = table.column_names
    column = rng.choice(names)
    place = names.index(column)
    odd: list[Any] = [
        pa.nulls(len(table)), pa.array([None] * len(table), pa.string()),
        pa.array([rng.choice(NAMES[:-6])[:20].encode("utf-8", "replace").decode()] * len(table)),
        pa.array([float("nan")] * len(table)), pa.array([-1] * len(table)),
        pa.array([2**62] * len(table)), pa.array([[1]] * len(table)),
        pa.array([b"\xff"] * len(table)), pa.array([{"a": 1}] * len(table)),
        pa.array([True] * len(table)),
    ]  # fmt: skip
    changes = (
        lambda: table.drop_columns([column]),
        lambda: table.slice(rng.randrange(len(table) + 1)),
        lambda: table.slice(0, rng.randrange(len(table) + 1)),
        lambda: table.set_column(place, column, rng.choice(odd)),
        lambda: table.set_column(place, column, rng.choice(odd)),
        lambda: table.set_column(place, column, table[rng.choice(names)]),
        lambda: table.rename_columns([rng.choice(NAMES[:5]) if n == column else n for n in names]),
        lambda: table.take(pa.array(rng.sample(range(len(table)), len(table)))),
        lambda: pa.concat_tables([table, table]),
        lambda: table.append_column(column, table[column]),
    )
    pq.write_table(rng.choice(changes)(), path)


def _spoil_csv(path: Path, rng: random.Random) -> None:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    column = rng.choice(list(table))
    changes = (
        lambda: table.drop(columns=column),
        lambda: table.assign(**{column: rng.choice(NAMES + NUMBERS)}),
        lambda: table.assign(**{column: table[rng.choice(list(table))]}),
        lambda: table.sample(frac=1, random_state=rng.randrange(99)),
        lambda: table.head(rng.randrange(len(table) + 1)),
        lambda: table.rename(columns={column: rng.choice(NAMES)}),
        lambda: _with_cell(table, column, rng),
    )
    try:
        text = rng.choice(changes)().to_csv(index=False)
    except UnicodeEncodeError:  # pandas holds no half of a pair
        text = "\ud800"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def _with_cell(table: pd.DataFrame, column: str, rng: random.Random) -> pd.DataFrame:
    if len(table):
        table.loc[rng.randrange(len(table)), column] = rng.choice(NAMES + NUMBERS)
    return table


def _spoil_checkpoint(path: Path, rng: random.Random) -> None:
    state = torch.load(path, weights_only=True)
    tensors = (torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64))
    spoiled = spoil_tree(state, rng, (*VALUES, *tensors))
    torch.save(spoiled, path)


def _spoil_archive(path: Path, rng: random.Random) -> None:
    with np.load(path) as stored:
        parts = dict(stored)
    name = rng.choice(list(parts))
    odd = (np.zeros(3), np.zeros((2, 2), np.int64), np.full((12, 6), 10**6), np.array("x"), None)
    value = rng.choice((*odd, parts[name][:0] if parts[name].ndim else parts[name]))
    parts.pop(name) if value is None else parts.update({name: value})
    np.savez_compressed(path, **parts)


BY_KIND: dict[str, Callable[[Path, random.Random], None]] = {
    ".json": _spoil_json, ".npy": _spoil_array, ".parquet": _spoil_parquet, ".csv": _spoil_csv,
    ".pt": _spoil_checkpoint, ".npz": _spoil_archive,
}  # fmt: skip


@contextmanager
def spoiled(path: Path, rng: random.Random) -> Iterator[None]:
    """A good file, spoiled in here, and as it was afterwards."""
    good = path.read_bytes()
    remove(path)  # another file: the good one may be mapped into memory
    try:
        path.write_bytes(good)
        spoil_file(path, rng)
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
