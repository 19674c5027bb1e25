"""Tables of items beside a log: which may be listed, and what they are called."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from src.dataset.store.folder import Dataset
from src.dataset.store.spelling import as_written
from src.io.errors import UserError, plain

JSON, PARQUET, TEXT = (".jsonl", ".ndjson", ".json"), (".parquet", ".pq"), (".csv", ".tsv")
DELIMITERS = ("\t", ";", "|", ",")


@dataclass(frozen=True)
class Candidates:
    """The only items that may be listed."""

    items: np.ndarray  # dense ids, ascending
    line: str  # what to say of them

    def domains(self, dataset: Dataset) -> set[int]:
        """The domains that they are of."""
        return set((np.searchsorted(dataset.item_starts, self.items, side="right") - 1).tolist())


def read_candidates(path: str, dataset: Dataset) -> Candidates:
    """The items of a file: an id per line, or a table of item_id and, if it has it, domain.

    An id without a domain is the item of that id in every domain. UserError for a file that cannot
    be read or names no item of the dataset.
    """
    what = f"--candidates {path}"
    if path.endswith((*JSON, *PARQUET, *TEXT)):
        table = read_table(path, what)
        if "item_id" not in table.column_names:
            raise UserError(f"{what} has no column item_id (its columns: {_names(table)})")
        domains = table["domain"] if "domain" in table.column_names else None
        ids = table["item_id"]
    else:
        ids, domains = pa.chunked_array([pa.array(read_lines(path, what), pa.string())]), None
    item, row = matched_items(dataset, ids, domains)
    items = np.unique(item)
    unknown = np.setdiff1d(np.arange(len(ids)), row)
    if not len(items):
        raise UserError(f"{what} names no item of {dataset.folder}")
    line = f"{what}: {len(items):,} of {dataset.item_rows - 1:,} items may be listed"
    if len(unknown):
        first = plain(str(ids[int(unknown[0])]))
        line += f"; {len(unknown):,} of {len(ids):,} rows name no item (first: {first})"
    return Candidates(items, line)


@dataclass(frozen=True)
class ItemNames:
    """A name for each item, as a further column of the lists."""

    column: str
    names: pa.Array  # [V] by dense id less 1; null for an item without a name
    line: str

    @property
    def field(self) -> pa.Field:
        """The column, as part of a schema."""
        return pa.field(self.column, self.names.type)

    def add(self, table: pa.Table, items: np.ndarray) -> pa.Table:
        """The table of lists with the names of its rows' `items`, dense ids."""
        return table.append_column(self.field, self.names.take(pa.array(items - 1)))


def read_item_names(words: str, dataset: Dataset, taken: list[str]) -> ItemNames:
    """The names that FILE:KEY:COLUMN describes: KEY is the column of the item's id, COLUMN that of
    its name. Where the file has a column domain, an id is the item of that domain.

    UserError for a file or column that is not there, one of the `taken` names, or no match.
    """
    path, _, rest = words.rpartition(":")
    path, _, key = path.rpartition(":")
    if not (path and key and rest):
        raise UserError(
            f"--item_names {words!r} must be FILE:KEY:COLUMN, as in articles.csv:article_id:title"
        )
    what = f"--item_names {path}"
    table = read_table(path, what)
    for name in (key, rest):
        if table.column_names.count(name) != 1:
            raise UserError(f"{what} has no column {name!r} (its columns: {_names(table)})")
    if rest in taken:
        raise UserError(f"{what}: the lists have a column {rest!r} already; rename it in the file")
    domains = table["domain"] if "domain" in table.column_names else None
    item, row = matched_items(dataset, table[key], domains)
    if not len(item):
        raise UserError(f"{what}: no {key} is the id of an item of {dataset.folder}")
    where = np.full(dataset.item_rows - 1, -1)
    where[item[::-1] - 1] = row[::-1]  # of several rows the first
    names = table[rest].combine_chunks().take(pa.array(where, mask=where < 0))
    count = int((where >= 0).sum())
    return ItemNames(rest, names, f"{what}: {count:,} of {len(where):,} items have a {rest}")


def matched_items(
    dataset: Dataset, ids: pa.ChunkedArray, domains: pa.ChunkedArray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Dense ids of items and the row [ids] that names each: by id and domain, or by id alone."""
    options = dataset.card.get("options", {})
    spelling = options.get("strip", False), options.get("fold_case", False)
    ids = as_written(pc.cast(ids, pa.large_string()).combine_chunks(), *spelling)
    known = pc.cast(dataset.item_ids, pa.large_string())
    if domains is not None and not options.get("shared_items", False):
        names = as_written(pc.cast(domains, pa.large_string()), *spelling)
        values = pa.array(dataset.domain_names, pa.large_string())
        asked = pc.fill_null(pc.index_in(names, value_set=values), -1).to_numpy()
    else:
        asked = None
    items, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for domain in range(len(dataset.domain_names)):
        first, end = dataset.item_starts[domain : domain + 2].tolist()
        row = np.arange(len(ids)) if asked is None else np.flatnonzero(asked == domain)
        place = pc.index_in(ids.take(pa.array(row)), value_set=known.slice(first - 1, end - first))
        place = pc.fill_null(place, -1).to_numpy(zero_copy_only=False)
        items.append(first + place[place >= 0].astype(np.int64))
        rows.append(row[place >= 0])
    return np.concatenate(items), np.concatenate(rows)


def read_lines(path: str, what: str) -> list[str]:
    """The ids in a text file, one per line, without empty lines."""
    try:
        # not `splitlines`, which also splits at characters that an id may have, such as U+2028
        ids = [line for line in Path(path).read_text("utf-8-sig").split("\n") if line]
    except OSError as error:
        raise UserError(f"{what} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{what} is not UTF-8 text; save it as UTF-8") from None
    if not ids:
        raise UserError(f"{what} holds no id; write one per line, or drop it")
    return ids


def read_table(path: str, what: str) -> pa.Table:
    """The columns of a CSV, TSV, JSON lines or Parquet file as text; UserError for another file."""
    try:
        if path.endswith(PARQUET):
            table = pq.read_table(path)
        elif path.endswith(JSON):
            table = pyarrow.json.read_json(path)
        else:
            table = _read_text(path)
        return pa.table(
            {name: pc.cast(table[name], pa.string()) for name in dict.fromkeys(table.column_names)}
        )
    except OSError as error:
        raise UserError(f"{what} cannot be read ({error.strerror or error})") from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = plain(str(error))[:200]
        raise UserError(f"{what} is no table of items ({reason}); see docs/serving.md") from None


def _read_text(path: str) -> pa.Table:
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
    delimiter = max(DELIMITERS, key=header.count)
    names = [name.strip().strip('"') for name in header.rstrip("\r\n").split(delimiter)]
    return pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(column_names=names, skip_rows=1),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )


def _names(table: pa.Table) -> str:
    return plain(", ".join(table.column_names))
