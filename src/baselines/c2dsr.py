"""C2DSR without its item graph: a mixed and a single view whose states add up, and an infomax loss.

Cao, Cong, Sheng, Liu and Wang, "Contrastive Cross-Domain Sequential Recommendation", CIKM 2022.
With h^x of the mixed view and h^δ of the view of the target's domain δ alone, the output of a
target is h^x + h^δ. For two domains δ ≠ e of a user, whose targets' states have the means

    r_δ of h^δ,  c_e of h^x,  ĉ_e of h^x where random items replace all inputs outside e,

infomax is the binary cross-entropy that r_δᵀ B_δ c_e is true and r_δᵀ B_δ ĉ_e is false. c_e pools
the whole window, future included: it is a term of the objective, never an input.

Departures. There is no graph over the items. One tied item table serves inputs and scores of both
views, where the authors have three tables and an output layer per domain. One encoder with a start
token per domain reads the single views, where the two domains have one each; all encoders are
SyNCRec's expert, as in sasrec.py. Every target of the window is trained on, not the last ten. The
sum over all pairs of domains is sampled: a step draws one e, the same for its whole batch, so that
there is one corrupted pass instead of D. The loss of the mixed view alone stays a plain mean over
targets where a loss weighting weighs the domains. Of several processes each draws its own e and
contrasts its own users.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.baselines.sequence_model import SequenceModel, asked_slots
from src.config.cli import setting
from src.interfaces import StepLosses
from src.io.errors import UserError
from src.nn.experts import activation_bytes
from src.nn.initialization import own_stream
from src.nn.sequence_encoder import SequenceEncoder, input_rows
from src.objective.step_losses import target_losses

INFOMAX, SHARED = "infomax loss", "loss of the mixed view"
SHOWN = {INFOMAX: "infomax_loss", SHARED: "mixed_loss"}


@dataclass(frozen=True)
class C2DSRSettings:
    """C2DSR's own settings; those of its encoders are shared with other models."""

    c2dsr_weight: float = setting(
        0.43,
        "weight of the infomax loss (the paper: .3, and .7 for the other losses)",
        group="C2DSR",
    )
    c2dsr_shared: float = setting(
        1.0, "weight of the loss of the mixed view alone; the paper's is 1", group="C2DSR"
    )

    @staticmethod
    def check(settings) -> None:
        """Refuse values out of bounds (UserError)."""
        for name in ("c2dsr_weight", "c2dsr_shared"):
            if not 0 <= getattr(settings, name) < math.inf:
                raise UserError(f"--{name} must be at least 0, not {getattr(settings, name)}")


class C2DSR(SequenceModel):
    """Two encoders, of the mixed view and of the single views; a bilinear critic per domain."""

    Settings = C2DSRSettings
    queries_read = "views"
    starts: Tensor

    def __init__(self, settings, item_starts: list[int]):
        super().__init__(settings, item_starts)
        self.auxiliary_weights = {INFOMAX: settings.c2dsr_weight, SHARED: settings.c2dsr_shared}
        with own_stream(settings.seed, "mixed encoder"):
            self.mixed = SequenceEncoder(settings)
        with own_stream(settings.seed, "single encoder"):
            self.single = SequenceEncoder(settings, starts=self.domains)
        critic = torch.eye(settings.hidden) / settings.hidden**0.5  # a scaled dot product at first
        self.critics = nn.Parameter(critic.repeat(self.domains, 1, 1))  # B [D, H, H]
        self.register_buffer("starts", torch.tensor(self.item_starts), persistent=False)

    def forward(
        self,
        batch,
        coefficients: dict[str, Tensor] | None = None,
        gather: Callable[[Tensor], list[Tensor]] | None = None,
    ) -> StepLosses:
        (path,) = self.settings.paths
        mixed, single = self.states(batch)
        weights = None if coefficients is None else coefficients[path]
        objective, losses = self.losses(batch, mixed + single, weights)
        terms = {}
        if self.settings.c2dsr_weight:
            terms[INFOMAX] = self.infomax(batch, mixed, single)
        if self.settings.c2dsr_shared:
            mean = mixed.new_full((len(mixed),), 1 / max(1, len(mixed)))
            terms[SHARED] = self.losses(batch, mixed, mean)[0]
        shown = {SHOWN[term]: value for term, value in terms.items()}
        return StepLosses(objective, {path: losses}, terms, shown)

    def losses(self, batch, states: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """`target_losses` of these states [N, H]."""
        return target_losses(
            self.settings, batch, states, self.item_table, self.item_starts, weights
        )

    def states(self, batch, last: bool = False) -> tuple[Tensor, Tensor]:
        """h^x and h^δ of every target, or of each user's last one: two of [n, H]."""
        slots, _ = asked_slots(batch, "cross", last)
        rows, asked = input_rows(batch.cross, self.item_table), self.asked(batch.cross)
        mixed = self.mixed(batch.cross, rows, slots, added=asked)
        slots, _ = asked_slots(batch, "single", last)
        rows = input_rows(batch.single, self.item_table)
        return mixed, self.single(batch.single, rows, slots, start_of=batch.single.domains)

    def outputs(self, batch, path: str, last: bool = False) -> Tensor:
        mixed, single = self.states(batch, last)
        return mixed + single

    # ------------------------------------------------------------------------ infomax

    def infomax(self, batch, mixed: Tensor, single: Tensor) -> Tensor:
        """The mean over all users and domains δ ≠ e of softplus(−r_δᵀ B_δ c_e) +
        softplus(r_δᵀ B_δ ĉ_e), in nats, for one e that is drawn; 0 where nobody is in two domains.

        mixed and single [N, H] are h^x and h^δ of the targets.
        """
        present = [domain for domain, count in enumerate(batch.counts) if count]
        drawn = present[int(torch.randint(len(present), ()))] if present else 0  # e
        inputs = self.corrupted_inputs(batch.cross.inputs, drawn)
        rows = F.embedding(inputs, self.item_table)
        slots, asked = batch.cross.target_slots, self.asked(batch.cross)
        corrupted = self.mixed(batch.cross, rows, slots, added=asked)  # [N, H]
        means, known = user_means(batch, torch.cat([single, mixed, corrupted], 1))
        single, mixed, corrupted = means.chunk(3, -1)  # r, c, ĉ [D, B, H]
        asked = single @ self.critics  # [D, B, H]
        true, false = ((asked * other[drawn]).sum(-1) for other in (mixed, corrupted))  # [D, B]
        others = torch.arange(len(known), device=known.device) != drawn  # [D]
        pairs = known & known[drawn] & others[:, None]
        losses = F.softplus(-true) + F.softplus(false)
        return (losses * pairs).sum() / pairs.sum().clamp(min=1)

    def corrupted_inputs(self, inputs: Tensor, kept: int) -> Tensor:
        """Inputs [M] of a view with a random item of its own domain in place of every item that is
        not of the domain `kept`; start tokens stay."""
        domains = torch.bucketize(inputs, self.starts, right=True) - 1  # [M], −1 at a start token
        first, end = self.starts[domains.clamp(min=0)], self.starts[domains + 1]
        # torch's CPU generator, whose state a checkpoint holds, on every device
        draws = torch.rand(len(inputs), dtype=torch.float64).to(inputs.device)
        items = first + (draws * (end - first)).long()
        return torch.where((domains == kept) | (domains < 0), inputs, items)

    # ------------------------------------------------------------------------ the interface

    def reads_domain(self, path: str) -> bool:
        """The single view is that of the domain that is asked for."""
        return True

    def rows_of(self, name: str) -> str:
        by_domain = name == "critics" or name.startswith("single.embed.start")
        return "domains" if by_domain else super().rows_of(name)

    @staticmethod
    def activation_bytes(settings, tile: float) -> float:
        views = ["cross", "single"] + ["corrupted"] * bool(settings.c2dsr_weight)
        return activation_bytes(settings, dict.fromkeys(views, 1), tile)


def user_means(batch, states: Tensor) -> tuple[Tensor, Tensor]:
    """The means of the targets' states [N, H] by domain and user [D, B, H], 0 where a user has no
    target in a domain, and where they have one [D, B]."""
    lengths, view = batch.pair_lengths, batch.cross  # [S]
    pooled = torch.segment_reduce(states, "mean", lengths=lengths, unsafe=True)  # [S, H]
    first = view.target_slots[lengths.cumsum(0) - lengths]  # a slot of each pair
    pairs = view.domains[first], view.sequence_ids[first]
    shape = len(batch.counts), view.sequences
    means = pooled.new_zeros(*shape, pooled.shape[1]).index_put(pairs, pooled)
    known = torch.zeros(shape, dtype=torch.bool, device=states.device)
    return means, known.index_put(pairs, torch.ones_like(first, dtype=torch.bool))
