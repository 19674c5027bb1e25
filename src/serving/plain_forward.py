"""The plain forward: padded histories -> the query of each path, as one graph that can be exported.

It lays B histories of L events out as a batch with one tile per history and calls the models' own
`queries`, with the plain kernels: no part of a model is written twice. Tests compare it with the
packed forward of src/evaluation/queries.py.
"""

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from src.config.modes import PATHS
from src.dataset.batching.batch import Batch, View
from src.evaluation.queries import Ensemble
from src.nn.experts import Experts


class Histories(NamedTuple):
    """B histories of L events and the question that follows each."""

    items: Tensor  # [B, L] 0: padding
    times: Tensor  # [B, L] in seconds
    domains: Tensor  # [B, L] of the items, −1 for padding
    asked: Tensor  # [B] domain to rank
    now: Tensor  # [B] time of the question


class PlainForward(nn.Module):
    """The queries of a run's models from padded histories.

    Inputs, all int64: `items` [B, L] dense ids, oldest first; 0 is padding and may stand anywhere,
    and what is no item is padding too. `times` [B, L] of these events and `now` [B] of the
    question, in seconds since 1970. `domain` [B] to rank. Each path reads the newest events that
    its model knows, so L may be any length from 1 on.

    Output: {path: [B, H]}; NaN for a domain that does not exist, since a graph cannot refuse it.

    The models go over to the CPU, float32 and the plain kernels.
    """

    item_domains: Tensor
    item_starts: Tensor

    def __init__(self, ensemble: Ensemble, item_starts: list[int]):
        super().__init__()
        models: Any = ensemble.models  # nn.Modules, as every Recommender
        self.settings: Any = models[0].settings
        self.models: Any = nn.ModuleList(models).eval().float().cpu()
        self.separate = ensemble.separate
        for module in self.modules():
            if isinstance(module, Experts):
                module.kernels = "plain"
        starts = torch.tensor(item_starts)
        domains = torch.searchsorted(starts, torch.arange(item_starts[-1]), right=True) - 1
        self.register_buffer("item_domains", domains)  # [V + 1], −1 for padding
        self.register_buffer("item_starts", starts)  # [D + 1]
        self.domains = len(item_starts) - 1

    def forward(
        self, items: Tensor, times: Tensor, domain: Tensor, now: Tensor
    ) -> dict[str, Tensor]:
        known = (items > 0) & (items < self.item_domains.shape[0])
        items = torch.where(known, items, 0)
        exists = (domain >= 0) & (domain < self.domains)
        asked = torch.where(exists, domain, 0)
        histories = Histories(items, times, self.item_domains[items], asked, now)
        return {
            path: torch.where(exists[:, None], self.queries(histories, path), torch.nan)
            for path in self.settings.paths
        }

    def queries(self, histories: Histories, path: str) -> Tensor:
        """h of each history [B, H] on a path."""
        if not self.separate:
            return self.model_queries(self.models[0], histories, path, self.domains)
        # Every model reads every row; its answer is taken where its domain is asked for.
        outputs = []
        for domain, model in enumerate(self.models):
            inside = histories.domains == domain
            numbered = torch.where(inside, histories.items - self.item_starts[domain] + 1, 0)
            of_domain = histories._replace(
                items=numbered,
                domains=torch.where(inside, 0, -1),
                asked=torch.zeros_like(histories.asked),
            )
            outputs.append(self.model_queries(model, of_domain, path, 1))
        every = torch.stack(outputs, 1)  # [B, D, H]
        index = histories.asked[:, None, None].expand(-1, 1, every.shape[2])
        return every.gather(1, index)[:, 0]

    def model_queries(self, model, histories: Histories, path: str, domains: int) -> Tensor:
        """h of each history [B, H] by one model."""
        if model.queries_read == "view":
            batch = query_batch(histories, path, self.settings, domains)
        else:
            batch = whole_batch(histories, self.settings, domains)
        return model.queries(batch, path)


def query_batch(histories: Histories, path: str, settings, domains: int) -> Batch:
    """The histories as a batch of `domains` queries each, in groups of equal size by domain.

    Packing sorts queries by the domain they ask for, so the sizes of its groups depend on the
    values. Here every history asks in each domain, and `last_rows` picks the domain it asks for.
    """
    count = histories.items.shape[0]
    numbers = torch.arange(domains * count, device=histories.items.device)
    view = padded_view(histories, path, settings, domains)
    none = numbers[:0]
    return Batch(
        targets=none, negatives=none, counts=[], domain_counts=none, trained=None,
        trained_counts=none, pair_lengths=none, mim_pairs=[], mim_sizes=[],
        last_targets=numbers, last_counts=[count] * domains,
        last_rows=histories.asked * count + numbers[:count], cross=view, single=view,
    )  # fmt: skip


def whole_batch(histories: Histories, settings, domains: int) -> Batch:
    """The histories as a batch of both views in its canonical order, each history once per domain.

    For models that read both views, or all slots by their targets' domains: the work of D batches.
    """
    count, slots = histories.items.shape[0], histories.items.shape[1] + 1
    device = histories.items.device
    everywhere = Histories(
        items=histories.items.repeat(domains, 1),
        times=histories.times.repeat(domains, 1),
        domains=histories.domains.repeat(domains, 1),
        asked=torch.arange(domains, device=device)[:, None].expand(-1, count).reshape(-1),
        now=histories.now.repeat(domains),
    )
    numbers, none = torch.arange(domains * count, device=device), histories.items.new_zeros(0)
    first = slots * numbers[:, None]  # [D · B, 1] slot of each tile

    def view(path: str) -> View:
        """The view with the query's slot as the last target of each tile, in both views alike."""
        padded = padded_view(everywhere, path, settings, 1)
        last = padded.target_slots[:, None] - first  # [D · B, 1]
        number = torch.arange(slots, device=device)
        order = torch.where(number == last, slots - 1, number)
        order = torch.where(number == slots - 1, last, order)  # these two change places
        return dataclasses.replace(padded, target_slots=(first + order).flatten())

    return Batch(
        targets=none, negatives=none, counts=[count * slots] * domains, domain_counts=none,
        trained=None, trained_counts=none, pair_lengths=none, mim_pairs=[], mim_sizes=[],
        last_targets=slots * numbers + slots - 1, last_counts=[count] * domains,
        last_rows=histories.asked * count + numbers[:count],
        **{path: view(path) for path in PATHS},
    )  # fmt: skip


def padded_view(histories: Histories, path: str, settings, domains: int) -> View:
    """The view that a path reads of the histories: one tile of T = 1 + L slots per history, of
    which the first holds the start token. The slots of events that the path does not read belong
    to no sequence."""
    items, times = histories.items, histories.times
    count, slots = items.shape[0], items.shape[1] + 1
    kept = kept_events(histories, path, settings)
    kept = torch.cat([torch.ones_like(kept[:, :1]), kept], 1)  # [B, T], the start token first
    before = kept.long().cumsum(1)  # slots of the sequence up to each one
    number = torch.arange(slots, device=items.device)
    last = torch.where(kept, number, 0).amax(1)  # [B] the slot whose target is the query
    # [B, T] the slot after each one in its sequence: that of its target; T: the query
    later = kept[:, None] & (number > number[:, None])
    following = torch.where(later, number, slots).amin(2)
    start = torch.zeros_like(items[:, :1])

    def of_targets(values: Tensor, query: Tensor) -> Tensor:
        """The value of each slot's target, from those of events [B, L] and query [B]."""
        return torch.cat([start, values, query[:, None]], 1).gather(1, following)

    passed = of_targets(times, histories.now) - torch.cat([start, times], 1)
    positions = before - 1
    rows = torch.arange(count, device=items.device)[:, None]
    return View(
        inputs=torch.where(kept, torch.cat([start, items], 1), 0).flatten(),
        positions=positions.flatten(),
        reversed_positions=(before[:, -1:] - before).flatten(),
        domains=of_targets(histories.domains, histories.asked).clamp(min=0).flatten(),
        sequence_ids=torch.where(kept, rows, count).flatten(),
        sequences=count,
        intervals=torch.where(number == 0, -1, passed.clamp(min=0)).flatten(),
        tiles=[(count, slots)],
        target_slots=(rows[:, 0] * slots + last).repeat(domains),
    )


def kept_events(histories: Histories, path: str, settings) -> Tensor:
    """[B, L] whether a path reads each event: the newest `max_len` − 1 of the history, on the
    single path those of the domain that is asked for, or the newest so many of that domain
    (`context` own)."""
    most = settings.max_len - 1
    inside = histories.domains == histories.asked[:, None]
    if settings.context == "own":
        return newest(inside, most)
    kept = newest(histories.items > 0, most)
    return kept & inside if PATHS[path].single_domain else kept


def newest(marked: Tensor, count: int) -> Tensor:
    """The last `count` that are marked in each row of [B, L]."""
    upto = marked.long().cumsum(1)
    return marked & (upto[:, -1:] - upto < count)
