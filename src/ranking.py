"""Where data, model and evaluation meet: the targets of a split, and the rank of each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from tqdm import tqdm

from src.baselines import BASELINES
from src.baselines.markov import Markov
from src.baselines.popularity import Popularity
from src.dataset import batches
from src.dataset.folder import TEST, VALID, Dataset
from src.errors import UserError
from src.evaluation.candidates import sampled_candidates, stored_candidates
from src.evaluation.ranks import (
    FEWEST,
    Counts,
    NonFiniteScore,
    Scores,
    count_ranks,
    rows_at_once,
    to_device,
)

SPLITS = {"valid": VALID, "test": TEST}
CPU = torch.device("cpu")
KEYS_AT_ONCE = 2**16  # targets whose windows are held at a time to find equal ones
Scorer = Callable[[int, np.ndarray], Scores]  # (domain, rows of the targets) -> their scores


@dataclass(frozen=True)
class Targets:
    """The n events of a split that are to be ranked, among the items of their domains."""

    split: str
    events: np.ndarray  # [n] places in the dataset's flat arrays; the context ends before
    users: np.ndarray  # [n]
    items: np.ndarray  # [n]
    domains: np.ndarray  # [n]


@dataclass(frozen=True)
class Ranks:
    """For each target how many candidates score higher and how many the same (itself included)."""

    better: np.ndarray  # [n]
    tied: np.ndarray  # [n]
    candidates: np.ndarray  # [n] how many were ranked, the target included


def split_targets(dataset: Dataset, split: str) -> Targets:
    """All targets of `valid` or `test`."""
    events = np.flatnonzero(np.asarray(dataset.split) == SPLITS[split])
    users = np.searchsorted(dataset.offsets, events, side="right") - 1
    items, domains = dataset.items[events], dataset.domains[events]
    return Targets(split, events, users, items.astype(np.int64), domains.astype(np.int64))


def target_candidates(
    dataset: Dataset, targets: Targets, count: int, seed: int, folder: Path
) -> np.ndarray:
    """[n, count] stored negatives of each target: columns of its domain's items, −1 where none.

    `dataset` is the whole one, also where each domain has a model of its own.
    """
    sizes = np.diff(dataset.item_starts)
    columns = targets.items - dataset.item_starts[targets.domains]
    key = {
        "data_sha256": dataset.card["sha256"],
        "domains": dataset.domain_names,
        "split": targets.split,
        "negatives": count,
        "seed": seed,
    }
    return stored_candidates(
        folder / f"{targets.split}-{key['data_sha256'][:12]}-{count}-{seed}.npz",
        key,
        lambda: sampled_candidates(columns, targets.domains, sizes, count, seed),
    )


def rank_targets(
    scorer: Scorer,
    dataset: Dataset,
    targets: Targets,
    negatives: np.ndarray | None,
    rows: np.ndarray,
    device: torch.device = CPU,
    bar: bool = False,
) -> dict[str, Ranks]:
    """Rank the targets `rows` in one scoring pass: `full` and, with negatives, `sampled`.

    The scorer is asked for a block of rows of one domain, and then for its scores a chunk of the
    domain's items at a time, on `device`: no tensor over targets and items is held. The other rows
    of the ranks stay 0, so the ranks of several processes add up. A score that is not finite raises
    UserError with the user and the item. With `bar`, progress is shown on a terminal.
    """
    found = {"full": _no_ranks(len(targets.events))}
    if negatives is not None:
        found["sampled"] = _no_ranks(len(targets.events))
    sizes = np.diff(dataset.item_starts)
    blocks = list(_blocks(sizes, targets, rows, device))
    for domain, block in tqdm(blocks, "score", leave=False, disable=None if bar else True):
        filled = np.resize(block, max(len(block), FEWEST))  # the first ones again
        columns = targets.items[filled] - dataset.item_starts[domain]
        drawn = None if negatives is None else negatives[filled]
        try:
            counts = count_ranks(scorer(domain, filled), int(sizes[domain]), columns, drawn, device)
        except NonFiniteScore as fault:
            raise _name_fault(fault, dataset, targets, domain, filled) from None
        _fill(found["full"], block, counts[0], sizes[domain])
        if negatives is not None:
            _fill(found["sampled"], block, counts[1], 1 + (negatives[block] >= 0).sum(1))
    return found


def _no_ranks(count: int) -> Ranks:
    return Ranks(*(np.zeros(count, dtype=np.int64) for _ in range(3)))


def _fill(ranks: Ranks, rows: np.ndarray, counts: Counts, candidates: np.ndarray) -> None:
    ranks.better[rows] = counts.better[: len(rows)]
    ranks.tied[rows] = counts.tied[: len(rows)]
    ranks.candidates[rows] = candidates


def _blocks(
    sizes: np.ndarray, targets: Targets, rows: np.ndarray, device: torch.device
) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of one domain at a time, in even blocks as large as the domain's items allow."""
    for domain, items in enumerate(sizes.tolist()):
        own = rows[targets.domains[rows] == domain]
        if len(own):
            count = -(-len(own) // rows_at_once(items, device))
            yield from ((domain, block) for block in np.array_split(own, count))


def _name_fault(
    fault: NonFiniteScore, dataset: Dataset, targets: Targets, domain: int, rows: np.ndarray
) -> UserError:
    user = dataset.user_ids[int(targets.users[rows[fault.row]])]
    item = dataset.item_ids[int(dataset.item_starts[domain]) - 1 + fault.column]
    return UserError(
        f"the score of item {item} ({dataset.domain_names[domain]}) for user {user} is not "
        "finite: the model has diverged; lower --lr or set --clip_norm"
    )


@torch.no_grad()
def encode_targets(
    model, dataset: Dataset, targets: Targets, path: str, rows: np.ndarray, *,
    max_len: int, context: str, users_at_once: int, device: torch.device, bar: bool = False,
) -> Tensor:  # fmt: skip
    """h of each target in `rows` from its context alone: [rows, H].

    The target is the last event of its window, so the input is the newest `max_len` − 1 events
    before it; the single view keeps those of its domain, or has as many of its own (`own`). Targets
    with equal inputs (the same items before them and, where the path looks at it, the same domain)
    are encoded once and share one h. With `bar`, progress is shown on a terminal.
    """

    def windows(some: np.ndarray) -> batches.Windows:
        users, ends = targets.users[some], targets.events[some] + 1
        events = batches.context_windows(dataset, users, ends, max_len, context)
        if path == "single":
            events = batches.only_domains(dataset, events, targets.domains[some])
        return events

    # The single view starts with its domain and has its tower; the cross view may be told it.
    told = path == "single" or model.settings.target_domain_query
    domains = targets.domains if told else np.zeros_like(targets.domains)
    keys = [
        _input_keys(dataset, windows(some), domains[some]) for some in _parts(rows, KEYS_AT_ONCE)
    ]
    first, same = _distinct_rows(keys)
    outputs = [torch.zeros(0, model.settings.hidden, device=device)]  # no rows, no targets
    parts = list(_parts(rows[first], users_at_once))
    for some in tqdm(parts, f"rank {path}", leave=False, disable=None if bar else True):
        batch = batches.build_batch(dataset, windows(some), seed=0, epoch=0).to(device)
        outputs.append(model.last_outputs(batch, path).float())
    return torch.cat(outputs)[to_device(same, device)]


def _parts(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _input_keys(dataset: Dataset, windows: batches.Windows, domains: np.ndarray) -> np.ndarray:
    """[n, longest window] int32: the domain of each target, then the items before it, then 0.

    `domains` [n] is what the path knows of it. An item says its own domain, so rows are equal where
    the inputs are. The windows end with the target, which is no input.
    """
    lengths = np.bincount(windows.rows, minlength=len(domains))
    ends = np.cumsum(lengths)
    places = 1 + np.arange(len(windows.rows)) - np.repeat(ends - lengths, lengths)
    keys = np.zeros((len(domains), int(lengths.max(initial=1))), dtype=np.int32)
    before = places < lengths[windows.rows]
    keys[windows.rows[before], places[before]] = dataset.items[windows.events[before]]
    keys[:, 0] = domains
    return keys


def _distinct_rows(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each kind among the rows of all parts, in their order, and the kind of each.

    Rows of different parts are compared as if filled up with zeros.
    """
    count, width = sum(map(len, parts)), max((part.shape[1] for part in parts), default=1)
    keys = np.zeros((count, width), dtype=np.int32)
    start = 0
    for part in parts:
        keys[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    whole = keys.view(np.dtype((np.void, keys.itemsize * width)))[:, 0]  # a row as one value
    _, first, kind = np.unique(whole, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[kind]


def model_scorer(model, hidden: Tensor, rows: np.ndarray, count: int) -> Scorer:
    """A model as a scorer of the targets `rows`, out of `count`, whose h [rows, H] are given."""
    places = np.zeros(count, dtype=np.int64)
    places[rows] = np.arange(len(rows))

    def scorer(domain: int, some: np.ndarray) -> Scores:
        own = hidden[to_device(places[some], hidden.device)]  # [some, H]

        @torch.no_grad()
        def scores(columns: slice | Tensor) -> Tensor:
            return model.item_scores(own, domain, columns)

        return scores

    return scorer


def fit_baselines(dataset: Dataset) -> dict[str, Popularity | Markov]:
    """Popularity and item-to-item Markov, fitted on the training events."""
    markov = Markov.fit(dataset)
    return dict(zip(BASELINES, (markov.popularity, markov), strict=True))


def baseline_scorers(models: dict[str, Popularity | Markov], targets: Targets) -> dict[str, Scorer]:
    """Fitted baselines as scorers of a split's targets."""

    def scorer_of(model: Popularity | Markov) -> Scorer:
        return lambda domain, rows: model.scorer(domain, targets.events[rows])

    return {name: scorer_of(model) for name, model in models.items()}


def rank_rows(dataset: Dataset, targets: Targets, ranks: dict[str, dict[str, Ranks]]) -> pa.Table:
    """Rows of ranks.parquet from {path: {protocol: ranks}}: one a target, protocol and path."""
    users = dataset.user_ids.take(pa.array(targets.users))
    items = dataset.item_ids.take(pa.array(targets.items - 1))
    domains = pa.array([dataset.domain_names[domain] for domain in targets.domains])
    tables = []
    for path, protocols in ranks.items():
        for protocol, found in protocols.items():
            fixed = {"split": targets.split, "protocol": protocol, "path": path}
            columns = {
                name: pa.repeat(pa.scalar(value), len(users)) for name, value in fixed.items()
            }
            columns |= {"user_id": users, "domain": domains, "item_id": items}
            columns |= {
                "better": found.better, "tied": found.tied, "candidates": found.candidates,
            }  # fmt: skip
            tables.append(pa.table(columns))
    return pa.concat_tables(tables)
