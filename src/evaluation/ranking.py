"""Where targets meet scores: blocks of targets, what scores them, and their ranks."""

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
    """What gives the targets of a split their scores."""

    def scores(self, rows: np.ndarray, domain: int) -> Scores:
        """Of a domain's items for the targets `rows`, as if that domain were asked for."""

    def pairs(self, rows: np.ndarray, domain: int, items: np.ndarray) -> Tensor:
        """[rows, N] of single items, of any domain, as if `domain` were asked for."""


@dataclass(frozen=True)
class Block:
    """Targets of one domain that are ranked together, and which single scores they want."""

    domain: int
    rows: np.ndarray  # [b] numbers of the targets
    filled: np.ndarray  # [≥ FEWEST] the same, the first ones again where they are too few
    reads: list[Reads]  # D, one a domain; only the target's where no other is scored
    sizes: np.ndarray  # [S, filled] candidates of each set


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
        """The candidate sets that a pass counts, by their number."""
        return set_names(drawn_sets(self.protocols), filters_seen(self.protocols))

    def domains(self, own: int) -> list[int]:
        """The domains whose items are scored for targets of `own`, that one first."""
        others = range(len(self.dataset.domain_names)) if self.all_domains else ()
        return [own, *(domain for domain in others if domain != own)]

    def blocks(self, rows: np.ndarray) -> Iterator[Block]:
        """The targets `rows`, those of one domain at a time, in even blocks as large as the
        domains' items allow."""
        sizes = np.diff(self.dataset.item_starts)
        for own in range(len(sizes)):
            some = rows[self.targets.domains[rows] == own]
            if len(some):
                most = min(rows_at_once(int(sizes[d]), self.device) for d in self.domains(own))
                for block in np.array_split(some, -(-len(some) // most)):
                    yield self._block(own, block)

    def _block(self, own: int, rows: np.ndarray) -> Block:
        filled = np.resize(rows, max(len(rows), FEWEST))
        row, item, number = self._wanted(own, filled)
        kinds = len(self.sets)
        sizes = np.bincount(number * len(filled) + row, minlength=kinds * len(filled))
        domain = np.searchsorted(self.dataset.item_starts, item, side="right") - 1
        order = np.argsort(domain.astype(np.uint16), kind="stable")
        ends = np.cumsum(np.bincount(domain, minlength=len(self.dataset.domain_names)))
        column = item - self.dataset.item_starts[domain]
        reads = [
            Reads(*(values[some].astype(np.int32) for values in (row, column, number)))
            for some in np.split(order, ends[:-1])
        ]
        return Block(own, rows, filled, reads, sizes.reshape(kinds, len(filled)))

    def _wanted(self, own: int, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Row, item and set number of every single score that a block wants."""
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        names = self.sets
        seen = self._seen(rows) if filters_seen(self.protocols) else None

        def note(name: str, row: np.ndarray, item: np.ndarray) -> None:
            found.append((row, item, np.full(len(row), names.index(name))))

        for name in drawn_sets(self.protocols):
            drawn = self.drawn[name][rows]
            row, place = np.nonzero(drawn >= 0)
            item = drawn[row, place]
            note(name, row, item)
            if seen is not None:
                known = is_member(self._key(row, item), seen)
                note(name + UNSEEN, row[known], item[known])
        if seen is not None:
            row, item = np.divmod(seen, self.dataset.item_rows)
            starts = self.dataset.item_starts
            inside = (item >= starts[own]) & (item < starts[own + 1])
            note("seen", row[inside], item[inside])
            if self.all_domains:
                note("seen_elsewhere", row[~inside], item[~inside])
        if not found:
            return tuple(np.zeros(0, dtype=np.int64) for _ in range(3))
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    def _seen(self, rows: np.ndarray) -> np.ndarray:
        """The distinct items of each row's context but the target, as keys in ascending order."""
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

    The scorer is asked for the scores of a block, a chunk of a domain's items at a time, on the
    plan's device: no tensor over targets and items is held. `blocks` are the plan's for these rows,
    made once for all scorers. A score that is not finite raises NotFinite with the user and the
    item. With `bar`, progress is shown on a terminal.
    """
    found = {name: no_ranks(len(rows)) for name in plan.protocols}
    place = np.empty(len(plan.targets.events), dtype=np.int64)
    place[rows] = np.arange(len(rows))
    sizes = np.diff(plan.dataset.item_starts)
    for block in tqdm(blocks, "score", leave=False, disable=None if bar else True):
        own = plan.targets.items[block.filled] - plan.dataset.item_starts[block.domain]
        domains = plan.domains(block.domain)
        parts = [
            Part(scorer.scores(block.filled, d), int(sizes[d]), block.reads[d]) for d in domains
        ]
        try:
            counts = count_ranks(parts, own, len(plan.sets), plan.device)
        except NonFiniteScore as fault:
            item = plan.dataset.item_starts[domains[fault.part]] + fault.column
            raise _name_fault(plan, block.filled[fault.row], item) from None
        for name in plan.protocols:
            if name == RELEASED:
                ranks = _released_ranks(scorer, plan, block)
            else:
                others = int(sizes.sum() - sizes[block.domain])
                items = (int(sizes[block.domain]), others)
                ranks = protocol_ranks(name, counts, block.sizes, plan.sets, *items)
            found[name].put(place[block.rows], ranks)
    return found


def _released_ranks(scorer: Scorer, plan: Plan, block: Block) -> Ranks:
    """The ranks of a block among the negatives of the released code's protocol."""
    own = plan.targets.items[block.rows][:, None]
    drawn = plan.drawn[RELEASED][block.rows]
    items = np.concatenate([own, np.where(drawn < 0, own, drawn)], axis=1)
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
    missing = (drawn < 0).sum(1)  # the target's own score stands there
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
    """A run's models as a scorer of targets whose queries have been encoded.

    Parameters
    ----------
    hidden: [Q, H] h of the queries.
    places: [D, n] which of them asks for a domain on behalf of a target.
    """

    def __init__(self, ensemble: Ensemble, hidden: Tensor, places: np.ndarray):
        self.ensemble, self.hidden, self.places = ensemble, hidden, places

    def scores(self, rows: np.ndarray, domain: int) -> Scores:
        model, own = self.ensemble.of(domain)
        outputs = self._outputs(rows, domain)

        @torch.no_grad()
        def scores(columns: slice | Tensor) -> Tensor:
            return domain_scores(model, outputs, own, columns)

        return scores

    @torch.no_grad()
    def pairs(self, rows: np.ndarray, domain: int, items: np.ndarray) -> Tensor:
        """Each a sum of products of its own, so that equal rows of the item table tie exactly."""
        model, _ = self.ensemble.of(domain)
        outputs = self._outputs(rows, domain)
        step = max(1, PAIR_VALUES // (items.shape[1] * outputs.shape[1]))
        found = []
        for start in range(0, len(rows), step):
            some = to_device(items[start : start + step], outputs.device)
            vectors = F.embedding(some, model.item_table)  # [some, N, H]
            found.append((vectors * outputs[start : start + step, None]).sum(2))
        return torch.cat(found)

    def _outputs(self, rows: np.ndarray, domain: int) -> Tensor:
        return self.hidden[to_device(self.places[domain, rows], self.hidden.device)]


class CountScorer:
    """A count model as a scorer of targets; it counts on the CPU, wherever ranks are taken."""

    def __init__(self, model: CountModel, targets: Targets, device: torch.device = CPU):
        self.model, self.targets, self.device = model, targets, device

    def scores(self, rows: np.ndarray, domain: int) -> Scores:
        scorer = self.model.scorer(domain, *self._requests(rows))

        def scores(columns: slice | Tensor) -> Tensor:
            where = columns if isinstance(columns, slice) else columns.cpu()
            return scorer(where).to(self.device)

        return scores

    def pairs(self, rows: np.ndarray, domain: int, items: np.ndarray) -> Tensor:
        return self.model.pairs(domain, *self._requests(rows), items).to(self.device)

    def _requests(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Users, ends of the known events, and times of the targets `rows`."""
        return self.targets.users[rows], self.targets.ends[rows], self.targets.times[rows]
