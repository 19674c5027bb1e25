"""The method the obvious way: what the packed model is compared with, in losses and in time.

A loop over views (the cross view, then one pass a domain) and experts. Every sequence is padded to
L slots, [B, L, H], and all users go through every domain's pass, because without compaction there
is no telling who may be left out. Otherwise nothing is wasted: plain torch modules with weights of
their own, fused attention with the causal flag (padding comes last, so no real slot sees it), the
other task's experts without a graph, one gather of embeddings a task, losses on real slots alone,
and a fused Adam. The losses are those of src/objective, so both do the same step.

tests/nightly/test_benchmarks.py holds it equal to the packed model, in losses and gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import MIM_LOSS, SyNCRec
from src.dataset.batching.batch import Batch
from src.dataset.batching.windows import Windows
from src.dataset.store.folder import Dataset
from src.interfaces import StepLosses
from src.nn.kernels.softmax_loss import softmax_loss as chunked_softmax_loss
from src.objective.lc_ntg import lc_ntg_gamma, lc_ntg_update, lc_ntg_weights
from src.objective.sc_mim import sc_mim
from src.objective.step_losses import domain_sums, sampled_losses


@dataclass(frozen=True)
class PaddedBatch:
    """A Batch with every sequence padded to L slots; 0 is the start token, and padding."""

    batch: Batch
    cross_inputs: Tensor  # [B, L] the item before the target
    cross_places: Tensor  # [N] slot of each canonical target among the B·L
    single_inputs: Tensor  # [D, B, L] the item before the target in the target's domain
    single_places: list[Tensor]  # D of [N_d]: slot among the B·L of the domain's pass


def pad(dataset: Dataset, windows: Windows, batch: Batch, max_len: int) -> PaddedBatch:
    """Lay the events of `windows`, of which `batch` was built, out in padded sequences, on the
    batch's device."""
    items = np.asarray(dataset.items)[windows.events].astype(np.int64)
    domains = np.asarray(dataset.domains)[windows.events].astype(np.int64)
    users, count = len(windows.users), len(dataset.domain_names)
    cross_inputs = np.zeros((users, max_len), dtype=np.int64)
    single_inputs = np.zeros((count, users, max_len), dtype=np.int64)
    cross_slots = np.empty(len(items), dtype=np.int64)
    single_slots = np.empty(len(items), dtype=np.int64)
    seen = np.zeros((count + 1, users), dtype=np.int64)  # the last row: in the cross view
    before = np.zeros((count + 1, users), dtype=np.int64)
    for event, (item, domain, user) in enumerate(zip(items, domains, windows.rows, strict=True)):
        for inputs, slots, row in (
            (cross_inputs, cross_slots, count), (single_inputs[domain], single_slots, domain)
        ):  # fmt: skip
            position = seen[row, user]
            inputs[user, position] = before[row, user]
            slots[event] = user * max_len + position
            seen[row, user] += 1
            before[row, user] = item
    order = np.lexsort((np.arange(len(items)), windows.rows, domains))  # the canonical one
    cross_inputs, cross_slots, single_inputs, single_slots = (
        torch.from_numpy(part).to(batch.targets.device)
        for part in (cross_inputs, cross_slots[order], single_inputs, single_slots[order])
    )
    single_places = list(single_slots.split(batch.counts))
    return PaddedBatch(batch, cross_inputs, cross_slots, single_inputs, single_places)


class PaddedLayer(nn.Module):
    """One post-norm Transformer layer: causal attention, then a GELU block of width 4H."""

    def __init__(self, settings):
        super().__init__()
        hidden = settings.hidden
        self.heads, self.dropout = settings.heads, settings.dropout
        self.attention_dropout = settings.attention_dropout
        self.project_in = nn.Linear(hidden, 3 * hidden)
        self.project_out = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden)
        self.widen = nn.Linear(hidden, 4 * hidden)
        self.narrow = nn.Linear(4 * hidden, hidden)
        self.output_norm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, H] -> [B, L, H]."""
        users, length, hidden = x.shape
        joint = self.project_in(x).view(users, length, 3, self.heads, hidden // self.heads)
        query, key, value = joint.permute(2, 0, 3, 1, 4)  # each [B, heads, L, H / heads]
        rate = self.attention_dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=rate)
        attended = self.project_out(attended.transpose(1, 2).reshape(users, length, hidden))
        x = self.attention_norm(x + F.dropout(attended, self.dropout, self.training))
        fed = self.narrow(F.gelu(self.widen(x)))
        return self.output_norm(x + F.dropout(fed, self.dropout, self.training))


class PaddedTower(nn.Module):
    """A residual feed-forward block on the gated mixture."""

    def __init__(self, settings):
        super().__init__()
        self.dropout = settings.dropout
        self.first = nn.Linear(settings.hidden, settings.hidden)
        self.second = nn.Linear(settings.hidden, settings.hidden)
        self.norm = nn.LayerNorm(settings.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, H] -> [B, L, H]."""
        fed = self.second(F.gelu(self.first(x)))
        return self.norm(x + F.dropout(fed, self.dropout, self.training))


class PaddedTask(nn.Module):
    """Start tokens [G, H], positions, gates and towers of a task: SDSR has G = D, CDSR one."""

    def __init__(self, settings, count: int):
        super().__init__()
        hidden = settings.hidden
        self.start = nn.Parameter(torch.empty(count, hidden))
        self.position = nn.Parameter(torch.empty(settings.max_len, hidden))
        self.norm = nn.LayerNorm(hidden)
        self.gates = nn.ModuleList(
            nn.Linear(hidden, settings.experts, bias=False) for _ in range(count)
        )
        self.towers = nn.ModuleList(PaddedTower(settings) for _ in range(count))


class PaddedSyNCRec(nn.Module):
    """SyNCRec with token gates and towers, by loops over padded sequences."""

    def __init__(self, settings, item_starts: list[int]):
        super().__init__()
        if (
            settings.mode != "syncrec" or settings.gate != "token" or not settings.towers
            or settings.share_experts or settings.target_domain_query
            or settings.cross_per_domain or settings.softmax_items != "domain"
        ):  # fmt: skip
            raise ValueError("the padded oracle has the paper's model with --gate token alone")
        self.settings, self.item_starts = settings, item_starts
        self.domains = len(item_starts) - 1
        self.item_table = nn.Parameter(torch.empty(item_starts[-1], settings.hidden))
        self.experts = nn.ModuleDict(
            {
                owner: nn.ModuleList(
                    nn.Sequential(*(PaddedLayer(settings) for _ in range(settings.layers)))
                    for _ in range(count)
                )
                for owner, count in (
                    ("cross", settings.experts_cross), ("single", settings.experts_single)
                )
            }
        )  # fmt: skip
        self.tasks = nn.ModuleDict(
            {"cross": PaddedTask(settings, 1), "single": PaddedTask(settings, self.domains)}
        )
        self.critics = nn.Parameter(torch.empty(self.domains, settings.hidden, settings.hidden))

    @classmethod
    def of(cls, model: SyNCRec) -> "PaddedSyNCRec":
        """The oracle with a copy of a model's weights, of its type and on its device."""
        table = model.item_table
        padded = cls(model.settings, model.item_starts).to(table.device, table.dtype)
        with torch.no_grad():
            for parameter, form, weight in weight_pairs(model, padded):
                weight.copy_(form(parameter))
        return padded.train(model.training)

    def forward(self, padded: PaddedBatch, coefficients: dict[str, Tensor]) -> StepLosses:
        """The losses of a batch, as models.SyNCRec's."""
        outputs = {"single": self._single(padded), "cross": self._cross(padded)}  # each [N, H]
        objective, losses = self.item_table.new_zeros(()), {}
        for task, output in outputs.items():
            part, losses[task] = self._losses(padded.batch, output, coefficients[task])
            objective = objective + part
        if not self.settings.sc_mim:
            return StepLosses(objective, losses, {}, {})
        mim, bound = sc_mim(
            outputs["single"], outputs["cross"], padded.batch.pair_lengths,
            padded.batch.mim_pairs, self.critics, self.settings.mim_temperature,
        )  # fmt: skip
        return StepLosses(objective, losses, {MIM_LOSS: mim}, {"mim_loss": mim, "mim_bound": bound})

    def _cross(self, padded: PaddedBatch) -> Tensor:
        """h of every target in the cross view [N, H], in the canonical order."""
        items = F.embedding(padded.cross_inputs, self.item_table)  # [B, L, H]
        hidden = self._pass("cross", 0, padded.cross_inputs, items)
        return hidden.flatten(0, 1).index_select(0, padded.cross_places)

    def _single(self, padded: PaddedBatch) -> Tensor:
        """h of every target in the single views [N, H]: a pass of all users a domain."""
        items = F.embedding(padded.single_inputs, self.item_table).unbind()  # D of [B, L, H]
        outputs = []
        for domain, (rows, places) in enumerate(zip(items, padded.single_places, strict=True)):
            hidden = self._pass("single", domain, padded.single_inputs[domain], rows)
            outputs.append(hidden.flatten(0, 1).index_select(0, places))
        return torch.cat(outputs)

    def _pass(self, task: str, which: int, inputs: Tensor, items: Tensor) -> Tensor:
        """One pass over all experts: inputs [B, L], their embeddings [B, L, H] -> h [B, L, H]."""
        parts, settings = self.tasks[task], self.settings
        tokens = torch.where((inputs == 0)[..., None], parts.start[which], items) + parts.position
        x = F.dropout(parts.norm(tokens), settings.dropout, self.training)
        weights = parts.gates[which](x)
        weights = weights.to(torch.promote_types(weights.dtype, torch.float32)).softmax(-1)
        mixture, number = 0.0, 0  # weights [B, L, K], CDSR's experts first
        for owner, experts in self.experts.items():
            for expert in experts:
                with torch.set_grad_enabled(
                    torch.is_grad_enabled() and (owner == task or not settings.stop_gradient)
                ):
                    output = expert(x)  # [B, L, H]
                mixture = mixture + weights[..., number, None] * output
                number += 1
        return parts.towers[which](mixture)

    def _losses(self, batch: Batch, outputs: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Σ coefficient · loss, and the step loss of each target [N]."""
        if self.settings.loss == "ce":
            spans, start = [], 0
            for domain, count in enumerate(batch.counts):
                items = slice(self.item_starts[domain], self.item_starts[domain + 1])
                spans += [(slice(start, start + count), items)] if count else []
                start += count
            return chunked_softmax_loss(
                outputs, self.item_table, batch.targets, spans, coefficients
            )
        positive = F.embedding(batch.targets, self.item_table)
        negative = F.embedding(batch.negatives, self.item_table)  # [N, 1, H]
        losses = sampled_losses(self.settings, outputs, positive, negative, batch.targets)
        return (coefficients * losses).sum(), losses.detach()


def weight_pairs(
    model: SyNCRec, padded: PaddedSyNCRec
) -> list[tuple[nn.Parameter, Callable[[Tensor], Tensor], nn.Parameter]]:
    """(parameter of the model, how its value or gradient reads here, parameter of the oracle).

    The model stacks the weights of its experts, towers and gates, with a map's inputs first.
    """
    pairs = []

    def whole(theirs: nn.Parameter, mine: nn.Parameter) -> None:
        pairs.append((theirs, lambda tensor: tensor, mine))

    def member(theirs: nn.Module, which: int, mine: nn.Module) -> None:
        shape = mine.weight.shape
        pairs.append((theirs.weight, lambda tensor: tensor[which].mT.reshape(shape), mine.weight))
        if mine.bias is not None:
            length = mine.bias.shape
            pairs.append((theirs.bias, lambda tensor: tensor[which].reshape(length), mine.bias))

    whole(model.item_table, padded.item_table)
    whole(model.critics, padded.critics)
    for owner, experts in padded.experts.items():
        for number, expert in enumerate(experts):
            for theirs, mine in zip(model.experts[owner].layers, expert, strict=True):
                member(theirs.attention.project_in, number, mine.project_in)
                member(theirs.attention.project_out, number, mine.project_out)
                for name in ("attention_norm", "widen", "narrow", "output_norm"):
                    member(getattr(theirs, name), number, getattr(mine, name))
    for name, mine in padded.tasks.items():
        theirs = model.tasks[name]
        whole(theirs.start, mine.start)
        whole(theirs.position, mine.position)
        whole(theirs.norm.weight, mine.norm.weight)
        whole(theirs.norm.bias, mine.norm.bias)
        for number, (gate, tower) in enumerate(zip(mine.gates, mine.towers, strict=True)):
            member(theirs.gate, number, gate)
            for part in ("first", "second", "norm"):
                member(getattr(theirs.towers, part), number, getattr(tower, part))
    return pairs


class PaddedTrainer:
    """One optimiser step of the oracle after the other: the same objective, Adam and LC-NTG."""

    def __init__(self, model: SyNCRec):
        self.settings = model.settings
        self.network = PaddedSyNCRec.of(model)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.settings.lr, fused=True
        )
        domains, table = self.network.domains, self.network.item_table
        self.gap_state = torch.full((domains,), 1.0 / domains).to(table)

    def train_step(self, padded: PaddedBatch) -> StepLosses:
        """One step on a batch, every mean over the batch's targets."""
        settings, network = self.settings, self.network
        counts = padded.batch.domain_counts
        weights = torch.ones_like(self.gap_state)
        if settings.lc_ntg:
            gamma = lc_ntg_gamma(self.gap_state, settings.lc_ntg_tau)
            weights = lc_ntg_weights(gamma, settings.lc_ntg_floor)
        by_target = weights.repeat_interleave(counts, output_size=len(padded.batch.targets))
        coefficients = {
            "cross": by_target / (weights * counts).sum(),
            "single": torch.full_like(by_target, settings.lambda_single / len(by_target)),
        }
        self.optimizer.zero_grad(set_to_none=True)
        device = network.item_table.device.type
        with torch.autocast(device, torch.bfloat16, enabled=settings.precision == "bf16"):
            losses = network(padded, coefficients)
        auxiliary = settings.lambda_mim * sum(losses.auxiliary.values())
        (losses.objective + auxiliary).backward()
        if settings.clip_norm:
            nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
        self.optimizer.step()
        self._update_gap_state(losses, counts)
        return losses

    def _update_gap_state(self, losses: StepLosses, counts: Tensor) -> None:
        alpha, beta = self.settings.lc_ntg_alpha, self.settings.lc_ntg_beta
        beta = 1.0 - alpha if beta is None else beta
        sums = domain_sums(losses.by_path["single"] - losses.by_path["cross"], counts)
        self.gap_state = lc_ntg_update(self.gap_state, sums / counts, counts, alpha, beta)
