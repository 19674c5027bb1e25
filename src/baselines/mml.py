"""MML: an invariant and a specific table of items, three next-item tasks and a contrast of crops.

Pan, Pan and Ming, "Multi-domain sequential recommendation via multi-sequence and multi-task
learning", Information Processing & Management 63(2), 2026. An item has an invariant vector I and a
specific vector S. The mixed view of a user is read from I and gives h^x; the view of a domain δ
alone is read from S and gives h^δ. An item of δ scores ⟨h^x, I⟩ + ⟨h^δ, S⟩. Trained are

    the next item from h^x by I;  the next item of δ from h^δ by S;
    across domains: the event after one of δ, where it is of another domain e, from M_e h^δ by S;
    a contrast of the users' h^x with those of random crops of their mixed views (InfoNCE).

Departures. Both vectors are halves of one row of the item table [V + 1, H], so H/2 each. The losses
are those of `--loss`, by default the softmax over the target's domain, where the paper has a binary
cross-entropy with one negative. One encoder with a start token per domain reads the single views,
where each domain has its own; S belongs to one domain in any case, and the cost doesn't grow with
their number. Both encoders are SyNCRec's expert, as in sasrec.py; M_e is followed by dropout and a
layer norm as in the authors' code. A first event is predicted too, from the start token. The window
is the user's newest L events, not L/D of each domain. h^δ after the last event of δ in a window is
not computed, so what follows it is no target across domains. The contrast is a mean over users, so
its weight is the authors' .001 times their 128 users; of several processes each contrasts its own.
Left out are two terms of weight .001: the L2 norm of the item vectors, and the squared distances
between the invariant vectors of items around a change of domain.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.baselines.sequence_model import SequenceModel, asked_slots
from src.config.cli import setting
from src.interfaces import StepLosses
from src.io.errors import UserError
from src.nn.dropout import dropout
from src.nn.experts import activation_bytes
from src.nn.initialization import own_stream
from src.nn.sequence_encoder import SequenceEncoder, input_rows
from src.nn.stacked import StackedLinear
from src.objective.step_losses import target_losses

ACROSS, CONTRAST = "loss across domains", "contrast of crops"
SHOWN = {ACROSS: "across_loss", CONTRAST: "contrast_loss"}
CROP, TEMPERATURE = 0.9, 0.5  # length of a crop, scale of its InfoNCE: those of the authors' runs


@dataclass(frozen=True)
class MMLSettings:
    """MML's own settings; those of its encoders are shared with other models."""

    mml_across: float = setting(
        2.0, "weight of predicting the next item of another domain", group="MML"
    )
    mml_contrast: float = setting(
        0.128, "weight of the contrast with cropped views; a mean over users", group="MML"
    )

    @staticmethod
    def check(settings) -> None:
        """Refuse values out of bounds and halves that the heads do not divide (UserError)."""
        for name in ("mml_across", "mml_contrast"):
            if not 0 <= getattr(settings, name) < math.inf:
                raise UserError(f"--{name} must be at least 0, not {getattr(settings, name)}")
        if settings.hidden % (2 * settings.heads):
            raise UserError(
                f"--model mml splits --hidden {settings.hidden} in halves, and a half must be a "
                f"multiple of --heads {settings.heads}"
            )


class MML(SequenceModel):
    """Two encoders of width H/2, each with its half of the item table; a map into every domain."""

    Settings = MMLSettings
    queries_read = "views"

    def __init__(self, settings, item_starts: list[int]):
        super().__init__(settings, item_starts)
        self.auxiliary_weights = {ACROSS: settings.mml_across, CONTRAST: settings.mml_contrast}
        half = halved(settings)
        with own_stream(settings.seed, "mixed encoder"):
            self.mixed = SequenceEncoder(half)
        with own_stream(settings.seed, "single encoder"):
            self.single = SequenceEncoder(half, starts=self.domains)
        with own_stream(settings.seed, "maps"):
            self.maps = StackedLinear(self.domains, half.hidden, half.hidden)
        self.map_norm = nn.LayerNorm(half.hidden)

    def tables(self) -> tuple[Tensor, Tensor]:
        """I and S of all items, two of [V + 1, H/2]."""
        invariant, specific = self.item_table.chunk(2, 1)
        return invariant, specific

    def forward(
        self,
        batch,
        coefficients: dict[str, Tensor] | None = None,
        gather: Callable[[Tensor], list[Tensor]] | None = None,
    ) -> StepLosses:
        """The loss of a target is the sum of its losses in the two views."""
        (path,) = self.settings.paths
        weights = None if coefficients is None else coefficients[path]
        (mixed, single), (invariant, specific) = self.states(batch), self.tables()
        by_mixed, mixed_losses = self.losses(batch, mixed, invariant, weights)
        by_single, single_losses = self.losses(batch, single, specific, weights)
        terms = {}
        if self.settings.mml_across:
            terms[ACROSS] = self.across(batch, single, specific)
        if self.settings.mml_contrast:
            terms[CONTRAST] = self.contrast(batch, mixed, invariant)
        losses = {path: mixed_losses + single_losses}
        shown = {SHOWN[term]: value for term, value in terms.items()}
        return StepLosses(by_mixed + by_single, losses, terms, shown)

    def losses(
        self, batch, states: Tensor, table: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`target_losses` of states [N, H/2] by one half of the item table."""
        return target_losses(self.settings, batch, states, table, self.item_starts, weights)

    def states(self, batch, last: bool = False) -> tuple[Tensor, Tensor]:
        """h^x and h^δ of every target, or of each user's last one: two of [n, H/2]."""
        invariant, specific = self.tables()
        slots, _ = asked_slots(batch, "cross", last)
        rows, asked = input_rows(batch.cross, invariant), self.asked_half(batch.cross, 0)
        mixed = self.mixed(batch.cross, rows, slots, added=asked)
        slots, _ = asked_slots(batch, "single", last)
        rows, asked = input_rows(batch.single, specific), self.asked_half(batch.single, 1)
        return mixed, self.single(batch.single, rows, slots, batch.single.domains, asked)

    def asked_half(self, view, half: int) -> Tensor | None:
        """`asked`, the half of an encoder's width [M, H/2]."""
        asked = self.asked(view)
        return None if asked is None else asked.chunk(2, 1)[half]

    def outputs(self, batch, path: str, last: bool = False) -> Tensor:
        return torch.cat(self.states(batch, last), 1)  # [n, H]

    # ------------------------------------------------------------------------ across domains

    def across(self, batch, single: Tensor, specific: Tensor) -> Tensor:
        """The mean loss of predicting a target of domain e from M_e h^δ, where the event before it
        is of another domain δ and h^δ has read up to that event; 0 without such targets.

        single [N, H/2] are the h^δ of the targets.
        """
        sources, valid = sources_across(batch)
        weights, biases = self.maps.weight.unbind(0), self.maps.bias.unbind(0)
        parts = single.index_select(0, sources).split(batch.counts)  # by the target's domain e
        mapped = [
            torch.addmm(b, part, w) for part, w, b in zip(parts, weights, biases, strict=True)
        ]
        mapped = self.map_norm(dropout(torch.cat(mapped), self.settings.dropout, self.training))
        share = valid.to(torch.promote_types(mapped.dtype, torch.float32))
        return self.losses(batch, mapped, specific, share / share.sum().clamp(min=1))[0]

    # ------------------------------------------------------------------------ contrast of crops

    def contrast(self, batch, mixed: Tensor, invariant: Tensor) -> Tensor:
        """InfoNCE between the users' newest h^x and those of their crops, a mean in nats: the
        cosines of a user with the crops of all, over TEMPERATURE. mixed [N, H/2] are the h^x."""
        newest = batch.last_targets[batch.last_rows]  # [B]
        view, slots = cropped(batch.cross, batch.cross.target_slots[newest])
        rows, asked = input_rows(view, invariant), self.asked_half(view, 0)
        crops = self.mixed(view, rows, slots, added=asked)  # [B, H/2]
        users = mixed.index_select(0, newest)
        logits = F.normalize(users) @ F.normalize(crops).T / TEMPERATURE  # [B, B]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        labels = torch.arange(len(logits), device=logits.device)
        return F.cross_entropy(logits, labels, reduction="sum") / max(1, len(logits))

    # ------------------------------------------------------------------------ the interface

    def reads_domain(self, path: str) -> bool:
        """The single view is that of the domain that is asked for."""
        return True

    def rows_of(self, name: str) -> str:
        by_domain = name.startswith(("maps.", "single.embed.start"))
        return "domains" if by_domain else super().rows_of(name)

    @staticmethod
    def activation_bytes(settings, tile: float) -> float:
        views = ["cross", "single"] + ["crops"] * bool(settings.mml_contrast)
        return activation_bytes(halved(settings), dict.fromkeys(views, 1), tile)


def halved(settings):
    """The settings of an encoder that reads half of a row of the item table."""
    return replace(settings, hidden=settings.hidden // 2)


def sources_across(batch) -> tuple[Tensor, Tensor]:
    """For each target the index of the target whose h^δ has read up to the event before it and no
    further, and whether there is one, that event being of another domain δ: two of [N].

    h^δ of a target has read the events of δ before it, so the source is the next target of δ after
    the event before; in the canonical order the two stand one after the other.
    """
    view, slots = batch.cross, batch.cross.target_slots  # [N]
    rows = torch.arange(len(slots), device=slots.device)
    row_of = slots.new_zeros(len(view.inputs)).index_put((slots,), rows)  # [M]
    before = row_of[(slots - 1).clamp(min=0)]  # slots of a user are in time order
    sources = (before + 1).clamp(max=len(slots) - 1)
    users, domains = view.sequence_ids[slots], view.domains[slots]
    valid = (view.positions[slots] > 0) & (domains[before] != domains)
    same = (users[sources] == users[before]) & (domains[sources] == domains[before])
    return sources, valid & same & (sources > before)


def cropped(view, ends: Tensor):
    """The mixed view with a random crop of each user's inputs, and the slots of the crops' ends.

    `ends` [B] are the slots of the users' last targets. A crop begins at a random input and is
    CROP of the inputs long, or shorter where they end. What comes before it is cut off as another
    sequence; what comes after it is not seen from its end.
    """
    inputs = view.positions[ends]  # [B] of each user; its start token is at position 0
    # torch's CPU generator, whose state a checkpoint holds, on every device
    draws = torch.rand(len(ends), dtype=torch.float64).to(ends.device)
    first = torch.minimum(1 + (draws * inputs).long(), inputs)
    last = torch.minimum(first + (CROP * inputs).long(), inputs)
    # of each slot; those that no sequence fills have the number of sequences for an id
    first_of, last_of = (F.pad(values, (0, 1))[view.sequence_ids] for values in (first, last))
    before = view.positions < first_of  # [M]
    cut = replace(
        view,
        sequence_ids=view.sequence_ids + before * (view.sequences + 1),
        positions=(view.positions - (first_of - 1).clamp(min=0)).clamp(min=0),
        reversed_positions=(last_of - view.positions).clamp(min=0),
    )
    return cut, ends - inputs + last
