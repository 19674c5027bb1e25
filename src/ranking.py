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
from src.evaluation.ranks import NonFiniteScore, count_better_tied, count_in_candidates

SPLITS = {"valid": VALID, "test": TEST}
CHUNK_ELEMENTS = 2**22  # scores held at a time
Scorer = Callable[[int, np.ndarray], Tensor]  # (domain, rows of the targets) -> [rows, V_d]


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
) -> dict[str, Ranks]:
    """Rank the targets `rows` in one scoring pass: `full` and, with negatives, `sampled`.

    The other rows stay 0, so the ranks of several processes add up. A score that is not finite
    raises UserError with the user and the item.
    """
    found = {"full": _no_ranks(len(targets.events))}
    if negatives is not None:
        found["sampled"] = _no_ranks(len(targets.events))
    for domain, chunk in _chunks(dataset, targets, rows):
        scores = scorer(domain, chunk)
        columns = torch.from_numpy(targets.items[chunk] - dataset.item_starts[domain])
        columns = columns.to(scores.device)
        try:
            better, tied = count_better_tied(scores, columns)
        except NonFiniteScore as fault:
            raise _name_fault(fault, dataset, targets, domain, chunk) from None
        _fill(found["full"], chunk, better, tied, np.full(len(chunk), scores.shape[1]))
        if negatives is not None:
            drawn = torch.from_numpy(negatives[chunk]).to(scores.device)
            better, tied = count_in_candidates(scores, columns, drawn)
            _fill(found["sampled"], chunk, better, tied, 1 + (negatives[chunk] >= 0).sum(1))
    return found


def _no_ranks(count: int) -> Ranks:
    return Ranks(*(np.zeros(count, dtype=np.int64) for _ in range(3)))


def _fill(ranks: Ranks, rows: np.ndarray, better: Tensor, tied: Tensor, count: np.ndarray) -> None:
    ranks.better[rows] = better.cpu().numpy()
    ranks.tied[rows] = tied.cpu().numpy()
    ranks.candidates[rows] = count


def _chunks(
    dataset: Dataset, targets: Targets, rows: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of one domain at a time, few enough that their scores stay in bounds."""
    for domain, items in enumerate(np.diff(dataset.item_starts)):
        own = rows[targets.domains[rows] == domain]
        size = max(1, CHUNK_ELEMENTS // int(items))
        for start in range(0, len(own), size):
            yield domain, own[start : start + size]


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
    before it; the single view keeps those of its domain, or has as many of its own (`own`). With
    `bar`, progress is shown on a terminal.
    """
    outputs = [torch.zeros(0, model.settings.hidden, device=device)]  # no rows, no targets
    window = batches.newest_of_each_domain if context == "own" else batches.newest
    starts = range(0, len(rows), users_at_once)
    for start in tqdm(starts, f"rank {path}", leave=False, disable=None if bar else True):
        some = rows[start : start + users_at_once]
        events = window(dataset, targets.users[some], targets.events[some] + 1, max_len)
        if path == "single":
            events = batches.only_domains(dataset, events, targets.domains[some])
        batch = batches.build_batch(dataset, events, seed=0, epoch=0).to(device)
        outputs.append(model.last_outputs(batch, path).float())
    return torch.cat(outputs)


def baseline_scorers(dataset: Dataset, targets: Targets) -> dict[str, Scorer]:
    """Popularity and item-to-item Markov, fitted on the training events, as scorers."""
    models = dict(zip(BASELINES, (Popularity.fit(dataset), Markov.fit(dataset)), strict=True))

    def scorer_of(model: Popularity | Markov) -> Scorer:
        return lambda domain, rows: model.scores(domain, targets.events[rows])

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
