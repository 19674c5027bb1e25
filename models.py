"""SyNCRec: one user in two views, experts that each learn from one task, a tower for each task.

The paper: Park et al., "Pacer and Runner: Cooperative Learning Framework between Single- and
Cross-Domain Sequential Recommendation", SIGIR 2024. docs/method.md maps its equations to functions.
Symbols: B users, N targets (all events of the batch's users), M slots of a packed view (a few more
than N), D domains, V items, H hidden size, K = K_c + K_s experts.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.interfaces import StepLosses
from src.nn.experts import Experts, activation_bytes, view_tiles
from src.nn.gates import EvenGate, SequenceGate, TokenGate
from src.nn.initialization import own_stream
from src.nn.towers import Towers
from src.nn.view_embedding import ViewEmbedding
from src.objective.sc_mim import sc_mim
from src.objective.step_losses import target_losses

MIM_LOSS = "mutual-information loss"


class Task(ViewEmbedding):
    """The parameters of one task: those of its inputs, gates, (set later) towers.

    SDSR has one start token, gate and tower for each domain, CDSR one of each; on request CDSR too
    has a gate and a tower for each domain.
    """

    def __init__(self, settings, starts: int, gates: int):
        super().__init__(settings, starts)
        hidden = settings.hidden
        self.gate: TokenGate | SequenceGate | EvenGate
        if settings.gate == "token":
            self.gate = TokenGate(gates, hidden, settings.experts)
        elif settings.gate == "sequence":
            self.gate = SequenceGate(gates, hidden, settings.experts, settings.max_len)
        else:
            self.gate = EvenGate(settings.experts)
        self.towers: Towers | None = None


class SyNCRec(nn.Module):
    """The asymmetric SDSR/CDSR pair; a Recommender (src/interfaces.py).

    Gradients: each expert gets gradients only from its owner task; gates, towers, start tokens and
    positions belong to one task. The item table gets them from both tasks, through the scores, the
    gates and the inputs of each task's own experts; nothing flows back through a stopped expert.
    """

    queries_read = "view"

    def __init__(self, settings, item_starts: list[int]):
        super().__init__()
        self.settings = settings
        self.item_starts = [int(start) for start in item_starts]
        self.auxiliary_weights = {MIM_LOSS: settings.lambda_mim}
        self.both = len(settings.paths) == 2
        domains, hidden = len(item_starts) - 1, settings.hidden
        with own_stream(settings.seed, "items"):
            table = torch.randn(self.item_starts[-1], hidden).mul_(0.02)  # one table, not two
            self.item_table = nn.Parameter(table)
        experts, tasks = nn.ModuleDict(), nn.ModuleDict()
        self.experts: Mapping[str, Experts] = experts  # type: ignore[assignment]
        self.tasks: Mapping[str, Task] = tasks  # type: ignore[assignment]
        for owner, count in self._owners(settings).items():
            with own_stream(settings.seed, f"{owner} experts"):
                experts[owner] = Experts(
                    count, hidden, settings.layers, settings.heads, settings.dropout,
                    settings.attention_dropout, settings.compile, settings.kernels,
                )  # fmt: skip
        starts = {"cross": 1, "single": domains}
        for task in settings.paths:
            gates = domains if self._per_domain(task) else 1
            with own_stream(settings.seed, task):
                tasks[task] = Task(settings, starts[task], gates)
            with own_stream(settings.seed, f"{task} towers"):
                if settings.towers:
                    self.tasks[task].towers = Towers(gates, hidden, settings.dropout)
        with own_stream(settings.seed, "query"):
            if settings.target_domain_query and "cross" in settings.paths:
                self.query = nn.Parameter(torch.randn(domains, hidden) * 0.02)
        if self.both and settings.share_experts:
            self.tasks["single"].gate = self.tasks["cross"].gate
            self.tasks["single"].towers = self.tasks["cross"].towers
        if self.both:
            critic = torch.eye(hidden) / hidden**0.5  # W_d starts as a scaled dot product
            self.critics = nn.Parameter(critic.repeat(domains, 1, 1))

    @staticmethod
    def _owners(settings) -> dict[str, int]:
        """{task: number of experts it owns}; a single task owns them all."""
        if settings.share_experts:
            return {"shared": 1}
        if len(settings.paths) == 2:
            return {"cross": settings.experts_cross, "single": settings.experts_single}
        return {settings.paths[0]: settings.experts}

    def _per_domain(self, task: str) -> bool:
        """Whether the task has a gate and a tower for each domain, not one of each."""
        if self.settings.share_experts:
            return False
        return task == "single" or self.settings.cross_per_domain

    # ------------------------------------------------------------------------ both tasks

    def forward(
        self,
        batch,
        coefficients: dict[str, Tensor] | None = None,
        gather: Callable[[Tensor], list[Tensor]] | None = None,
    ) -> StepLosses:
        """The paired losses of a Batch (src/dataset/batching) in both views, and SC-MIM."""
        rows = self._look_up(batch)
        outputs = {task: self.outputs(batch, task, items=rows[task]) for task in self.tasks}
        objective, losses = self.item_table.new_zeros(()), {}
        for task, output in outputs.items():  # each [N, H]
            weights = None if coefficients is None else coefficients[task]
            weighted_sum, losses[task] = target_losses(
                self.settings, batch, output, self.item_table, self.item_starts, weights, rows
            )
            objective = objective + weighted_sum
        if not self.settings.compares_views:
            return StepLosses(objective, losses, {}, {})
        mim, bound = sc_mim(
            outputs["single"], outputs["cross"], batch.pair_lengths, batch.mim_pairs,
            self.critics, self.settings.mim_temperature, gather,
        )  # fmt: skip
        return StepLosses(objective, losses, {MIM_LOSS: mim}, {"mim_loss": mim, "mim_bound": bound})

    def outputs(self, batch, task: str, last: bool = False, items: Tensor | None = None) -> Tensor:
        """h of every target in one view [N, H], in the batch's canonical order; with `last`, of
        each user's last target alone [B, H], in that order.

        `items` are the item rows of the view's inputs [M, H], if they have been looked up.
        """
        view = getattr(batch, task)
        counts, slots = batch.counts, view.target_slots
        if last:
            counts, slots = batch.last_counts, slots[batch.last_targets]
        items = self.item_rows(view.inputs) if items is None else items
        inputs = self.embed(view, task, items)  # [M, H]
        mixture = self.acmoe(inputs, view, slots, task)  # [N, H]
        return self.apply_towers(mixture, counts, task)

    # ------------------------------------------------------------------------ the two views

    def embed(self, view, task: str, items: Tensor) -> Tensor:
        """Inputs of one view [M, H]: the event before the target, or the start token; position;
        on request the time between them and, in the cross view, the domain of the target."""
        domain = view.domains if task == "single" else torch.zeros_like(view.domains)
        added = None
        if task == "cross" and self.settings.target_domain_query:
            added = F.embedding(view.domains, self.query)
        return self.tasks[task](view, items, domain, added)

    # ------------------------------------------------------------------------ ACMoE

    def acmoe(self, inputs: Tensor, view, slots: Tensor, task: str) -> Tensor:
        """Σ_k g_k · expert_k over all K experts: inputs [M, H], slots [n] of targets -> [n, H].

        Both tasks read all experts; the gradient stops at those of the other task. Where no
        gradient is wanted, the last layer is computed at the slots alone.
        """
        gate_of = view.domains  # [M]
        if not self._per_domain(task):
            gate_of = torch.zeros_like(gate_of)
        tiles = view_tiles(view, inputs)
        weights = self.tasks[task].gate(inputs, view, gate_of)  # g [M, K], CDSR's experts first
        rows = None if torch.is_grad_enabled() else slots
        if rows is not None:
            weights = weights[rows]
        if self.settings.share_experts:
            mixture = self._shared_expert(inputs, tiles, weights, task, rows)
        else:
            mixture, first = inputs.new_zeros(()), 0
            for owner, experts in self.experts.items():
                share = weights[:, first : first + experts.stack]
                first += experts.stack
                learns = owner == task or not self.settings.stop_gradient
                mixture = mixture + experts(inputs, share, tiles, learns, rows)
        return mixture if rows is not None else mixture.index_select(0, slots)

    def _shared_expert(
        self, inputs: Tensor, tiles: list, weights: Tensor, task: str, rows: Tensor | None
    ) -> Tensor:
        """K times the same expert (`--share_experts`): its value whole, its gradient by the weight
        of the experts that the task would own."""
        whole = torch.ones_like(weights[:, :1])
        outputs = self.experts["shared"](inputs, whole, tiles, rows=rows)  # [n, H]
        if not self.both:
            return outputs * weights.sum(1, keepdim=True)
        split = self.settings.experts_cross
        cross, single = weights[:, :split].sum(1), weights[:, split:].sum(1)
        owned, stopped = (cross, single) if task == "cross" else (single, cross)
        return owned[:, None] * outputs + stopped[:, None] * outputs.detach()

    def apply_towers(self, mixture: Tensor, counts: list[int], task: str) -> Tensor:
        """h: [N, H] -> [N, H] through the task's tower, or that of each target's domain."""
        towers = self.tasks[task].towers
        if towers is None:
            return mixture
        if not self._per_domain(task):
            counts = [mixture.shape[0]]
        return towers(mixture, counts)

    # ------------------------------------------------------------------------ step losses

    def _look_up(self, batch) -> dict[str, Tensor]:
        """All rows of the item table that the batch needs, in one lookup with one gradient."""
        needed = {task: getattr(batch, task).inputs for task in self.tasks}
        if self.settings.drawn_negatives:
            needed |= {"targets": batch.targets, "negatives": batch.negatives.flatten()}
        rows = self.item_rows(torch.cat(list(needed.values())))
        parts = rows.split([len(items) for items in needed.values()])
        return dict(zip(needed, parts, strict=True))

    def item_rows(self, items: Tensor) -> Tensor:
        """Rows of the item table: [n] -> [n, H]."""
        return F.embedding(items, self.item_table, sparse=self.settings.sparse_items)

    # ------------------------------------------------------------------------ ranking, warm start

    def queries(self, batch, path: str) -> Tensor:
        """h of each user's last target [B, H]: what ranks the next item of that target's domain."""
        return self.outputs(batch, path, last=True)[batch.last_rows]

    def reads_domain(self, path: str) -> bool:
        """The single view has a start token, a gate and a tower for each domain; the cross view
        reads the domain on request."""
        return path == "single" or self.settings.target_domain_query or self._per_domain(path)

    def rows_of(self, name: str) -> str:
        if name == "item_table":
            return "items"
        by_domain = ["tasks.single.start", "query", "critics"]
        for task in filter(self._per_domain, self.tasks):
            by_domain += [f"tasks.{task}.gate.", f"tasks.{task}.towers."]
        return "domains" if name.startswith(tuple(by_domain)) else "whole"

    @staticmethod
    def activation_bytes(settings, tile: float) -> float:
        learning = dict.fromkeys(settings.paths, settings.experts)
        if settings.stop_gradient and len(settings.paths) == 2:
            learning = SyNCRec._owners(settings)
        if settings.share_experts:
            learning = dict.fromkeys(settings.paths, 1)
        return activation_bytes(settings, learning, tile)
