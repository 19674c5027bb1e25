"""What trained baselines share: an item table, the step loss, queries (a Recommender)."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.interfaces import StepLosses
from src.nn.initialization import own_stream
from src.objective.step_losses import target_losses


class SequenceModel(nn.Module):
    """A recommender that makes one output per target, in a path of the batch.

    A subclass computes `outputs`; the item table is shared by inputs and scores. What depends on
    the domain that is asked for is declared in `reads_domain`, further terms of the objective in
    `auxiliary_weights` and `auxiliary`.
    """

    queries_read: ClassVar[str | None] = None  # of a model in general; a subclass may say otherwise

    def __init__(self, settings, item_starts: list[int]):
        super().__init__()
        self.settings = settings
        self.item_starts = [int(start) for start in item_starts]
        self.domains = len(item_starts) - 1
        self.auxiliary_weights: dict[str, float] = {}
        with own_stream(settings.seed, "items"):
            table = torch.randn(self.item_starts[-1], settings.hidden).mul_(0.02)
            self.item_table = nn.Parameter(table)
        with own_stream(settings.seed, "query"):
            if settings.target_domain_query and "cross" in settings.paths:
                self.query = nn.Parameter(torch.randn(self.domains, settings.hidden) * 0.02)

    def forward(
        self,
        batch,
        coefficients: dict[str, Tensor] | None = None,
        gather: Callable[[Tensor], list[Tensor]] | None = None,
    ) -> StepLosses:
        objective, losses = self.item_table.new_zeros(()), {}
        auxiliary: dict[str, Tensor] = {}
        for path in self.settings.paths:
            weights = None if coefficients is None else coefficients[path]
            weighted_sum, losses[path], terms = self.path_losses(batch, path, weights)
            objective = objective + weighted_sum
            auxiliary |= terms
        shown = {term.replace(" ", "_"): value for term, value in auxiliary.items()}
        return StepLosses(objective, losses, auxiliary, shown)

    def path_losses(
        self, batch, path: str, coefficients: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What a path contributes: Σ coefficient · loss (None: 1 each) with its gradient, the loss
        of each target [N] without one, and `auxiliary`."""
        outputs = self.outputs(batch, path)  # [N, H]
        weighted_sum, losses = target_losses(
            self.settings, batch, outputs, self.item_table, self.item_starts, coefficients
        )
        return weighted_sum, losses, self.auxiliary(batch, path, outputs)

    def outputs(self, batch, path: str, last: bool = False) -> Tensor:
        """[N, H] what ranks the items at every target, in the batch's canonical order; with `last`,
        at each user's last target alone [B, H], in that order."""
        raise NotImplementedError

    def auxiliary(self, batch, path: str, outputs: Tensor) -> dict[str, Tensor]:
        """{term: scalar} further terms of the objective, each weighed by `auxiliary_weights`."""
        return {}

    def asked(self, view) -> Tensor | None:
        """What tells an encoder of the cross view the domain that each slot's target is in [M, H];
        None without `--target_domain_query`."""
        return F.embedding(view.domains, self.query) if hasattr(self, "query") else None

    def queries(self, batch, path: str) -> Tensor:
        return self.outputs(batch, path, last=True)[batch.last_rows]

    def reads_domain(self, path: str) -> bool:
        """Only the events decide, and on request the domain; on the single path the events of other
        domains are left out."""
        return hasattr(self, "query")

    def rows_of(self, name: str) -> str:
        return {"item_table": "items", "query": "domains"}.get(name, "whole")


def asked_slots(batch, path: str, last: bool) -> tuple[Tensor, list[int]]:
    """The slots in a view of all targets, or of the users' last ones, in the canonical order, and
    how many of them each domain has: [n], [D]."""
    slots = getattr(batch, path).target_slots
    if last:
        return slots[batch.last_targets], batch.last_counts
    return slots, batch.counts
