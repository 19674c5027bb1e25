"""Ranks of the targets of a split: its blocks, the scorers, and one pass per scorer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from src.dataset.store.folder import Dataset
from src.evaluation.candidates import membership
from src.evaluation.protocols import (
    AS_LISTED,
    RELEASED,
    UNSEEN,
    Ranks,
    drawn_sets,
    filters_seen,
    no_ranks,
    protocol_ranks,
    ranked_as,
    scores_all_domains,
    set_names,
)
from src.evaluation.queries import Ensemble, domain_scores
from src.evaluation.rank_counts import (
    FEWEST,
    BlockCounts,
    NonFiniteScore,
    Part,
    Reads,
    add_counts,
    check_finite,
    columns_on_cpu,
    count_others,
    count_ranks,
    no_counts,
    rows_at_once,
    to_device,
)
from src.evaluation.targets import Targets, context_events
from src.interfaces import CountModel, CountScores, Scores
from src.io.errors import NotFinite

CPU = torch.device("cpu")
PAIR_VALUES = 2**22  # numbers of item rows that are looked up at a time


class Scorer(Protocol):
    """Scores the targets of a split."""

    def of(self, rows: np.ndarray) -> "BlockScorer":
        """Scores the targets `rows`, whose events are read once, whatever domains are ranked."""


class BlockScorer(Protocol):
    """Scores n targets that are ranked together."""

    def scores(self, rows: np.ndarray, domain: int) -> Scores:
        """Scores of a domain's items for the targets at `rows` of the n, when that domain is to be
        ranked."""

    def pairs(self, domains: np.ndarray, items: np.ndarray) -> Tensor:
        """[n, N] scores of single items, of any domain, when those of `domains` [n] are to be
        ranked."""


@runtime_checkable
class VariantScorer(BlockScorer, Protocol):
    """Also scores its n targets in other ways, which are ranked under `full` alone."""

    @property
    def variants(self) -> tuple[str, ...]:
        """The names of the other ways; no protocol has one of them."""

    def all_scores(self, rows: np.ndarray, domain: int) -> Scores:
        """`scores`, and below them those of each variant: [(1 + variants) · rows, columns]."""


@dataclass(frozen=True)
class Share:
    """Targets of a block that are ranked together against the items of one domain."""

    domain: int  # whose items they are ranked against
    places: np.ndarray  # [m] their positions in the block
    padded: np.ndarray  # [≥ FEWEST] the places, repeated where they are too few
    reads: Reads  # the single scores to read among these items, by position in the share


@dataclass(frozen=True)
class Block:
    """Targets that are ranked together: those of a large domain, or of several small ones."""

    rows: np.ndarray  # [n] numbers of the targets, in the order of their domains
    own: list[Share]  # each target once, against the items of its domain
    others: list[Share]  # against those of the other domains: one share per domain, or none
    sizes: np.ndarray  # [S, n] candidates of each set
    barred: np.ndarray  # [n] whether `as_listed` leaves out the target itself


@dataclass(frozen=True)
class Plan:
    """How the targets of a split are ranked: by which protocols, against which drawn candidates."""

    dataset: Dataset
    targets: Targets
    protocols: tuple[str, ...]
    drawn: dict[str, np.ndarray]  # {set: [n, N] items}, −1 where none
    device: torch.device = CPU
    excludes_seen: bool = False  # whether the lists of `as_listed` leave out seen items

    @property
    def filters_seen(self) -> bool:
        """Whether a protocol needs the items that the users have seen."""
        return filters_seen(tuple(ranked_as(name, self.excludes_seen) for name in self.protocols))

    @property
    def all_domains(self) -> bool:
        """Whether the items of every domain are scored for every target."""
        return scores_all_domains(self.protocols)

    @property
    def own_domain(self) -> bool:
        """Whether no item of another domain than the target's is scored for it."""
        return not self.all_domains and RELEASED not in self.protocols

    @property
    def sets(self) -> tuple[str, ...]:
        """The candidate sets that a pass counts, in the order of their numbers."""
        return set_names(drawn_sets(self.protocols), self.filters_seen)

    def blocks(self, rows: np.ndarray) -> Iterator[Block]:
        """The targets `rows`, one domain after the other: even shares as large as the number of
        items allows, and as many shares in a block as make one that large.

        Small domains share a block, so that over all domains each of D is scored once for all of
        them, not once for each of the others: D steps in place of D².
        """
        sizes = np.diff(self.dataset.item_starts)
        most = np.array([rows_at_once(int(size), self.device) for size in sizes])
        fewest, shares = int(most.min()), []
        for domain in range(len(sizes)):
            domain_rows = rows[self.targets.domains[rows] == domain]
            if len(domain_rows):
                size = fewest if self.all_domains else int(most[domain])
                shares += np.array_split(domain_rows, -(-len(domain_rows) // size))
        first, count = 0, 0
        for number, share in enumerate(shares):
            if count and count + len(share) > fewest:
                yield self._block(shares[first:number])
                first, count = number, 0
            count += len(share)
        if shares:
            yield self._block(shares[first:])

    def _block(self, shares: list[np.ndarray]) -> Block:
        rows = np.concatenate(shares)
        domains = self.targets.domains[rows]
        seen, barred = self._seen(rows)
        row, item, number = self._single_scores(rows, seen)
        sizes = np.bincount(number * len(rows) + row, minlength=len(self.sets) * len(rows))
        domain = self.dataset.item_domains[item]
        column = item - self.dataset.item_starts[domain]
        lengths = [len(share) for share in shares]
        ends, of_row = np.cumsum(lengths), np.repeat(np.arange(len(shares)), lengths)
        # the share that each score is read in: one of the own ones, or that of another domain
        reader = np.where(domain == domains[row], of_row[row], len(shares) + domain)
        order = np.argsort(reader.astype(np.uint16), kind="stable")  # by digits, in one pass
        counts = np.bincount(reader, minlength=len(shares) + len(self.dataset.domain_names))
        parts, position = np.split(order, np.cumsum(counts)[:-1]), np.empty_like(rows)

        def share_of(domain: int, places: np.ndarray, part: np.ndarray) -> Share:
            position[places] = np.arange(len(places))
            read = position[row[part]], column[part], number[part]
            padded = np.resize(places, max(len(places), FEWEST))
            reads = Reads(*(values.astype(np.int32) for values in read))
            return Share(domain, places, padded, reads)

        own, others, every = [], [], np.arange(len(rows))
        for places, part in zip(np.split(every, ends[:-1]), parts, strict=False):
            own.append(share_of(int(domains[places[0]]), places, part))
        if self.all_domains:
            for other, part in enumerate(parts[len(shares) :]):
                if len(places := every[domains != other]):
                    others.append(share_of(other, places, part))
        return Block(rows, own, others, sizes.reshape(len(self.sets), len(rows)), barred)

    def _single_scores(self, rows: np.ndarray, seen: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """Row, item and set number of every single score to read for a block; `seen` of `_seen`."""
        wanted: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        names = self.sets

        def note(name: str, row: np.ndarray, item: np.ndarray) -> None:
            wanted.append((row, item, np.full(len(row), names.index(name))))

        if seen is not None:
            is_seen = membership(seen, len(rows) * self.dataset.item_rows)
        for name in drawn_sets(self.protocols):
            drawn = self.drawn[name][rows]
            row, column = np.nonzero(drawn >= 0)
            item = drawn[row, column]
            note(name, row, item)
            if seen is not None:
                known = is_seen(self._key(row, item))
                note(name + UNSEEN, row[known], item[known])
        if seen is not None:
            row, item = np.divmod(seen, self.dataset.item_rows)
            starts, domain = self.dataset.item_starts, self.targets.domains[rows][row]
            inside = (item >= starts[domain]) & (item < starts[domain + 1])
            note("seen", row[inside], item[inside])
            if self.all_domains:
                note("seen_elsewhere", row[~inside], item[~inside])
        if not wanted:
            return tuple(np.zeros(0, dtype=np.int64) for _ in range(3))
        return tuple(np.concatenate(parts) for parts in zip(*wanted, strict=True))

    def _seen(self, rows: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        """The distinct items of each row's context except the target, as ascending keys, None where
        no protocol asks for them; and [n] whether `as_listed` leaves out the target."""
        barred = np.zeros(len(rows), dtype=bool)
        if not self.filters_seen:
            return None, barred
        events, row = context_events(self.dataset, self.targets, rows)
        item = self.dataset.items[events].astype(np.int64)
        other = item != self.targets.items[rows][row]
        barred[row[~other]] = self.excludes_seen
        return np.unique(self._key(row[other], item[other])), barred

    def _key(self, row: np.ndarray, item: np.ndarray) -> np.ndarray:
        return row * np.int64(self.dataset.item_rows) + item


def rank_targets(
    scorer: Scorer,
    plan: Plan,
    rows: np.ndarray,
    blocks: list[Block],
    bar: bool = False,
    visit: Callable[[Block, BlockScorer], None] | None = None,
) -> dict[str, Ranks]:
    """Rank the targets `rows` in one scoring pass: {protocol, or variant of the scorer: [rows]
    ranks}.

    The scores of a block are computed a chunk of a domain's items at a time, on the plan's device:
    no tensor over all targets and items is held. `blocks` are the plan's for these rows, made once
    for all scorers. A score that is not finite raises NotFinite with the user and the item. With
    `bar`, progress is shown on a terminal. `visit` is called after each block, for what else is to
    be read from its scorer.
    """
    by_protocol = {name: no_ranks(len(rows)) for name in plan.protocols}
    position = np.empty(len(plan.targets.events), dtype=np.int64)
    position[rows] = np.arange(len(rows))
    sizes = np.diff(plan.dataset.item_starts)
    for block in tqdm(blocks, "score", leave=False, disable=None if bar else True):
        block_scorer = scorer.of(block.rows)
        counts, variants = _block_counts(block_scorer, plan, block)
        domain_items = sizes[plan.targets.domains[block.rows]]
        for name in plan.protocols:
            if name == RELEASED:
                ranks = _released_ranks(block_scorer, plan, block)
            else:
                items = (domain_items, sizes.sum() - domain_items)
                counted = ranked_as(name, plan.excludes_seen)
                ranks = protocol_ranks(counted, counts, block.sizes, plan.sets, *items)
            if name == AS_LISTED:
                ranks = ranks.bar(block.barred)
            by_protocol[name].put(position[block.rows], ranks)
        for name, ranks in variants.items():
            by_protocol.setdefault(name, no_ranks(len(rows))).put(position[block.rows], ranks)
        if visit:
            visit(block, block_scorer)
    return by_protocol


def _block_counts(
    scorer: BlockScorer, plan: Plan, block: Block
) -> tuple[BlockCounts, dict[str, Ranks]]:
    """The counts of a block: first against the targets' own domains, whose scores the other
    domains' are then compared with. Beside them {variant: ranks in the own domains}."""
    starts, sets, device = plan.dataset.item_starts, len(plan.sets), plan.device
    varied = scorer if isinstance(scorer, VariantScorer) else None
    variants = {name: no_ranks(len(block.rows)) for name in (varied.variants if varied else ())}

    def part_of(share: Share, score: Callable[[np.ndarray, int], Scores]) -> Part:
        items = int(starts[share.domain + 1] - starts[share.domain])
        return Part(score(share.padded, share.domain), items, share.reads)

    def named(fault: NonFiniteScore, shares: list[Share]) -> NotFinite:
        share = shares[fault.part]
        place = share.padded[fault.row % len(share.padded)]
        return fault_of(plan, block.rows[place], starts[share.domain] + fault.column)

    total, target_scores = no_counts(len(block.rows), sets), []
    for share in block.own:
        columns = plan.targets.items[block.rows[share.padded]] - starts[share.domain]
        try:
            part = part_of(share, varied.all_scores if varied else scorer.scores)
            counts = count_ranks([part], columns, sets, device, 1 + len(variants))
        except NonFiniteScore as fault:
            raise named(fault, [share]) from None
        target_scores.append(counts.target_scores[: len(share.places)])
        add_counts(total, counts, share.places)
        for number, ranks in enumerate(variants.values(), 1):
            rows = slice(number * len(columns), (number + 1) * len(columns))
            better, tied = counts.domain.better[rows], counts.domain.tied[rows]
            ranks.put(share.places, Ranks(better, tied, np.full(len(columns), part.items)))
    if block.others:
        own_scores = torch.cat(target_scores)
        compared = [own_scores[to_device(share.padded, device)] for share in block.others]
        parts = [part_of(share, scorer.scores) for share in block.others]
        try:
            others = count_others(parts, compared, sets, device)
        except NonFiniteScore as fault:
            raise named(fault, block.others) from None
        for share, counts in zip(block.others, others, strict=True):
            add_counts(total, counts, share.places)
    return total, variants


def _released_ranks(scorer: BlockScorer, plan: Plan, block: Block) -> Ranks:
    """The ranks of a block among the negatives of the released code's protocol."""
    rows = block.rows
    target = plan.targets.items[rows][:, None]
    drawn = plan.drawn[RELEASED][rows]
    items = np.concatenate([target, np.where(drawn < 0, target, drawn)], axis=1)
    scores = scorer.pairs(plan.targets.domains[rows], items)  # [n, 1 + N]
    try:
        check_finite(scores)
    except NonFiniteScore as fault:
        raise fault_of(plan, rows[fault.row], items[fault.row, fault.column]) from None
    counted = torch.stack(
        [(scores[:, 1:] > scores[:, :1]).sum(1), (scores >= scores[:, :1]).sum(1)]
    )
    better, level = counted.cpu().numpy()
    missing = (drawn < 0).sum(1)  # scored as the target itself
    return Ranks(better, level - better - missing, 1 + (drawn >= 0).sum(1))


def fault_of(plan: Plan, row: int, item: int) -> NotFinite:
    """The error for a score of the target `row` that is not finite."""
    dataset = plan.dataset
    domain = int(np.searchsorted(dataset.item_starts, item, side="right")) - 1
    return NotFinite(
        f"the score of item {dataset.item_ids[int(item) - 1]} ({dataset.domain_names[domain]}) for "
        f"user {dataset.user_ids[int(plan.targets.users[row])]} is not finite: the model has "
        "diverged; lower --lr or set --clip_norm"
    )


class ModelScorer:
    """Scores n targets by a run's models, from their encoded queries: a Scorer of a split, and, as
    nothing more is to be read, also a BlockScorer of any of its rows.

    Parameters
    ----------
    hidden: [Q, H] h of the queries.
    query_of: [D, n] the query that ranks a domain for a target.
    """

    def __init__(self, ensemble: Ensemble, hidden: Tensor, query_of: np.ndarray):
        self.ensemble, self.hidden, self.query_of = ensemble, hidden, query_of

    def of(self, rows: np.ndarray) -> "ModelScorer":
        return ModelScorer(self.ensemble, self.hidden, self.query_of[:, rows])

    def scores(self, rows: np.ndarray, domain: int) -> Scores:
        model, number = self.ensemble.of(domain)
        outputs = self._outputs(rows, domain)

        @torch.no_grad()
        def scores(columns: slice | Tensor) -> Tensor:
            return domain_scores(model, outputs, number, columns)

        return scores

    def centred_scores(
        self, rows: np.ndarray, domain: int, trained: Tensor, asked: int | np.ndarray
    ) -> Scores:
        """The scores less their mean over the domain's items with training events, `trained` [V_d];
        0 for the others, of which the model knows nothing. `asked` is the domain that the queries
        ask for, or that of each [rows]."""
        model, number = self.ensemble.of(domain)
        outputs = self._outputs(rows, asked)
        table = model.item_table[model.item_starts[number] : model.item_starts[number + 1]]
        share = trained.to(table.dtype) / trained.sum().clamp(min=1)
        mean = outputs @ (share @ table.detach())  # [n]

        @torch.no_grad()
        def scores(columns: slice | Tensor) -> Tensor:
            values = domain_scores(model, outputs, number, columns) - mean[:, None]
            return values.mul_(trained[columns])

        return scores

    @torch.no_grad()
    def pairs(self, domains: np.ndarray, items: np.ndarray) -> Tensor:
        """Each score is a separate sum of products, so equal rows of the item table tie exactly.

        Of a model of all domains: one per domain has no vectors of the others' items.
        """
        (model,) = self.ensemble.models
        outputs = self._outputs(np.arange(len(items)), domains)
        step = max(1, PAIR_VALUES // (items.shape[1] * outputs.shape[1]))
        scores = []
        for start in range(0, len(items), step):
            chunk = to_device(items[start : start + step], outputs.device)
            vectors = F.embedding(chunk, model.item_table)  # [step, N, H]
            scores.append((vectors * outputs[start : start + step, None]).sum(2))
        return torch.cat(scores)

    def _outputs(self, rows: np.ndarray, asked: int | np.ndarray) -> Tensor:
        return self.hidden[to_device(self.query_of[asked, rows], self.hidden.device)]


class CountScorer:
    """Scores by a count model, computed on the CPU and moved to the device that ranks."""

    def __init__(self, model: CountModel, plan: Plan):
        self.model, self.plan = model, plan

    def of(self, rows: np.ndarray) -> BlockScorer:
        requests = self.plan.targets.requests(rows, self.plan.own_domain)
        return _CountBlockScorer(self.model.read(requests), self.plan.device)


@dataclass(frozen=True)
class _CountBlockScorer:
    counted: CountScores
    device: torch.device

    def scores(self, rows: np.ndarray, domain: int) -> Scores:
        on_cpu = self.counted.scores(rows, domain)
        return lambda columns: on_cpu(columns_on_cpu(columns)).to(self.device)

    def pairs(self, domains: np.ndarray, items: np.ndarray) -> Tensor:
        return self.counted.pairs(domains, items).to(self.device)
