"""The encoder's written-out backward pass is the derivative of its forward pass, with dropout."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from src.dataset.batching.tiles import attention_tiles
from src.nn.dropout import DropoutMasks
from src.nn.kernels.encoder import ExpertMixture, Pass, tiles_of

LENGTHS = np.array([3, 1, 4, 2, 2])
HIDDEN, EXPERTS, LAYERS = 4, 2, 2
CPU = torch.device("cpu")


def layout():
    """(groups, sequence of each slot) of LENGTHS in tiles of four slots and in shorter ones."""
    groups = [(2, 4), (2, 3)]
    sequence = torch.tensor([2, 2, 2, 2, 3, 3, 4, 4, 0, 0, 0, 1, 5, 5])
    return groups, sequence


def expert_pass(stacked=False, heads=1, dropout=0.0, attention_dropout=0.0, dtype=torch.float64):
    groups, sequence = layout()
    return Pass(
        tiles=tiles_of(groups, sequence, dtype),
        rows=None,
        heads=heads,
        product=dtype,
        masks=DropoutMasks(dropout, CPU),
        attention_masks=DropoutMasks(attention_dropout, CPU),
        training=True,
        compiled=False,
        stacked=stacked,
    )


def inputs(seed=0, dtype=torch.float64):
    """(x, share, weights), all with gradients."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    h, k = HIDDEN, EXPERTS
    shapes = [
        (h, 3 * h), (1, 3 * h), (h, h), (1, h), (1, h), (1, h),
        (h, 4 * h), (1, 4 * h), (4 * h, h), (1, h), (1, h), (1, h),
    ]  # fmt: skip
    weights = [0.5 * random(k, *shape) for _ in range(LAYERS) for shape in shapes]
    tensors = [random(14, h), random(14, k), *weights]
    return [tensor.requires_grad_() for tensor in tensors]


def mixture(x, share, *weights, learns=True, **options):
    torch.manual_seed(1)  # the same masks at every call
    return ExpertMixture.apply(x, share, expert_pass(**options), learns, *weights)


@pytest.mark.parametrize("stacked", [False, True], ids=["one by one", "stacked"])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(("rate", "attention_rate"), [(0.0, 0.0), (0.5, 0.0), (0.3, 0.2)])
def test_the_backward_pass_is_the_derivative_of_the_forward_pass(
    stacked, heads, rate, attention_rate
):
    options = {
        "stacked": stacked, "heads": heads, "dropout": rate, "attention_dropout": attention_rate,
    }  # fmt: skip
    tensors = inputs()
    mixture(*tensors, **options).square().sum().backward()
    generator = torch.Generator().manual_seed(2)
    for number, tensor in enumerate(tensors):  # a random direction in each argument
        step = 1e-6 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        ends = []
        for sign in (1.0, -1.0):
            moved = [other.detach() for other in tensors]
            moved[number] = moved[number] + sign * step
            ends.append(mixture(*moved, **options).square().sum())
        change = float(ends[0] - ends[1]) / 2
        expected = float((tensor.grad * step).sum())
        assert change == pytest.approx(expected, rel=1e-5, abs=1e-12), number


@pytest.mark.parametrize("heads", [1, 2])
def test_experts_in_one_batch_are_the_experts_one_by_one(heads):
    found = []
    for stacked in (False, True):
        tensors = inputs()
        out = mixture(*tensors, stacked=stacked, heads=heads)
        out.square().sum().backward()
        found.append([out.detach(), *(tensor.grad for tensor in tensors)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stacked", [False, True])
def test_experts_that_do_not_learn_give_their_shares_a_gradient_and_nothing_else(stacked):
    learning, reading = inputs(), inputs()
    mixture(*learning, stacked=stacked, dropout=0.5).square().sum().backward()
    mixture(*reading, stacked=stacked, dropout=0.5, learns=False).square().sum().backward()
    torch.testing.assert_close(reading[1].grad, learning[1].grad)
    assert all(tensor.grad is None for tensor in (reading[0], *reading[2:]))


def test_a_sequence_sees_itself_and_nothing_later():
    x, share, *weights = inputs()
    before = mixture(x, share, *weights).detach()
    _, sequence = layout()
    for slot in range(len(sequence)):
        changed = x.detach().clone()
        changed[slot] += 1.0
        moved = (mixture(changed, share, *weights) != before).any(1)
        for place in range(len(sequence)):
            assert moved[place] == (sequence[place] == sequence[slot] and place >= slot)


def test_without_a_gradient_the_rows_alone_are_what_they_are_among_all():
    x, share, *weights = inputs()
    rows = torch.tensor([11, 0, 3, 8, 10, 5])
    for stacked in (False, True):
        run = dataclasses.replace(expert_pass(stacked), rows=rows, training=False)
        with torch.no_grad():
            some = ExpertMixture.apply(x, share[rows], run, True, *weights)
        torch.testing.assert_close(some, mixture(x, share, *weights).detach()[rows])


def test_in_bf16_outputs_and_gradients_stay_within_its_precision():
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        tensors = inputs(dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        out = mixture(*tensors, dtype=dtype)
        out.square().mean().backward()
        found.append([out.detach(), *(tensor.grad for tensor in tensors)])
    for exact, rounded in zip(*found, strict=True):
        error = (rounded.double() - exact).norm() / exact.norm().clamp(min=1e-3)
        assert error < 0.06  # a product of bf16 numbers errs by 2⁻⁸; two layers, both ways


# ------------------------------------------------------------------------ masks


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.3])
def test_masks_drop_each_element_with_the_rate_and_differ_from_draw_to_draw(rate):
    masks = DropoutMasks(rate, CPU)
    first, second = (masks.kept(masks.draw((400, 500)), torch.float32) for _ in "ab")
    assert set(first.unique().tolist()) == {0.0, 1.0}
    deviation = (rate * (1 - rate) / first.numel()) ** 0.5
    for mask in (first, second):
        assert abs(float(mask.mean()) - (1 - rate)) < 4 * deviation
    agree = float((first == second).float().mean())
    assert abs(agree - (rate**2 + (1 - rate) ** 2)) < 0.01


def test_masks_follow_torchs_seed_alone():
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        masks = DropoutMasks(0.3, CPU)
        drawn.append(masks.draw((5, 7)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


# ------------------------------------------------------------------------ tiles


@pytest.mark.parametrize("seed", range(6))
def test_tiles_hold_every_sequence_whole_and_none_twice(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, [2, 5, 40, 51, 300, 700][seed], size=60)
    groups, slots = attention_tiles(lengths)
    total = sum(count * length for count, length in groups)
    assert len(set(slots.tolist())) == lengths.sum() <= total
    assert slots.max() < total
    ends = np.cumsum([length for count, length in groups for _ in range(count)])
    for start, end in itertools.pairwise([0, *np.cumsum(lengths)]):
        own = slots[start:end]
        assert (np.diff(own) == 1).all()  # one after the other, in time order
        assert np.searchsorted(ends, own[0], "right") == np.searchsorted(ends, own[-1], "right")


def test_few_slots_stay_empty():
    rng = np.random.default_rng(0)
    for longest in (20, 50, 200):
        lengths = rng.integers(1, longest + 1, size=256)
        groups, _ = attention_tiles(lengths)
        assert sum(count * length for count, length in groups) <= 1.05 * lengths.sum()
    for length in (1, 33, 50, 100):  # all alike
        groups, _ = attention_tiles(np.full(64, length))
        assert sum(count * size for count, size in groups) == 64 * length
