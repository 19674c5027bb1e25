"""ABXI for any number of domains: one encoder for the mixed and all single-domain sequences, told
apart by low-rank adapters; a Recommender (src/interfaces.py).

Bian et al., "ABXI: Invariant Interest Adaptation for Task-Guided Cross-Domain Sequential
Recommendation", WWW 2025. The paper has two domains; here are D, with the mixed sequence of a user
(the cross view) and D single-domain ones (the single view), aligned target by target. Departures:
the encoder's inputs have a layer norm, and a learned start token opens every sequence, so that the
first event is a target too; more than one layer repeats the whole block, adapters included; linear
maps start as in the other models (Glorot's uniform bound); the loss is that of `--loss`, by default
the softmax over the target's domain, and a mean over targets, not over users first; the learning
rate follows this project's schedules. configs/abxi_paper.json has the paper's other settings.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.baselines.sequence_model import SequenceModel
from src.config.cli import setting
from src.io.errors import UserError
from src.nn.dropout import dropout
from src.nn.experts import CausalAttention, view_tiles
from src.nn.initialization import own_stream
from src.nn.sequence_encoder import input_rows
from src.nn.stacked import StackedLayerNorm, StackedLinear
from src.nn.view_embedding import ViewEmbedding

LORA_DEVIATION = 1 / 50  # of the initial weights of an adapter's first map


@dataclass(frozen=True)
class ABXISettings:
    """ABXI's own setting; --hidden, --layers, --heads and others are shared with other models."""

    abxi_rank: int = setting(16, "rank of the low-rank adapters", group="ABXI")

    @staticmethod
    def check(settings) -> None:
        """Refuse values out of bounds (UserError)."""
        if not 1 <= settings.abxi_rank <= 2**16:
            raise UserError(f"--abxi_rank must be between 1 and 65536, not {settings.abxi_rank}")


class SwiGLU(nn.Module):
    """K gated feed-forward blocks, x -> (SiLU(x·G) ⊙ x·U)·W (Shazeer, 2020), of width 8H/3."""

    def __init__(self, stack: int, hidden: int):
        super().__init__()
        width = max(8, 8 * hidden // 3 // 8 * 8)  # 680 at H 256, as in the paper
        self.gate, self.up = (StackedLinear(stack, hidden, width).weight for _ in range(2))
        self.down = StackedLinear(stack, width, hidden).weight

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        """[n, H] -> [n, H], the first counts[0] rows through the first block, and so on."""
        return by_group(
            lambda part, gate, up, down: (F.silu(part @ gate) * (part @ up)) @ down,
            x, counts, self.gate, self.up, self.down,
        )  # fmt: skip


class Adapter(nn.Module):
    """LN_k(x + shared + LoRA_k(x)): K low-rank maps and layer norms, one per kind of row.

    A low-rank map is 0 at first: x -> x·A·B with B = 0.
    """

    def __init__(self, stack: int, hidden: int, rank: int, dropout_rate: float):
        super().__init__()
        self.dropout_rate = dropout_rate
        self.down = nn.Parameter(torch.randn(stack, hidden, rank) * LORA_DEVIATION)  # A
        self.up = nn.Parameter(torch.zeros(stack, rank, hidden))  # B
        self.norm = StackedLayerNorm(stack, hidden)

    def forward(self, x: Tensor, shared: Tensor, counts: list[int]) -> Tensor:
        """Rows x and their `shared` branch [n, H] -> [n, H], the first counts[0] rows with the
        first map and norm, and so on."""
        adapted = by_group(lambda part, a, b: part @ a @ b, x, counts, self.down, self.up)
        branches = (dropout(one, self.dropout_rate, self.training) for one in (shared, adapted))
        return layer_norm(sum(branches, start=x), self.norm, counts)


class Layer(nn.Module):
    """Attention and a feed-forward block that all sequences share, with an adapter for the mixed
    ones and one for those of each domain."""

    def __init__(self, settings, domains: int):
        super().__init__()
        self.settings, hidden = settings, settings.hidden
        self.attention = CausalAttention(1, hidden)
        self.attention_norm = StackedLayerNorm(1, hidden)
        self.feed_forward = SwiGLU(1, hidden)
        self.cross = Adapter(1, hidden, settings.abxi_rank, settings.dropout)
        self.single = Adapter(domains, hidden, settings.abxi_rank, settings.dropout)

    def forward(self, x: Tensor, view, path: str, counts: list[int], rows: Tensor | None) -> Tensor:
        """[N, H] -> [n, H] of a view, in the canonical order of its targets: all, or the `rows`
        alone; `counts` [D] of them are in each domain."""
        attended = self.attend(x, view)  # [N, H]
        if rows is not None:
            x, attended = x[rows], attended[rows]  # [n, H]
        branch = linear(attended, self.attention.project_out)
        branch = dropout(branch, self.settings.dropout, self.training)
        middle = layer_norm(x + branch, self.attention_norm, [x.shape[0]])  # m
        fed = self.feed_forward(middle, [middle.shape[0]])
        if path == "single":
            return self.single(middle, fed, counts)
        return self.cross(middle, fed, [middle.shape[0]])

    def attend(self, x: Tensor, view) -> Tensor:
        """Causal attention within each sequence: [N, H] -> [N, H]."""
        tiles, heads = view_tiles(view, x), self.settings.heads
        joint = linear(x, self.attention.project_in)  # [N, 3H]
        # [N, 3H] -> [M, 3H], from the canonical order to the slots of the tiles
        slots = joint.new_zeros(view.inputs.shape[0], joint.shape[1])
        slots = slots.index_copy(0, view.target_slots, joint)
        attended = [x.new_zeros(0, x.shape[1], dtype=joint.dtype)]  # a process may have no user
        for one, block in zip(tiles, slots.split([t.count * t.length for t in tiles]), strict=True):
            # [count · length, 3H] -> three of [count, heads, length, H / heads]
            block = block.view(one.count, one.length, 3, heads, -1)
            query, key, value = block.permute(2, 0, 3, 1, 4)
            attention_rate = self.settings.attention_dropout if self.training else 0.0
            heads_out = F.scaled_dot_product_attention(
                query, key, value, one.mask[:, None], attention_rate
            )
            attended.append(heads_out.transpose(1, 2).reshape(-1, x.shape[1]))
        return torch.cat(attended).index_select(0, view.target_slots)


class ABXI(SequenceModel):
    """ABXI-N. The query for domain δ is LN(h_x + proj(h_x) + LoRA_δ(h_x)) of the mixed sequence,
    plus LN(h_δ + proj_δ(h_δ)) of the user's δ-events, if there is one before the target."""

    Settings = ABXISettings
    queries_read = "views"

    def __init__(self, settings, item_starts: list[int]):
        super().__init__(settings, item_starts)
        hidden, rate = settings.hidden, settings.dropout
        with own_stream(settings.seed, "abxi encoder"):
            self.embed = ViewEmbedding(settings)
            self.layers = nn.ModuleList(
                Layer(settings, self.domains) for _ in range(settings.layers)
            )
        with own_stream(settings.seed, "abxi output"):
            self.cross_projection = SwiGLU(1, hidden)  # proj_i
            self.cross_output = Adapter(self.domains, hidden, settings.abxi_rank, rate)
            self.single_projection = SwiGLU(self.domains, hidden)  # proj_δ
            self.single_output = StackedLayerNorm(self.domains, hidden)

    def outputs(self, batch, path: str, last: bool = False) -> Tensor:
        counts = batch.last_counts if last else batch.counts
        mixed = self.encode(batch, "cross", last)  # h_x [n, H]
        mixed = self.cross_output(mixed, self.cross_projection(mixed, [mixed.shape[0]]), counts)
        own = self.encode(batch, "single", last)  # h_δ [n, H]
        projected = self.single_projection(own, counts)
        own = own + dropout(projected, self.settings.dropout, self.training)
        own = layer_norm(own, self.single_output, counts)
        first = batch.single.positions[batch.single.target_slots] == 0  # no event of δ before
        first = first[batch.last_targets] if last else first
        return mixed + own.masked_fill(first[:, None], 0.0)

    def encode(self, batch, path: str, last: bool) -> Tensor:
        """h of one view: of all targets [N, H], or of the users' last ones [B, H]."""
        view = getattr(batch, path)
        start_of = torch.zeros_like(view.domains)
        asked = self.asked(view) if path == "cross" else None
        x = self.embed(view, input_rows(view, self.item_table), start_of, asked)  # [M, H]
        x = x.index_select(0, view.target_slots)  # [N, H], in the canonical order
        for number, layer in enumerate(self.layers, 1):
            if last and number == len(self.layers):
                return layer(x, view, path, batch.last_counts, batch.last_targets)
            x = layer(x, view, path, batch.counts, None)
        return x

    def reads_domain(self, path: str) -> bool:
        return True

    def rows_of(self, name: str) -> str:
        by_domain = ".single." in name or name.startswith(("single_", "cross_output."))
        return "domains" if by_domain else super().rows_of(name)

    @staticmethod
    def activation_bytes(settings, tile: float) -> float:
        byte = 8 if settings.precision == "float64" else 4
        product = 2 if settings.precision == "bf16" else byte
        # measured, in units of H for one view: operands of products, and sums; the attention
        # weights are made again in the backward pass
        layer, around = 21 * product + 5 * byte, 14 * product + 4 * byte
        return 2 * settings.hidden * (settings.layers * layer + around)


# ------------------------------------------------------------------------ rows in groups


def by_group(function: Callable, x: Tensor, counts: list[int], *weights: Tensor) -> Tensor:
    """A function of rows and weights, group by group: x [n, …], each of `weights` [K, …]; the first
    counts[0] rows with the first weights, and so on."""
    # one unbind per weight: the gradient of a slice would be as large as the whole stack
    stacks = zip(*(weight.unbind(0) for weight in weights), strict=True)
    parts = [
        function(part, *own)
        for part, own in zip(x.split(counts), stacks, strict=True)
        if part.shape[0]
    ]
    return torch.cat(parts) if parts else x


def layer_norm(x: Tensor, norm: StackedLayerNorm, counts: list[int]) -> Tensor:
    """Layer norm of [n, H], each group of rows with its own weights."""
    return by_group(
        lambda part, weight, bias: F.layer_norm(part, part.shape[-1:], weight[0], bias[0]),
        x, counts, norm.weight, norm.bias,
    )  # fmt: skip


def linear(x: Tensor, layer: StackedLinear) -> Tensor:
    """x·W + b of a stack of one: [n, in] -> [n, out]."""
    return torch.addmm(layer.bias[0, 0], x, layer.weight[0])
