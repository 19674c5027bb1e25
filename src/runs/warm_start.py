"""Start a new run from the weights of a finished one: match items and domains, copy their rows.

Dense ids differ between dataset folders, so items are matched by (domain, item_id) and domains by
name. Items and domains that the former run does not have keep their initial weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from src.config.identity import architecture
from src.config.settings import Settings, run_settings
from src.dataset.store.folder import Dataset, open_named
from src.interfaces import Recommender
from src.io.errors import UserError
from src.runs.checkpoints import load_checkpoint
from src.runs.records import read_environment

NEW = -1  # in a mapping: a row that the former run does not have


# ------------------------------------------------------------------------ items and domains


@dataclass(frozen=True)
class Vocabulary:
    """The items of a dataset by domain: those of domain d are rows item_starts[d] …
    item_starts[d + 1] − 1 of the item table; row 0 is padding."""

    domain_names: list[str]  # D
    item_starts: np.ndarray  # [D + 1] int64
    item_ids: pa.ChunkedArray  # [items] ids of the log; item i has index i − 1

    @property
    def rows(self) -> int:
        """Items plus one."""
        return int(self.item_starts[-1])

    def ids(self, domain: int) -> pa.Array:
        """The ids of a domain's items."""
        first, end = (int(start) for start in self.item_starts[domain : domain + 2])
        return _strings(self.item_ids.slice(first - 1, end - first))

    def only(self, domain: int) -> "Vocabulary":
        """One domain alone, its items numbered from 1 as in `Dataset.only_domain`."""
        ids = pa.chunked_array([self.ids(domain)])
        return Vocabulary([self.domain_names[domain]], np.array([1, len(ids) + 1]), ids)


def vocabulary_of(dataset: Dataset) -> Vocabulary:
    """The vocabulary of a dataset, or of one domain of it."""
    return Vocabulary(dataset.domain_names, dataset.item_starts, dataset.item_ids)


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary in an items.parquet. UserError where it cannot be read."""
    try:
        table = pq.read_table(path, columns=["item_id", "domain"])
        names, ids = _strings(table["domain"]), _strings(table["item_id"])
    except Exception as error:  # a damaged table fails in many ways
        raise UserError(f"{path} cannot be read ({type(error).__name__})") from None
    if names.null_count or ids.null_count:
        raise UserError(f"{path} has items without an id or a domain")
    domains = names.dictionary_encode()  # numbered in the order of the file
    codes = domains.indices.to_numpy()
    if (np.diff(codes) < 0).any():
        raise UserError(f"{path}: the items of a domain are not contiguous")
    names = domains.dictionary.to_pylist()
    counts = np.bincount(codes, minlength=len(names))
    starts = np.concatenate([[1], 1 + np.cumsum(counts)]).astype(np.int64)
    return Vocabulary(names, starts, table["item_id"])


def _strings(ids: pa.ChunkedArray) -> pa.Array:
    return pc.cast(ids, pa.large_string()).combine_chunks()


def match_domains(former: Sequence[str], now: Sequence[str]) -> np.ndarray:
    """[domains now] the number of each in the former run, by name; NEW where it is missing."""
    numbers = {name: number for number, name in enumerate(former)}
    return np.array([numbers.get(name, NEW) for name in now], dtype=np.int64)


def match_items(former: Vocabulary, now: Vocabulary) -> np.ndarray:
    """[item rows now] the row of each in the former item table, by domain name and item id; NEW
    where it is missing. Padding maps to padding."""
    rows = np.full(now.rows, NEW, dtype=np.int64)
    rows[0] = 0
    for domain, source in enumerate(match_domains(former.domain_names, now.domain_names)):
        if source == NEW:
            continue
        indices = pc.index_in(now.ids(domain), value_set=former.ids(source))
        indices = pc.fill_null(indices, NEW).to_numpy(zero_copy_only=False)
        first, end = now.item_starts[domain : domain + 2]
        rows[first:end] = np.where(indices == NEW, NEW, former.item_starts[source] + indices)
    return rows


# ------------------------------------------------------------------------ weights


def carry_over(
    fresh: dict[str, Tensor],
    former: dict[str, Tensor],
    items: np.ndarray,
    domains: np.ndarray,
    rows_of: Callable[[str], str],
) -> dict[str, Tensor]:
    """The state of a model that starts from a former one: rows of items and domains by the
    mappings of `match_items` and `match_domains`, NEW rows as in `fresh`, all else as in `former`.

    `rows_of` maps a tensor's name to what its rows are: `items`, `domains` or `whole`. Raises
    ValueError where the two models differ in more than items and domains.
    """
    if fresh.keys() != former.keys():
        raise ValueError(f"other parameters: {', '.join(sorted(fresh.keys() ^ former.keys()))}")
    mappings, merged = {"items": items, "domains": domains}, {}
    for name, value in fresh.items():
        stands_for, source = rows_of(name), former[name]
        whole = stands_for == "whole"
        if value.shape[not whole :] != source.shape[not whole :] or value.dim() != source.dim():
            raise ValueError(f"{name} is {list(source.shape)}, not {list(value.shape)}")
        if source.is_complex() or source.layout != value.layout:
            raise ValueError(f"{name} is {source.dtype} {source.layout}")
        if not whole and len(source) <= mappings[stands_for].max():
            raise ValueError(f"{name} has {len(source)} rows")
        merged[name] = source if whole else copy_rows(value, source, mappings[stands_for])
    return merged


def copy_rows(fresh: Tensor, former: Tensor, mapping: np.ndarray) -> Tensor:
    """`fresh` [n, …] with row i replaced by row mapping[i] of `former`, unless that is NEW."""
    known = np.flatnonzero(mapping != NEW)
    rows = former[torch.from_numpy(mapping[known]).to(former.device)]
    return fresh.index_copy(0, torch.from_numpy(known).to(fresh.device), rows.to(fresh))


# ------------------------------------------------------------------------ the former run


@dataclass(frozen=True)
class Former:
    """A finished run that another one starts from."""

    folder: Path
    settings: Settings
    data_sha256: str
    vocabulary: Vocabulary
    dataset: Dataset | None  # its training data, if the folder still exists

    def part(self, names: list[str]) -> tuple[Path, Vocabulary] | None:
        """The checkpoint for a model of the domains `names`, and its vocabulary; None where a
        separate model's domain is new."""
        if not self.settings.per_domain:
            return self.folder / "best.pt", self.vocabulary
        (name,) = names
        if name not in self.vocabulary.domain_names:
            return None
        number = self.vocabulary.domain_names.index(name)
        return self.folder / "domains" / str(number) / "best.pt", self.vocabulary.only(number)


def open_former(folder: Path) -> Former:
    """Open the run folder of `--init_from`, and its dataset where that still exists.

    The ids of its items are in the run folder or, for runs of earlier versions, in its dataset
    folder. Raises UserError where both are missing, or the run is not finished.
    """
    if not (folder / "results.json").is_file():
        raise UserError(f"--init_from {folder} holds no finished run (no results.json)")
    settings = run_settings(folder)
    sha256 = read_environment(folder)["data_sha256"]
    dataset = _former_dataset(settings, sha256)
    items = folder / "items.parquet"
    if not items.is_file():
        if dataset is None:
            raise UserError(
                f"--init_from {folder} lacks items.parquet, and the dataset it was trained on "
                f"(sha256 {sha256[:12]}…) is gone; make that dataset again with make_dataset.py"
            )
        items = dataset.folder / "items.parquet"
    return Former(folder, settings, sha256, read_vocabulary(items), dataset)


def _former_dataset(settings: Settings, sha256: str) -> Dataset | None:
    try:
        dataset = open_named(settings)
    except UserError:
        return None
    return dataset if dataset.card["sha256"] == sha256 else None


def check_former(former: Former, settings: Settings, dataset: Dataset, run: Path) -> None:
    """Refuse a former run that the run in folder `run` cannot start from (UserError).

    Its checkpoints are checked by `former_state`.
    """
    given = f"--init_from {former.folder}"
    if run.resolve() == former.folder.resolve():
        raise UserError(f"{given} is the run to be trained itself; give another --run_name")
    before = architecture(former.settings)
    for name, wanted in architecture(settings).items():
        was = before.get(name)
        if was != wanted:
            raise UserError(
                f"{given} was trained with --{name} {was}, and this run has --{name} {wanted}; "
                "give both the same value, or train without --init_from"
            )
    if (match_items(former.vocabulary, vocabulary_of(dataset))[1:] == NEW).all():
        raise UserError(
            f"{given} and {dataset.folder} have no item (domain and id) in common, so they are "
            "not of the same log; train without --init_from"
        )


def former_state(former: Former, dataset: Dataset) -> tuple[dict[str, Any], Vocabulary] | None:
    """The checkpoint for a model on `dataset` (or one domain of it), and the vocabulary of its
    rows; None where the former run has no such model.

    Raises UserError for a checkpoint that is missing, damaged, or of another vocabulary.
    """
    part = former.part(dataset.domain_names)
    if part is None:
        return None
    path, vocabulary = part
    state = load_checkpoint(path, mapped=True)
    items = state["model"].get("item_table")
    if items is None or items.dim() != 2:
        raise UserError(f"{path} has no item table; train that run again")
    if len(items) != vocabulary.rows:
        raise UserError(
            f"{path} holds {len(items) - 1} items, and its vocabulary {vocabulary.rows - 1}; "
            "train that run again"
        )
    return state, vocabulary


def initial_state(
    former: Former, dataset: Dataset, fresh: dict[str, dict[str, Tensor]], model: Recommender
) -> dict[str, dict[str, Tensor]] | None:
    """The initial states of a run in place of `fresh`: {"model": weights, "lc_ntg": …,
    "weighting": …}; None as in `former_state`.

    The states of the loss weighting have one row per domain; where the former run's weighting has
    other states, they stay fresh.
    """
    checkpoint = former_state(former, dataset)
    if checkpoint is None:
        return None
    state, known = checkpoint
    now = vocabulary_of(dataset)
    items, domains = match_items(known, now), match_domains(known.domain_names, now.domain_names)
    state = state | {"lc_ntg": {"state": state.get("lc_ntg")}}
    carried = dict(fresh)
    try:
        for part, values in fresh.items():
            rows_of = model.rows_of if part == "model" else _by_domain
            if part == "model" or set(values) == set(_tensors(state.get(part))):
                carried[part] = carry_over(values, state[part], items, domains, rows_of)
    except ValueError as error:
        raise UserError(
            f"--init_from {former.folder} is not a model of this version ({error}); train it again"
        ) from None
    return carried


def _by_domain(name: str) -> str:
    return "domains"


def _tensors(state: Any) -> list[str]:
    """The names of the tensors in a part of a checkpoint."""
    if not isinstance(state, dict):
        return []
    return [name for name, value in state.items() if isinstance(value, Tensor)]


# ------------------------------------------------------------------------ records


def init_record(former: Former, dataset: Dataset) -> dict:
    """The entry of environment.json about the former run: its folder and data, the numbers of
    matched, new and gone domains and items, and how many of the held-out events it was trained on
    (null where its data is gone)."""
    from src.runs.contamination import trained_targets  # loads pandas, for this alone

    known, now = former.vocabulary, vocabulary_of(dataset)
    domains = match_domains(known.domain_names, now.domain_names)
    return {
        "run": former.folder.name,
        "data_sha256": former.data_sha256,
        "domains": _counts(domains, len(known.domain_names)),
        "items": _counts(match_items(known, now)[1:], known.rows - 1),
        "trained_targets": former.dataset and trained_targets(former.dataset, dataset),
    }


def _counts(mapping: np.ndarray, former: int) -> dict[str, int]:
    matched = int((mapping != NEW).sum())
    return {"matched": matched, "new": len(mapping) - matched, "gone": former - matched}


def init_line(record: dict) -> str:
    """One line for the console; a second one where held-out events were trained on."""
    parts = [
        f"{record[name]['matched']} {name} matched ({record[name]['new']} new, "
        f"{record[name]['gone']} gone)"
        for name in ("domains", "items")
    ]
    trained = record["trained_targets"]
    seen = "unknown whether it was trained on held-out events: its dataset folder is gone"
    if trained is not None:
        seen = (
            f"it was trained on {trained['valid']} held-out events of validation and "
            f"{trained['test']} of test"
        )
        if trained["valid"] or trained["test"]:
            seen += "\nWARNING: it knows some of this run's targets: its figures will be too good"
    return f"starting from {record['run']}: {', '.join(parts)}; {seen}"
