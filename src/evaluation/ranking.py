"""Ranks of the targets of a split: its blocks, the scorers, and one pass per scorer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from src.dataset.store.folder import Dataset
from src.evaluation.candidates import is_member
from src.evaluation.protocols import (
    RELEASED,
    UNSEEN,
    Ranks,
    drawn_sets,
    filters_seen,
    no_ranks,
    protocol_ranks,
    scores_all_domains,
    set_names,
)
from src.evaluation.queries import Ensemble, domain_scores
from src.evaluation.rank_counts import (
    FEWEST,
    NonFiniteScore,
    Part,
    Reads,
    check_finite,
    count_ranks,
    rows_at_once,
    to_device,
)
from src.evaluation.targets import Targets, context_events
from src.interfaces import CountModel, Scores
from src.io.errors import NotFinite

CPU = torch.device("cpu")
PAIR_VALUES = 2**22  # numbers of item rows that are looked up at a time


class Scorer(Protocol):
    """Scores the targets of a split."""

    def scores(self, rows: np.ndarray, domain: int) -> Scores:
        """Scores of a domain's items for the targets `rows`, when that domain is to be ranked."""

    def pairs(self, rows: np.ndarray, domain: int, items: np.ndarray) -> Tensor:
        """[rows, N] scores of single items, of any domain, when `domain` is to be ranked."""


@dataclass(frozen=True)
class Block:
    """Targets of one domain that are ranked together, and the single scores to read for them."""

    domain: int
    rows: np.ndarray  # [b] numbers of the targets
    padded: np.ndarray  # [≥ FEWEST] the same, repeated where they are too few
    reads: list[Reads]  # D, one per domain; empty for domains that are not scored
    sizes: np.ndarray  # [S, padded] candidates of each set


@dataclass(frozen=True)
class Plan:
    """How the targets of a split are ranked: by which protocols, against which drawn candidates."""

    dataset: Dataset
    targets: Targets
    protocols: tuple[str, ...]
    drawn: dict[str, np.ndarray]  # {set: [n, N] items}, −1 where none
    device: torch.device = CPU

    @property
    def all_domains(self) -> bool:
        """Whether the items of every domain are scored for every target."""
        return scores_all_domains(self.protocols)

    @property
    def sets(self) -> tuple[str, ...]:
        """The candidate sets that a pass counts, in the order of their numbers."""
        return set_names(drawn_sets(self.protocols), filters_seen(self.protocols))

    def domains(self, first: int) -> list[int]:
        """The domains whose items are scored for targets of domain `first`, that one first."""
        others = range(len(self.dataset.domain_names)) if self.all_domains else ()
        return [first, *(domain for domain in others if domain != first)]

    def blocks(self, rows: np.ndarray) -> Iterator[Block]:
        """The targets `rows`, one domain after the other, in even blocks as large as the number of
        items allows."""
        sizes = np.diff(self.dataset.item_starts)
        for domain in range(len(sizes)):
            domain_rows = rows[self.targets.domains[rows] == domain]
            if len(domain_rows):
                most = min(rows_at_once(int(sizes[d]), self.device) for d in self.domains(domain))
                for block in np.array_split(domain_rows, -(-len(domain_rows) // most)):
                    yield self._block(domain, block)

    def _block(self, target_domain: int, rows: np.ndarray) -> Block:
        padded = np.resize(rows, max(len(rows), FEWEST))
        row, item, number = self._single_scores(target_domain, padded)
        sets = len(self.sets)
        sizes = np.bincount(number * len(padded) + row, minlength=sets * len(padded))
        domain = np.searchsorted(self.dataset.item_starts, item, side="right") - 1
        order = np.argsort(domain.astype(np.uint16), kind="stable")
        ends = np.cumsum(np.bincount(domain, minlength=len(self.dataset.domain_names)))
        column = item - self.dataset.item_starts[domain]
        reads = [
            Reads(*(values[part].astype(np.int32) for values in (row, column, number)))
            for part in np.split(order, ends[:-1])
        ]
        return Block(target_domain, rows, padded, reads, sizes.reshape(sets, len(padded)))

    def _single_scores(self, domain: int, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Row, item and set number of every single score to read for a block."""
        wanted: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        names = self.sets
        seen = self._seen(rows) if filters_seen(self.protocols) else None

        def note(name: str, row: np.ndarray, item: np.ndarray) -> None:
            wanted.append((row, item, np.full(len(row), names.index(name))))

        for name in drawn_sets(self.protocols):
            drawn = self.drawn[name][rows]
            row, column = np.nonzero(drawn >= 0)
            item = drawn[row, column]
            note(name, row, item)
            if seen is not None:
                known = is_member(self._key(row, item), seen)
                note(name + UNSEEN, row[known], item[known])
        if seen is not None:
            row, item = np.divmod(seen, self.dataset.item_rows)
            starts = self.dataset.item_starts
            inside = (item >= starts[domain]) & (item < starts[domain + 1])
            note("seen", row[inside], item[inside])
            if self.all_domains:
                note("seen_elsewhere", row[~inside], item[~inside])
        if not wanted:
            return tuple(np.zeros(0, dtype=np.int64) for _ in range(3))
        return tuple(np.concatenate(parts) for parts in zip(*wanted, strict=True))

    def _seen(self, rows: np.ndarray) -> np.ndarray:
        """The distinct items of each row's context except the target, as ascending keys."""
        events, row = context_events(self.dataset, self.targets, rows)
        item = self.dataset.items[events].astype(np.int64)
        other = item != self.targets.items[rows][row]
        return np.unique(self._key(row[other], item[other]))

    def _key(self, row: np.ndarray, item: np.ndarray) -> np.ndarray:
        return row * np.int64(self.dataset.item_rows) + item


def rank_targets(
    scorer: Scorer, plan: Plan, rows: np.ndarray, blocks: list[Block], bar: bool = False
) -> dict[str, Ranks]:
    """Rank the targets `rows` in one scoring pass: {protocol: [rows] ranks}.

    The scores of a block are computed a chunk of a domain's items at a time, on the plan's device:
    no tensor over all targets and items is held. `blocks` are the plan's for these rows, made once
    for all scorers. A score that is not finite raises NotFinite with the user and the item. With
    `bar`, progress is shown on a terminal.
    """
    by_protocol = {name: no_ranks(len(rows)) for name in plan.protocols}
    position = np.empty(len(plan.targets.events), dtype=np.int64)
    position[rows] = np.arange(len(rows))
    sizes = np.diff(plan.dataset.item_starts)
    for block in tqdm(blocks, "score", leave=False, disable=None if bar else True):
        columns = plan.targets.items[block.padded] - plan.dataset.item_starts[block.domain]
        domains = plan.domains(block.domain)
        parts = [
            Part(scorer.scores(block.padded, d), int(sizes[d]), block.reads[d]) for d in domains
        ]
        try:
            counts = count_ranks(parts, columns, len(plan.sets), plan.device)
        except NonFiniteScore as fault:
            item = plan.dataset.item_starts[domains[fault.part]] + fault.column
            raise _name_fault(plan, block.padded[fault.row], item) from None
        for name in plan.protocols:
            if name == RELEASED:
                ranks = _released_ranks(scorer, plan, block)
            else:
                others = int(sizes.sum() - sizes[block.domain])
                items = (int(sizes[block.domain]), others)
                ranks = protocol_ranks(name, counts, block.sizes, plan.sets, *items)
            by_protocol[name].put(position[block.rows], ranks)
    return by_protocol


def _released_ranks(scorer: Scorer, plan: Plan, block: Block) -> Ranks:
    """The ranks of a block among the negatives of the released code's protocol."""
    target = plan.targets.items[block.rows][:, None]
    drawn = plan.drawn[RELEASED][block.rows]
    items = np.concatenate([target, np.where(drawn < 0, target, drawn)], axis=1)
    scores = scorer.pairs(block.rows, block.domain, items)  # [b, 1 + N]
    try:
        check_finite(scores)
    except NonFiniteScore as fault:
        item = items[fault.row, fault.column]
        raise _name_fault(plan, block.rows[fault.row], item) from None
    counted = torch.stack(
        [(scores[:, 1:] > scores[:, :1]).sum(1), (scores >= scores[:, :1]).sum(1)]
    )
    better, level = counted.cpu().numpy()
    missing = (drawn < 0).sum(1)  # scored as the target itself
    return Ranks(better, level - better - missing, 1 + (drawn >= 0).sum(1))


def _name_fault(plan: Plan, row: int, item: int) -> NotFinite:
    dataset = plan.dataset
    domain = int(np.searchsorted(dataset.item_starts, item, side="right")) - 1
    return NotFinite(
        f"the score of item {dataset.item_ids[int(item) - 1]} ({dataset.domain_names[domain]}) for "
        f"user {dataset.user_ids[int(plan.targets.users[row])]} is not finite: the model has "
        "diverged; lower --lr or set --clip_norm"
    )


class ModelScorer:
    """Scores by a run's models, for targets whose queries have been encoded.

    Parameters
    ----------
    hidden: [Q, H] h of the queries.
    query_of: [D, n] the query that ranks a domain for a target.
    """

    def __init__(self, ensemble: Ensemble, hidden: Tensor, query_of: np.ndarray):
        self.ensemble, self.hidden, self.query_of = ensemble, hidden, query_of

    def scores(self, rows: np.ndarray, domain: int) -> Scores:
        model, number = self.ensemble.of(domain)
        outputs = self._outputs(rows, domain)

        @torch.no_grad()
        def scores(columns: slice | Tensor) -> Tensor:
            return domain_scores(model, outputs, number, columns)

        return scores

    @torch.no_grad()
    def pairs(self, rows: np.ndarray, domain: int, items: np.ndarray) -> Tensor:
        """Each score is a separate sum of products, so equal rows of the item table tie exactly."""
        model, _ = self.ensemble.of(domain)
        outputs = self._outputs(rows, domain)
        step = max(1, PAIR_VALUES // (items.shape[1] * outputs.shape[1]))
        scores = []
        for start in range(0, len(rows), step):
            chunk = to_device(items[start : start + step], outputs.device)
            vectors = F.embedding(chunk, model.item_table)  # [step, N, H]
            scores.append((vectors * outputs[start : start + step, None]).sum(2))
        return torch.cat(scores)

    def _outputs(self, rows: np.ndarray, domain: int) -> Tensor:
        return self.hidden[to_device(self.query_of[domain, rows], self.hidden.device)]


class CountScorer:
    """Scores by a count model, computed on the CPU and moved to the device that ranks."""

    def __init__(self, model: CountModel, targets: Targets, device: torch.device = CPU):
        self.model, self.targets, self.device = model, targets, device

    def scores(self, rows: np.ndarray, domain: int) -> Scores:
        scorer = self.model.scorer(domain, *self._requests(rows))

        def scores(columns: slice | Tensor) -> Tensor:
            on_cpu = columns if isinstance(columns, slice) else columns.cpu()
            return scorer(on_cpu).to(self.device)

        return scores

    def pairs(self, rows: np.ndarray, domain: int, items: np.ndarray) -> Tensor:
        return self.model.pairs(domain, *self._requests(rows), items).to(self.device)

    def _requests(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Users, ends of the known events, and times of the targets `rows`."""
        return self.targets.users[rows], self.targets.ends[rows], self.targets.times[rows]
