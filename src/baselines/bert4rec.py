"""BERT4Rec: a bidirectional Transformer that predicts masked events.

Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
Transformer", CIKM 2019. A slot holds the event itself, where other models' slots hold the one
before it. Training masks some events of each sequence and predicts them from all others. A ranked
target takes the last place of its context, as a mask; nothing after it is read.

The loss of a step is that of its masked events alone: each counts for n_d / m_d targets, where m_d
of the batch's n_d targets of its domain are masked, and the others have the loss 0. So the mean
over a domain's targets, which the objective, metrics.csv and the loss weightings read, is the mean
over its masked ones. At least one event of each sequence and of each domain of a batch is masked.

Departures: masks are drawn anew in each step, not ten times in advance; a user's newest events are
one window, not several; no bias per item, because a query and an item table are all that ranking
knows; no GELU layer between the encoder and the scores, which slowed training; the loss is that of
`--loss`, by default the softmax over the target's domain; Adam's learning rate and weight decay are
those of the run.
"""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from src.baselines.sequence_model import SequenceModel, asked_slots
from src.config.cli import setting
from src.io.errors import UserError
from src.nn.initialization import own_stream
from src.nn.sequence_encoder import SequenceEncoder, input_rows
from src.objective.step_losses import target_losses

# share of the sequences of which the last event alone is masked, as it is when ranking; in the
# authors' code one of eleven copies of a sequence
LAST_ALONE = 0.1


@dataclass(frozen=True)
class BERT4RecSettings:
    """BERT4Rec's own settings; --hidden, --layers, --heads, --dropout are shared with others."""

    bert4rec_mask_rate: float = setting(
        0.2, "probability that an event is masked in a step", group="BERT4Rec"
    )

    @staticmethod
    def check(settings) -> None:
        """Refuse values out of bounds (UserError)."""
        if not 0 < settings.bert4rec_mask_rate < 1:
            raise UserError(
                f"--bert4rec_mask_rate must lie in (0, 1), not {settings.bert4rec_mask_rate}"
            )


class MaskedTargets(NamedTuple):
    """The masked targets of a batch in the canonical order, as `target_losses` reads them."""

    targets: Tensor  # [m]
    negatives: Tensor  # [m, n]
    counts: list[int]  # by domain
    domain_counts: Tensor  # [D] the same on the device


class BERT4Rec(SequenceModel):
    """One bidirectional encoder over the events of a user, or of a user in a domain."""

    Settings = BERT4RecSettings

    def __init__(self, settings, item_starts: list[int]):
        super().__init__(settings, item_starts)
        with own_stream(settings.seed, "encoder"):
            self.encoder = SequenceEncoder(settings, causal=False)  # its start token is the mask

    def states(self, view, events: Tensor, slots: Tensor) -> Tensor:
        """The outputs [n, H] at `slots` [n], which are masked, of a view of events [M]."""
        view = dataclasses.replace(view, inputs=events.index_fill(0, slots, 0))
        rows = input_rows(view, self.item_table)
        return self.encoder(view, rows, slots, added=self.asked(view))

    # ------------------------------------------------------------------------ ranking

    def outputs(self, batch, path: str, last: bool = False) -> Tensor:
        """Each target is masked in a context that ends with it: one pass for the last targets, and
        for all of them as many passes as the longest sequence has events."""
        view, events = getattr(batch, path), slot_events(batch, path)
        slots, _ = asked_slots(batch, path, last)
        if last:
            return self.states(view, events, slots)
        steps_back = view.reversed_positions[slots]  # [N]
        outputs = self.item_table.new_zeros(len(slots), self.settings.hidden)
        for steps in steps_back.unique().tolist():
            rows = (steps_back == steps).nonzero()[:, 0]
            ended = self.states(without_newest(view, steps), events, slots[rows])
            outputs = outputs.index_copy(0, rows, ended.to(outputs.dtype))
        return outputs

    # ------------------------------------------------------------------------ training

    def path_losses(
        self, batch, path: str, coefficients: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if not self.training:
            return super().path_losses(batch, path, coefficients)
        view = getattr(batch, path)
        masked = masked_targets(batch, view, self.settings.bert4rec_mask_rate)  # [m] of the N
        slots = view.target_slots[masked]
        outputs = self.states(view, slot_events(batch, path), slots)  # [m, H]
        domains = view.domains[slots]  # [m]
        counts = torch.bincount(domains, minlength=self.domains)  # m_d [D]
        shares = (batch.domain_counts / counts.clamp(min=1))[domains].to(self.item_table.dtype)
        weights = shares if coefficients is None else shares * coefficients[masked]
        part = MaskedTargets(
            batch.targets[masked], batch.negatives[masked], counts.tolist(), counts
        )
        weighted_sum, losses = target_losses(
            self.settings, part, outputs, self.item_table, self.item_starts, weights
        )
        by_target = losses.new_zeros(len(batch.targets)).index_copy(0, masked, losses * shares)
        return weighted_sum, by_target, {}

    @staticmethod
    def activation_bytes(settings, tile: float) -> float:
        return SequenceEncoder.activation_bytes(settings, tile)


def slot_events(batch, path: str) -> Tensor:
    """The item in each slot of a view [M]; 0 in a slot without a token."""
    view = getattr(batch, path)
    return torch.zeros_like(view.inputs).index_copy(0, view.target_slots, batch.targets)


def without_newest(view, steps: int):
    """The view of each sequence without its newest `steps` events: their slots belong to none."""
    remaining = view.reversed_positions - steps
    return dataclasses.replace(
        view,
        reversed_positions=remaining.clamp(min=0),
        sequence_ids=view.sequence_ids.masked_fill(remaining < 0, view.sequences),
    )


def masked_targets(batch, view, rate: float) -> Tensor:
    """Draw which targets are masked: their indices in the canonical order [m], ascending.

    Of one sequence in ten the last event alone; of the others each event with probability `rate`,
    and where that leaves a sequence or a domain of the batch without any, the one with the lowest
    draw. The draws come from the CPU's generator, so they are the same on every device.
    """
    slots = view.target_slots
    sequences, is_last = view.sequence_ids[slots], view.reversed_positions[slots] == 0  # [N]
    draws = torch.rand(len(slots)).to(slots.device)
    last_alone = (torch.rand(view.sequences) < LAST_ALONE).to(slots.device)[sequences]
    # there the last event comes first and the others last: only a domain without any takes them
    draws = torch.where(last_alone, torch.where(is_last, 0.0, 1.0 + draws), draws)
    lowest = draws.new_ones(view.sequences).scatter_reduce(0, sequences, draws, "amin")
    chosen = (draws < rate) | (draws <= lowest[sequences])
    lowest = torch.segment_reduce(draws, "min", lengths=batch.domain_counts, unsafe=True)
    lowest = lowest.repeat_interleave(batch.domain_counts, output_size=len(draws))
    return (chosen | (draws <= lowest)).nonzero()[:, 0]
