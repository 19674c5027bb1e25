"""GRU4Rec: a recurrent network over one view of a user, a Recommender (src/interfaces.py).

Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016; Hidasi and
Karatzoglou, "Recurrent Neural Networks with Top-k Gains for Session-based Recommendations", CIKM
2018. Departures: a user's window stands for a session, and batches hold whole windows instead of
session-parallel steps; the loss is that of `--loss`, by default the softmax over all items of the
target's domain, not over the other targets of a batch; inputs and outputs share one item table (the
paper's constrained embedding); a learned start token predicts the first event; Adam instead of
Adagrad.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.baselines.sequence_model import SequenceModel
from src.config.cli import setting
from src.io.errors import UserError
from src.nn.initialization import own_stream
from src.nn.intervals import IntervalEmbedding


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


class GRU4Rec(SequenceModel):
    """One GRU over the packed sequences of a view: a user (all domains) or a user in a domain."""

    Settings = GRU4RecSettings

    def __init__(self, settings, item_starts: list[int]):
        super().__init__(settings, item_starts)
        hidden = settings.hidden
        with own_stream(settings.seed, "gru4rec"):
            self.start = nn.Parameter(torch.randn(hidden) * 0.02)
            if settings.reads_time:
                self.interval = IntervalEmbedding(hidden)
            self.gru = nn.GRU(hidden, hidden, settings.gru4rec_layers, batch_first=True)
            self.output = nn.Linear(hidden, hidden) if settings.gru4rec_output else nn.Identity()

    def outputs(self, batch, path: str, last: bool = False) -> Tensor:
        view = getattr(batch, path)
        if not view.sequences:  # a process may have no user in a batch
            return self.start.new_zeros(0, self.settings.hidden)
        tokens = F.embedding(view.inputs, self.item_table)  # [M, H]
        tokens = torch.where((view.inputs == 0)[:, None], self.start, tokens)
        if self.settings.reads_time:
            tokens = tokens + self.interval(view.intervals)
        if (asked := self.asked(view)) is not None:
            tokens = tokens + asked
        tokens = F.dropout(tokens, self.settings.dropout, self.training)
        slots = view.target_slots  # [N]
        rows, positions = view.sequence_ids[slots], view.positions[slots]
        padded = tokens.new_zeros(view.sequences, self.settings.max_len, self.settings.hidden)
        padded = padded.index_put((rows, positions), tokens.index_select(0, slots))  # [S, L, H]
        states = self.gru(padded)[0].flatten(0, 1)  # [S·L, H]
        states = states.index_select(0, rows * self.settings.max_len + positions)  # [N, H]
        states = states[batch.last_targets] if last else states
        states = F.dropout(states, self.settings.dropout, self.training)
        return self.output(states)

    @staticmethod
    def activation_bytes(settings, tile: float) -> float:
        byte = 8 if settings.precision == "float64" else 4
        per_layer = 8 * settings.hidden  # gates, candidate, state and their inputs
        around = 8 * settings.hidden  # embedding, padded input, dropout masks, rows of the loss
        return byte * (per_layer * settings.gru4rec_layers + around) * len(settings.paths)
