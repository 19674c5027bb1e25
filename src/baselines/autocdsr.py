"""AutoCDSR: a SASRec that is penalised for attention across domains; a Recommender
(src/interfaces.py).

Ju et al., "Revisiting Self-attention for Cross-domain Sequential Recommendation", KDD 2025. The
penalty is the mean attention weight of pairs of events from two domains. Recommendation and penalty
are two tasks, weighed in every step by their gradients: the min-norm point of Pareto MTL (Lin et
al., NeurIPS 2019) with three preference vectors, of which the one for recommendation is followed.
Departures: no bottleneck tokens (AutoCDSR+), which are averaged over whole sequences and so would
show a target the events after it; the encoder is that of `--model sasrec`, causal, with every event
a target; the start token belongs to no domain; the loss is that of `--loss`; the weights are the
exact solution, without Frank-Wolfe steps. The penalty and its weight are those of a batch in one
process: with several processes or `--grad_accum`, the mean of these terms acts.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from src.baselines.sasrec import SASRec
from src.interfaces import StepLosses
from src.nn.experts import view_tiles
from src.nn.sequence_encoder import input_rows
from src.objective.step_losses import target_losses

PENALTY = "cross-domain attention"
# Directions of the losses (attention, recommendation). The one that is followed wants the loss of
# recommendation low, whatever the attention.
PREFERENCES = ((0.0, 1.0), (1.0, 0.0), (0.5**0.5, 0.5**0.5))
FOLLOWED = 1


class AutoCDSR(SASRec):
    """SASRec on the cross view, with the penalty; the same initial weights and the same ranking."""

    def __init__(self, settings, item_starts: list[int]):
        super().__init__(settings, item_starts)
        self.auxiliary_weights = {PENALTY: 1.0}  # weighed by its gradient, in `forward`

    def forward(
        self,
        batch,
        coefficients: dict[str, Tensor] | None = None,
        gather: Callable[[Tensor], list[Tensor]] | None = None,
    ) -> StepLosses:
        (path,) = self.settings.paths
        outputs, penalty = self.outputs_and_penalty(batch, path)
        weights = torch.ones_like(outputs[:, 0]) if coefficients is None else coefficients[path]
        # a pass for the penalty alone (`--weighting pcgrad`) still needs a recommendation gradient
        asked = weights.any()
        loss, losses = target_losses(
            self.settings, batch, outputs, self.item_table, self.item_starts,
            torch.where(asked, weights, 1.0),
        )  # fmt: skip
        parameters = list(self.parameters())
        if not loss.requires_grad:  # values alone are asked for (src/training/losses_after.py)
            return StepLosses(loss * asked, {path: losses}, {PENALTY: penalty}, {})
        # Each task goes backward once, here; the trainer's backward pass only adds up.
        with torch.autocast(outputs.device.type, enabled=False):
            for_loss, for_penalty = (
                torch.autograd.grad(task, parameters, retain_graph=more, allow_unused=True)
                for task, more in ((loss, True), (penalty, False))
            )
        shared = [parameter is not self.item_table for parameter in parameters]
        cosine = shared_cosine(for_loss, for_penalty, shared)
        weight = penalty_weight(cosine, penalty.detach(), losses.mean())
        objective = with_gradients(loss * asked, parameters, for_loss, asked)
        term = with_gradients(penalty * weight, parameters, for_penalty, weight)
        shown = {"attention_loss": penalty.detach(), "attention_weight": weight}
        return StepLosses(objective, {path: losses}, {PENALTY: term}, shown)

    def outputs_and_penalty(self, batch, path: str) -> tuple[Tensor, Tensor]:
        """The outputs at all targets [N, H], and the mean attention weight, over layers, heads and
        pairs, of an event on an earlier one of another domain: a scalar, 0 without such pairs."""
        view = getattr(batch, path)
        attention: list[Tensor] = []  # [1, count, heads, length, length] of each layer and block
        rows, start_of = input_rows(view, self.item_table), torch.zeros_like(view.domains)
        inputs = self.encoder.embed(view, rows, start_of, self.asked(view))  # [M, H]
        tiles, share = view_tiles(view, inputs), inputs.new_ones(len(inputs), 1)
        states = self.encoder.transformer(inputs, share, tiles, attention=attention)
        starts = torch.tensor(self.item_starts, device=inputs.device)
        domains = torch.bucketize(view.inputs, starts, right=True) - 1  # [M] −1: no event
        total, pairs = states.sum() * 0.0, domains.new_zeros(())  # a sum without users too
        blocks = domains.split([block.count * block.length for block in tiles])
        for number, (block, of) in enumerate(zip(tiles, blocks, strict=True)):
            of = of.view(block.count, block.length)
            earlier, later = of[:, None, :], of[:, :, None]
            # [count, length, length]
            crossing = (earlier != later) & (earlier >= 0) & (later >= 0) & (block.mask == 0)
            pairs = pairs + crossing.sum()
            for weights in attention[number :: len(tiles)]:  # of each layer
                total = total + (weights * crossing[:, None]).sum(dtype=total.dtype)
        maps = self.settings.layers * self.settings.heads
        return states.index_select(0, view.target_slots), total / (maps * pairs.clamp(min=1))


# ------------------------------------------------------------------------ the two tasks' weights


def shared_cosine(
    recommendation: Sequence[Tensor | None], attention: Sequence[Tensor | None], shared: list[bool]
) -> Tensor:
    """The cosine of two tasks' gradients on the weights that are shared and that both reach. The
    values of the last layer do not reach the attention, though one map makes them with the keys."""
    product, squares = [], []
    for first, second, counts in zip(recommendation, attention, shared, strict=True):
        if counts and first is not None and second is not None:
            first = first * (second != 0)
            product.append((first * second).sum())
            squares.append(torch.stack([first.square().sum(), second.square().sum()]))
    norms = torch.stack(squares).sum(0).sqrt()
    return torch.stack(product).sum() / norms.prod().clamp(min=torch.finfo(norms.dtype).tiny)


def penalty_weight(cosine: Tensor, attention: Tensor, recommendation: Tensor) -> Tensor:
    """The weight of the attention penalty beside that of recommendation, which is 1: from −1 to 1,
    by the cosine of the gradients and the two losses, scalars.

    With unit gradients g: the constraint of another preference vector is active where
    ⟨u − u_followed, losses⟩ > 0, and has the gradient ⟨u − u_followed, g⟩. The point of least norm
    among the mixtures of g and the active constraints' gradients says how the g are weighed. Where
    both are active, as always while L_rec > L_attn, that is (1 − 2c) / (2 − c): cross-domain
    attention is encouraged where both gradients agree in more than half.
    """
    preferences = cosine.new_tensor(PREFERENCES)  # [3, 2] of (attention, recommendation)
    constraints = preferences - preferences[FOLLOWED]
    points = torch.cat([torch.eye(2).to(constraints), constraints])  # [5, 2] multiples of the g
    losses = torch.stack([attention, recommendation]).to(cosine.dtype)
    active = torch.cat([losses.new_ones(2) > 0, constraints @ losses > 0])
    one = torch.ones_like(cosine)
    products = torch.stack([one, cosine, cosine, one]).view(2, 2)  # ⟨g, g⟩
    # The origin lies outside, so the nearest point lies between two corners.
    first, second = torch.combinations(torch.arange(len(points), device=cosine.device)).T
    step = points[first] - points[second]  # [pairs, 2]
    length = ((step @ products) * step).sum(1).clamp(min=torch.finfo(step.dtype).tiny)
    share = (-((points[second] @ products) * step).sum(1) / length).clamp(0, 1)
    nearest = points[second] + share[:, None] * step
    norm = ((nearest @ products) * nearest).sum(1)
    norm = norm.masked_fill(~(active[first] & active[second]), torch.inf)
    weights = nearest[norm.argmin()]
    return weights[0] / weights[1]


# ------------------------------------------------------------------------ gradients known before


def with_gradients(
    value: Tensor, parameters: list, gradients: Sequence[Tensor | None], factor: Tensor
) -> Tensor:
    """The value, a scalar, with the gradients of its parameters times a factor."""
    return _WithGradients.apply(value.detach(), gradients, factor, *parameters)


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, gradients, factor, *parameters):
        ctx.gradients, ctx.factor = gradients, factor
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        scale = gradient * ctx.factor
        return None, None, None, *(None if g is None else g * scale for g in ctx.gradients)
