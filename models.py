"""SyNCRec: one user in two views, experts that each learn from one task, a tower for each.

The paper: Park et al., "Pacer and Runner: Cooperative Learning Framework between Single- and
Cross-Domain Sequential Recommendation", SIGIR 2024. Symbols: B users, N targets (all events of the
batch's users), D domains, V items, H hidden size, K = K_c + K_s experts.
"""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.nn.kernels.softmax_loss import softmax_loss
from src.nn.layers import (
    EvenGate,
    Experts,
    SequenceGate,
    TokenGate,
    Towers,
    dropout,
    view_tiles,
)
from src.objective.sc_mim import sc_mim
from src.objective.step_losses import pairwise_loss


class StepLosses(NamedTuple):
    """The losses of a batch, in nats.

    `objective` is what the step losses add to the objective, and has their gradient; the losses of
    each target in each view [N] (None where a view is not trained) are values alone. The
    mutual-information loss is a scalar with a gradient, its bound one without.
    """

    objective: Tensor
    single: Tensor | None
    cross: Tensor | None
    mim: Tensor
    mim_bound: Tensor


@contextmanager
def own_draws(seed: int, part: str) -> Iterator[None]:
    """Initial weights of a part from a stream of its own, so that a flag that adds or removes one
    part changes no other's weights, nor the dropout that follows."""
    with torch.random.fork_rng(devices=[]):
        # the CPU generator alone: torch.manual_seed would reseed the GPUs and their dropout too
        torch.default_generator.manual_seed(zlib.crc32(f"{seed}/{part}".encode()))
        yield


class Task(nn.Module):
    """What one task has of its own: start tokens, positions, gates and (set later) towers.

    SDSR has one start token, gate and tower a domain, CDSR one of each.
    """

    def __init__(self, settings, starts: int, gates: int):
        super().__init__()
        hidden = settings.hidden
        self.start = nn.Parameter(torch.randn(starts, hidden) * 0.02)
        self.position = nn.Parameter(torch.randn(settings.max_len, hidden) * 0.02)
        self.norm = nn.LayerNorm(hidden)
        if settings.gate == "token":
            self.gate = TokenGate(gates, hidden, settings.experts)
        elif settings.gate == "sequence":
            self.gate = SequenceGate(gates, hidden, settings.experts, settings.max_len)
        else:
            self.gate = EvenGate(settings.experts)
        self.towers = None


class SyNCRec(nn.Module):
    """The asymmetric SDSR/CDSR pair.

    Gradients: an expert learns from the task that owns it alone; gates, towers, start tokens and
    positions belong to one task. The item table learns from both tasks, through the scores, the
    gates and the inputs of each task's own experts; nothing flows back through a stopped expert.

    Parameters
    ----------
    settings: the run's settings (src/config/settings.py).
    item_starts: D + 1 numbers; the items of domain d are rows item_starts[d] … item_starts[d+1] − 1
        of the item table, row 0 is padding.
    """

    def __init__(self, settings, item_starts: list[int]):
        super().__init__()
        self.settings = settings
        self.item_starts = [int(start) for start in item_starts]
        domains, hidden = len(item_starts) - 1, settings.hidden
        with own_draws(settings.seed, "items"):
            table = torch.randn(self.item_starts[-1], hidden).mul_(0.02)  # one table, not two
            self.item_table = nn.Parameter(table)
        self.experts = nn.ModuleDict()
        for owner, count in self._owners().items():
            with own_draws(settings.seed, f"{owner} experts"):
                self.experts[owner] = self._experts(count)
        gates = {"cross": 1, "single": 1 if settings.share_experts else domains}
        starts = {"cross": 1, "single": domains}
        self.tasks = nn.ModuleDict()
        for task in settings.paths:
            with own_draws(settings.seed, task):
                self.tasks[task] = Task(settings, starts[task], gates[task])
            with own_draws(settings.seed, f"{task} towers"):
                if settings.towers:
                    self.tasks[task].towers = Towers(gates[task], hidden, settings.dropout)
        with own_draws(settings.seed, "query"):
            if settings.target_domain_query and settings.runs_cross:
                self.query = nn.Parameter(torch.randn(domains, hidden) * 0.02)
        if settings.share_experts and settings.mode == "syncrec":
            self.tasks["single"].gate = self.tasks["cross"].gate
            self.tasks["single"].towers = self.tasks["cross"].towers
        if settings.mode == "syncrec":
            # LC-NTG's s_d; plain attributes would not be in the checkpoint
            self.register_buffer("gap_state", torch.full((domains,), 1.0 / domains))
            critic = torch.eye(hidden) / hidden**0.5  # starts as a scaled dot product
            self.critics = nn.Parameter(critic.repeat(domains, 1, 1))

    def _owners(self) -> dict[str, int]:
        """How many experts each task owns; a lone task owns them all."""
        settings = self.settings
        if settings.share_experts:
            return {"shared": 1}
        if settings.mode == "syncrec":
            return {"cross": settings.experts_cross, "single": settings.experts_single}
        return {settings.paths[0]: settings.experts}

    def _experts(self, count: int) -> Experts:
        settings = self.settings
        return Experts(
            count,
            settings.hidden,
            settings.layers,
            settings.heads,
            settings.dropout,
            settings.attention_dropout,
            settings.compile,
        )

    def forward(
        self,
        batch,
        coefficients: dict[str, Tensor] | None = None,
        gather: Callable[[Tensor], list[Tensor]] | None = None,
    ) -> StepLosses:
        """The losses of a Batch (src/dataset/batching/batch.py) in both views.

        `coefficients` [N] of each task are what the objective multiplies the targets' losses by, in
        the canonical order; without them, 1. They are an input because the softmax over a catalogue
        makes its gradient along with its value. `gather` brings the users of all processes together
        for the mutual-information loss (`sc_mim`).
        """
        rows = self._look_up(batch)
        outputs = {task: self.outputs(batch, task, items=rows[task]) for task in self.tasks}
        objective, losses = self.item_table.new_zeros(()), {}
        for task, output in outputs.items():  # each [N, H]
            own = None if coefficients is None else coefficients[task]
            part, losses[task] = self.target_losses(batch, output, rows, own)
            objective = objective + part
        mim = bound = self.item_table.new_zeros(())
        if self.settings.compares_views:
            mim, bound = sc_mim(
                outputs["single"],
                outputs["cross"],
                batch.pair_lengths,
                batch.mim_pairs,
                self.critics,
                self.settings.mim_temperature,
                gather,
            )
        return StepLosses(objective, losses.get("single"), losses.get("cross"), mim, bound)

    def outputs(self, batch, task: str, last: bool = False, items: Tensor | None = None) -> Tensor:
        """h of every target in one view [N, H], in the batch's canonical order; with `last`, of
        each user's last target alone [B, H], in that order.

        `items` are the item rows of the view's inputs [M, H], if they have been looked up.
        """
        view = getattr(batch, task)
        counts, slots = batch.counts, view.target_slots
        if last:
            counts, slots = batch.last_counts, slots[batch.last_targets]
        inputs = self.embed(view, task, self.item_rows(view.inputs) if items is None else items)
        return self.apply_towers(self.mix(inputs, view, slots, task), counts, task)

    def embed(self, view, task: str, items: Tensor) -> Tensor:
        """Inputs of one view [M, H]: the event before the target, or the start token; position;
        in the cross view, on request, the domain of the target."""
        own = self.tasks[task]
        domain = view.domains if task == "single" else torch.zeros_like(view.domains)
        tokens = torch.where((view.inputs == 0)[:, None], own.start[domain], items)
        tokens = tokens + F.embedding(view.positions, own.position)
        if task == "cross" and self.settings.target_domain_query:
            tokens = tokens + F.embedding(view.domains, self.query)
        return dropout(own.norm(tokens), self.settings.dropout, self.training)

    def mix(self, inputs: Tensor, view, places: Tensor, task: str) -> Tensor:
        """Σ_k g_k · expert_k over all experts at some slots: inputs [M, H], places [n] -> [n, H].

        The other task's experts are read, not trained. Where no gradient is wanted, the last layer
        is computed at those slots alone.
        """
        own, settings = self.tasks[task], self.settings
        which = view.domains
        if task == "cross" or settings.share_experts:
            which = torch.zeros_like(which)
        tiles = view_tiles(view, inputs)
        weights = own.gate(inputs, view, which)  # [M, K], CDSR's experts first
        rows = None if torch.is_grad_enabled() else places
        if rows is not None:
            weights = weights[rows]
        if settings.share_experts:
            mixture = self._mix_shared(inputs, tiles, weights, task, rows)
        else:
            mixture, first = 0.0, 0
            for owner, experts in self.experts.items():
                share = weights[:, first : first + experts.stack]
                first += experts.stack
                learns = owner == task or not settings.stop_gradient
                mixture = mixture + experts(inputs, share, tiles, learns, rows)
        return mixture if rows is not None else mixture.index_select(0, places)

    def _mix_shared(
        self, inputs: Tensor, tiles: list, weights: Tensor, task: str, rows: Tensor | None
    ) -> Tensor:
        """K times the same expert: its value whole, its gradient by the share of the own slots."""
        whole = torch.ones_like(weights[:, :1])
        outputs = self.experts["shared"](inputs, whole, tiles, rows=rows)  # [n, H]
        split = self.settings.experts_cross
        if self.settings.mode != "syncrec":
            return outputs * weights.sum(1, keepdim=True)
        cross, single = weights[:, :split].sum(1), weights[:, split:].sum(1)
        owned, stopped = (cross, single) if task == "cross" else (single, cross)
        return owned[:, None] * outputs + stopped[:, None] * outputs.detach()

    def apply_towers(self, mixture: Tensor, counts: list[int], task: str) -> Tensor:
        """[N, H] -> [N, H], the targets of each domain through the tower of their task."""
        towers = self.tasks[task].towers
        if towers is None:
            return mixture
        if task == "cross" or self.settings.share_experts:
            counts = [len(mixture)]
        return towers(mixture, counts)

    def _look_up(self, batch) -> dict[str, Tensor]:
        """All rows of the item table that the batch needs, in one lookup with one gradient."""
        needed = {task: getattr(batch, task).inputs for task in self.tasks}
        if self.settings.loss == "bce":
            needed |= {"targets": batch.targets, "negatives": batch.negatives}
        rows = self.item_rows(torch.cat(list(needed.values())))
        parts = rows.split([len(items) for items in needed.values()])
        return dict(zip(needed, parts, strict=True))

    def target_losses(
        self, batch, outputs: Tensor, rows: dict[str, Tensor], coefficients: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Σ coefficient · loss, and the step loss of each target [N]; both views have the same
        candidates and negatives, `rows` of the item table."""
        if coefficients is None:
            dtype = torch.promote_types(outputs.dtype, torch.float32)
            coefficients = torch.ones(len(outputs), dtype=dtype, device=outputs.device)
        if self.settings.loss == "ce":
            spans = self._softmax_spans(batch.counts)
            return softmax_loss(outputs, self.item_table, batch.targets, spans, coefficients)
        losses = pairwise_loss(outputs, rows["targets"], rows["negatives"])
        return (coefficients * losses).sum(), losses.detach()

    def _softmax_spans(self, counts: list[int]) -> list[tuple[slice, slice]]:
        """The targets and the items that they are ranked among, a pair of slices a domain."""
        if self.settings.softmax_items == "all":
            every = slice(0, sum(counts)), slice(1, self.item_starts[-1])
            return [every] if sum(counts) else []
        spans, start = [], 0
        for domain, count in enumerate(counts):
            items = slice(self.item_starts[domain], self.item_starts[domain + 1])
            if count:
                spans.append((slice(start, start + count), items))
            start += count
        return spans

    def item_rows(self, items: Tensor) -> Tensor:
        """Rows of the item table: [n] -> [n, H]."""
        return F.embedding(items, self.item_table, sparse=self.settings.sparse_items)

    def last_outputs(self, batch, task: str) -> Tensor:
        """h of each user's last target [B, H]: what ranks the next item of that target's domain."""
        return self.outputs(batch, task, last=True)[batch.last_rows]

    def item_scores(self, outputs: Tensor, domain: int, items: slice = slice(None)) -> Tensor:
        """⟨h, E_i⟩ for the items of a domain, or some of them: [n, H] -> [n, V_d]."""
        table = self.item_table[self.item_starts[domain] : self.item_starts[domain + 1]]
        return outputs @ table[items].T
