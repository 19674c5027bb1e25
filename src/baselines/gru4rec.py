"""GRU4Rec: a recurrent network over one view of a user, a Recommender (src/interfaces.py).

Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016; Hidasi and
Karatzoglou, "Recurrent Neural Networks with Top-k Gains for Session-based Recommendations", CIKM
2018. Departures: a user's window stands for a session, and batches hold whole windows instead of
session-parallel steps; the loss is the softmax over all items of the target's domain, not over the
other targets of a batch; inputs and outputs share one item table (the paper's constrained
embedding); a learned start token predicts the first event; Adam instead of Adagrad.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.config.cli import setting
from src.interfaces import StepLosses
from src.io.errors import UserError
from src.nn.initialization import own_stream
from src.nn.softmax_loss import softmax_loss
from src.objective.step_losses import domain_spans


@dataclass(frozen=True)
class GRU4RecSettings:
    """GRU4Rec's own settings; --hidden, --dropout and --max_len are shared with other models."""

    gru4rec_layers: int = setting(1, "GRU layers", group="GRU4Rec")
    gru4rec_output: bool = setting(
        False, "a linear map between the GRU and the scores", group="GRU4Rec"
    )

    @staticmethod
    def check(settings) -> None:
        """Refuse values out of bounds and what the model does not have (UserError)."""
        if not 1 <= settings.gru4rec_layers <= 64:
            raise UserError(
                f"--gru4rec_layers must be between 1 and 64, not {settings.gru4rec_layers}"
            )
        if settings.loss != "ce":
            raise UserError(f"--model gru4rec has no --loss {settings.loss}; give --loss ce")


class GRU4Rec(nn.Module):
    """One GRU over the packed sequences of a view: a user (all domains) or a user in a domain."""

    Settings = GRU4RecSettings

    def __init__(self, settings, item_starts: list[int]):
        super().__init__()
        self.settings = settings
        self.item_starts = [int(start) for start in item_starts]
        self.auxiliary_weights: dict[str, float] = {}
        hidden = settings.hidden
        with own_stream(settings.seed, "items"):
            self.item_table = nn.Parameter(torch.randn(self.item_starts[-1], hidden).mul_(0.02))
        with own_stream(settings.seed, "gru4rec"):
            self.start = nn.Parameter(torch.randn(hidden) * 0.02)
            self.gru = nn.GRU(hidden, hidden, settings.gru4rec_layers, batch_first=True)
            self.output = nn.Linear(hidden, hidden) if settings.gru4rec_output else nn.Identity()

    def forward(
        self,
        batch,
        coefficients: dict[str, Tensor] | None = None,
        gather: Callable[[Tensor], list[Tensor]] | None = None,
    ) -> StepLosses:
        objective, losses = self.item_table.new_zeros(()), {}
        spans = domain_spans(batch.counts, self.item_starts)
        for path in self.settings.paths:
            outputs = self.outputs(batch, path)  # [N, H]
            weights = outputs.new_ones(len(outputs)) if coefficients is None else coefficients[path]
            weighted_sum, losses[path] = softmax_loss(
                outputs, self.item_table, batch.targets, spans, weights, self.settings.kernels
            )
            objective = objective + weighted_sum
        return StepLosses(objective, losses, {}, {})

    def outputs(self, batch, path: str) -> Tensor:
        """The state before every target [N, H], in the batch's canonical order."""
        view = getattr(batch, path)
        if not view.sequences:  # a process may have no user in a batch
            return self.start.new_zeros(0, self.settings.hidden)
        tokens = F.embedding(view.inputs, self.item_table)  # [M, H]
        tokens = torch.where((view.inputs == 0)[:, None], self.start, tokens)
        tokens = F.dropout(tokens, self.settings.dropout, self.training)
        slots = view.target_slots  # [N]
        rows, positions = view.sequence_ids[slots], view.positions[slots]
        padded = tokens.new_zeros(view.sequences, self.settings.max_len, self.settings.hidden)
        padded = padded.index_put((rows, positions), tokens.index_select(0, slots))  # [S, L, H]
        states = self.gru(padded)[0].flatten(0, 1)  # [S·L, H]
        states = states.index_select(0, rows * self.settings.max_len + positions)  # [N, H]
        states = F.dropout(states, self.settings.dropout, self.training)
        return self.output(states)

    def queries(self, batch, path: str) -> Tensor:
        return self.outputs(batch, path)[batch.last_targets][batch.last_rows]

    def reads_domain(self, path: str) -> bool:
        """Only the events decide; on the single path those of other domains are left out."""
        return False

    def rows_of(self, name: str) -> str:
        return "items" if name == "item_table" else "whole"

    @staticmethod
    def activation_bytes(settings, tile: float) -> float:
        byte = 8 if settings.precision == "float64" else 4
        per_layer = 8 * settings.hidden  # gates, candidate, state and their inputs
        around = 8 * settings.hidden  # embedding, padded input, dropout masks, rows of the loss
        return byte * (per_layer * settings.gru4rec_layers + around) * len(settings.paths)
