"""CL4SRec: SASRec with a contrastive loss between two changed copies of each sequence.

Xie et al., "Contrastive Learning for Sequential Recommendation", ICDE 2022. Each copy has one of
three changes, drawn at random: a stretch of η of the events is kept (crop), γ of the events are
replaced by a learned mask (mask), or a stretch of β of the events is shuffled (reorder). The state
after the last event stands for a copy. InfoNCE tells the two copies of a sequence among those of
all sequences in the batch, by their dot product.

The defaults are the shares of the paper's example, η .6, γ .3, β .6, and a weight of .1; the paper
tunes them for each log. Departures: those of SASRec (src/baselines/sasrec.py); the copies are made
of the input events, without the newest one, which is only a target; a crop keeps at least one
event; the dot product is divided by a temperature, 1 by default. Each process and each batch of a
step contrasts its own users, and metrics.csv has the contrastive loss of the first process.
"""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.baselines.sasrec import SASRec
from src.config.cli import setting
from src.io.errors import UserError
from src.nn.initialization import own_stream
from src.nn.sequence_encoder import SequenceEncoder, input_rows

CONTRASTIVE = "contrastive loss"
CROP, MASK, REORDER = range(3)


@dataclass(frozen=True)
class CL4SRecSettings:
    """CL4SRec's own settings; the others are SASRec's."""

    cl4srec_weight: float = setting(
        0.1, "weight of the contrastive loss; 0: SASRec", group="CL4SRec"
    )
    cl4srec_temperature: float = setting(
        1.0, "what the dot products of the contrastive loss are divided by", group="CL4SRec"
    )
    cl4srec_crop: float = setting(0.6, "η, share of the events that a crop keeps", group="CL4SRec")
    cl4srec_mask: float = setting(0.3, "γ, share of the events that are masked", group="CL4SRec")
    cl4srec_reorder: float = setting(
        0.6, "β, share of the events that are shuffled", group="CL4SRec"
    )

    @staticmethod
    def check(settings) -> None:
        """Refuse values out of bounds (UserError)."""
        for name in ("cl4srec_crop", "cl4srec_mask", "cl4srec_reorder"):
            if not 0 <= getattr(settings, name) <= 1:
                raise UserError(f"--{name} must lie in [0, 1], not {getattr(settings, name)}")
        if not 0 <= settings.cl4srec_weight <= 1e6:
            raise UserError(f"--cl4srec_weight must lie in [0, 1e6], not {settings.cl4srec_weight}")
        if not 1e-6 <= settings.cl4srec_temperature <= 1e6:
            raise UserError(
                f"--cl4srec_temperature must lie in [1e-6, 1e6], not {settings.cl4srec_temperature}"
            )


class CL4SRec(SASRec):
    """SASRec, whose encoder also learns to recognise a sequence after a change."""

    Settings = CL4SRecSettings

    def __init__(self, settings, item_starts: list[int]):
        super().__init__(settings, item_starts)
        self.auxiliary_weights = {CONTRASTIVE: settings.cl4srec_weight}
        with own_stream(settings.seed, "cl4srec"):
            self.mask = nn.Parameter(torch.randn(settings.hidden) * 0.02)

    def auxiliary(self, batch, path: str, outputs: Tensor) -> dict[str, Tensor]:
        if not self.training or not self.settings.cl4srec_weight:
            return {}
        view = getattr(batch, path)
        first, second = (self.copy_states(view) for _ in range(2))
        return {CONTRASTIVE: info_nce(first, second, self.settings.cl4srec_temperature)}

    def copy_states(self, view) -> Tensor:
        """The state of a changed copy of each sequence with an input event [n, H]."""
        view, masked, ends = changed_copy(view, self.settings)
        items = torch.where(masked[:, None], self.mask, input_rows(view, self.item_table))
        return self.encoder(view, items, ends, added=self.asked(view))

    @staticmethod
    def activation_bytes(settings, tile: float) -> float:
        return SequenceEncoder.activation_bytes(settings, tile, passes=3)


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """InfoNCE by dot products, in nats: two copies of n sequences [n, H] each -> scalar.

    Of each of the 2n copies the other one of its sequence is the positive, and the 2 (n − 1) copies
    of other sequences are the negatives. The mean over all copies; 0 for fewer than two sequences.
    """
    copies = torch.cat([first, second])  # [2n, H]
    scores = copies @ copies.T / temperature  # [2n, 2n]
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    itself = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    partner = torch.arange(len(scores), device=scores.device).roll(len(first))
    scores = scores.masked_fill(itself, -torch.inf)
    return F.cross_entropy(scores, partner, reduction="sum") / max(1, len(scores))


class Changes(NamedTuple):
    """One change of each of S sequences, by positions from 0 at the start token."""

    source: Tensor  # [S, L] the position whose input comes to each position
    masked: Tensor  # [S, L] whether that input is masked
    start: Tensor  # [S] the position that the start token comes to; before it nothing is left


def draw_changes(events: Tensor, length: int, settings) -> Changes:
    """Draw a crop, mask or reordering of each sequence from its number of input events [S].

    The draws come from the CPU's generator, so they are the same on every device.
    """
    sequences, device, events = len(events), events.device, events[:, None]  # [S, 1]
    kind = torch.randint(3, (sequences, 1)).to(device)
    where = torch.rand(sequences, 1).to(device)
    draws = torch.rand(sequences, length).to(device)
    positions = torch.arange(length, device=device).expand(sequences, -1)  # [S, L]

    def share(part: float) -> Tensor:
        return (part * events.double()).long()

    def begin(size: Tensor) -> Tensor:  # the first position of a stretch of the events
        return 1 + (where * (events - size + 1)).long().minimum(events - size)

    kept = share(settings.cl4srec_crop).clamp(min=1).minimum(events)
    start = events - kept  # a crop comes to the end of its sequence, the start token before it
    cropped = torch.where(positions > start, positions - start + begin(kept) - 1, 0)
    shuffled = share(settings.cl4srec_reorder)
    first = begin(shuffled)
    inside = (positions >= first) & (positions < first + shuffled)
    order = torch.where(inside, first + shuffled * draws, positions)
    reordered = order.argsort(stable=True)
    is_event = (positions > 0) & (positions <= events)
    rank = draws.masked_fill(~is_event, 2.0).argsort().argsort()  # of the events: 0, 1, …
    source = torch.where(kind == CROP, cropped, positions)
    source = torch.where(kind == REORDER, reordered, source)
    masked = (kind == MASK) & (rank < share(settings.cl4srec_mask))
    return Changes(source, masked, torch.where(kind == CROP, start, 0)[:, 0])


def changed_copy(view, settings):
    """A changed copy of a view: the view, whether each input is masked [M], and the last slot of
    each sequence with an input event [n]. An event brings its interval along, and each slot asks
    for the domain of the event that now comes next."""
    slots = view.target_slots
    sequences, positions = view.sequence_ids[slots], view.positions[slots]  # [N]
    firsts = slots.new_zeros(view.sequences).index_put((sequences,), slots - positions)  # [S]
    events = torch.bincount(sequences, minlength=view.sequences) - 1  # [S]
    changes = draw_changes(events, settings.max_len, settings)
    source = firsts[sequences] + changes.source[sequences, positions]  # [N] slots
    left = positions - changes.start[sequences]  # [N] negative before the start token
    # the event that now comes next, or the target after the last one: its slot is one before
    following = F.pad(changes.source, (0, 1))[sequences, positions + 1] - 1
    following = torch.where(positions < events[sequences], following, positions)  # [N]

    def lay_out(former: Tensor, values: Tensor) -> Tensor:
        return former.index_copy(0, slots, values)

    intervals = view.intervals
    copy = dataclasses.replace(
        view,
        inputs=lay_out(view.inputs, view.inputs[source]),
        positions=lay_out(view.positions, left.clamp(min=0)),
        domains=lay_out(view.domains, view.domains[firsts[sequences] + following]),
        sequence_ids=lay_out(view.sequence_ids, sequences.masked_fill(left < 0, view.sequences)),
        intervals=None if intervals is None else lay_out(intervals, intervals[source]),
    )
    masked = torch.zeros_like(view.inputs, dtype=torch.bool)
    masked = lay_out(masked, changes.masked[sequences, positions])
    return copy, masked, (firsts + events)[events > 0]
