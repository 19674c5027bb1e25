"""The fused expert encoder equals the plain one; its backward pass is the derivative."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from src.dataset.batching.tiles import attention_tiles
from src.nn import encoder as plain
from src.nn.dropout import DropoutMasks
from src.nn.encoder import LayerWeights, PassOptions
from src.nn.kernels import encoder as fused
from src.nn.tiles import tiles_of

LENGTHS = np.array([3, 1, 4, 2, 2])
HIDDEN, EXPERTS, LAYERS = 4, 2, 2
CPU = torch.device("cpu")
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}


def layout():
    """(groups, sequence of each slot) of LENGTHS in tiles of four slots and in shorter ones."""
    groups = [(2, 4), (2, 3)]
    sequence = torch.tensor([2, 2, 2, 2, 3, 3, 4, 4, 0, 0, 0, 1, 5, 5])
    return groups, sequence


def pass_options(
    packed=None, stacked=False, heads=1, dropout=0.0, attention_dropout=0.0, dtype=torch.float64
):
    """Options of a forward pass on `packed` (groups, sequence); by default those of `layout`."""
    return PassOptions(
        tiles=tiles_of(*(packed or layout()), dtype),
        rows=None,
        heads=heads,
        dtype=dtype,
        dropout=DropoutMasks(dropout, CPU),
        attention_dropout=DropoutMasks(attention_dropout, CPU),
        stacked=stacked,
    )


def inputs(seed=0, dtype=torch.float64, slots=14):
    """[x, share, *weights], all with gradients."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    h, k = HIDDEN, EXPERTS
    shapes = [
        (h, 3 * h), (1, 3 * h), (h, h), (1, h), (1, h), (1, h),
        (h, 4 * h), (1, 4 * h), (4 * h, h), (1, h), (1, h), (1, h),
    ]  # fmt: skip
    weights = [0.5 * random(k, *shape) for _ in range(LAYERS) for shape in shapes]
    tensors = [random(slots, h), random(slots, k), *weights]
    return [tensor.requires_grad_() for tensor in tensors]


def layers_of(weights):
    size = len(LayerWeights._fields)
    return [LayerWeights(*weights[i : i + size]) for i in range(0, len(weights), size)]


def mixture(x, share, *weights, learns=True, encoder=fused, **options):
    torch.manual_seed(1)  # the same masks at every call
    return encoder.expert_mixture(x, share, layers_of(weights), pass_options(**options), learns)


def output_and_gradients(tensors, **options):
    """The mixture, then the gradient of each argument (None where it has none)."""
    output = mixture(*tensors, **options)
    (output.square().sum() / 2).backward()
    return [output.detach(), *(tensor.grad for tensor in tensors)]


def random_layout(seed):
    """Ragged sequences, packed as a batch packs them."""
    lengths = np.random.default_rng(seed).integers(1, [4, 30, 60][seed], size=12)
    groups, slots = attention_tiles(lengths)
    sequence = torch.full((sum(count * length for count, length in groups),), len(lengths))
    sequence[torch.as_tensor(slots)] = torch.arange(len(lengths)).repeat_interleave(
        torch.as_tensor(lengths)
    )
    return groups, sequence


# ------------------------------------------------------------------------ plain and fused


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("stacked", [False, True], ids=["one by one", "stacked"])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(("rate", "attention_rate"), [(0.0, 0.0), (0.5, 0.0), (0.3, 0.2)])
@pytest.mark.parametrize("learns", [True, False], ids=["learns", "stopped"])
@pytest.mark.parametrize("batch", [None, 0, 2])
def test_plain_and_fused_encoders_are_equal(
    dtype, stacked, heads, rate, attention_rate, learns, batch
):
    packed = layout() if batch is None else random_layout(batch)
    options = {
        "packed": packed, "stacked": stacked, "heads": heads, "dropout": rate,
        "attention_dropout": attention_rate, "dtype": dtype, "learns": learns,
    }  # fmt: skip
    results = [
        output_and_gradients(inputs(dtype=dtype, slots=len(packed[1])), encoder=encoder, **options)
        for encoder in (plain, fused)
    ]
    for number, (expected, actual) in enumerate(zip(*results, strict=True)):
        if number in (0, 2) or learns:  # the output and the gradient of the share always
            scale = max(1.0, float(expected.abs().max()))
            tolerance = TOLERANCES[dtype]
            torch.testing.assert_close(actual, expected, rtol=tolerance, atol=scale * tolerance)
        else:
            assert actual is None and expected is None


@pytest.mark.parametrize("stacked", [False, True], ids=["one by one", "stacked"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_plain_and_fused_encoders_are_equal_where_only_rows_are_needed(stacked, dropout):
    x, share, *weights = inputs()
    rows = torch.tensor([11, 0, 3, 8, 10, 5])
    outputs = []
    for encoder in (plain, fused):
        torch.manual_seed(1)
        options = dataclasses.replace(
            pass_options(stacked=stacked, dropout=dropout), rows=rows, needs_backward=False
        )
        with torch.no_grad():
            layers = layers_of(weights)
            outputs.append(encoder.expert_mixture(x, share[rows], layers, options))
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)


def test_a_stopped_expert_builds_no_graph_on_its_weights():
    x, share, *weights = inputs()
    assert mixture(x, share, *weights, encoder=plain, learns=False).requires_grad
    assert not mixture(x, share.detach(), *weights, encoder=plain, learns=False).requires_grad


# ------------------------------------------------------------------------ the fused encoder


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


def test_stacked_experts_equal_the_experts_one_by_one():
    results = [
        output_and_gradients(inputs(), stacked=stacked, heads=2) for stacked in (False, True)
    ]
    for one, other in zip(*results, strict=True):
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
        for other in range(len(sequence)):
            assert moved[other] == (sequence[other] == sequence[slot] and other >= slot)


def test_without_a_gradient_the_rows_alone_are_what_they_are_among_all():
    x, share, *weights = inputs()
    rows = torch.tensor([11, 0, 3, 8, 10, 5])
    for stacked in (False, True):
        options = dataclasses.replace(
            pass_options(stacked=stacked), rows=rows, needs_backward=False
        )
        with torch.no_grad():
            at_rows = fused.expert_mixture(x, share[rows], layers_of(weights), options)
        torch.testing.assert_close(at_rows, mixture(x, share, *weights).detach()[rows])


@pytest.mark.parametrize("encoder", [plain, fused])
def test_in_bf16_outputs_and_gradients_stay_within_its_precision(encoder):
    exact = output_and_gradients(inputs())
    rounded = output_and_gradients(
        inputs(dtype=torch.float32), dtype=torch.bfloat16, encoder=encoder
    )
    for expected, actual in zip(exact, rounded, strict=True):
        error = (actual.double() - expected).norm() / expected.norm().clamp(min=1e-3)
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


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_tiles_hold_every_sequence_whole_and_none_twice(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, [2, 5, 40, 51, 300, 700][seed], size=60)
    groups, slots = attention_tiles(lengths)
    total = sum(count * length for count, length in groups)
    assert len(set(slots.tolist())) == lengths.sum() <= total
    assert slots.max() < total
    ends = np.cumsum([length for count, length in groups for _ in range(count)])
    for start, end in itertools.pairwise([0, *np.cumsum(lengths)]):
        run = slots[start:end]
        assert (np.diff(run) == 1).all()  # one after the other, in time order
        assert np.searchsorted(ends, run[0], "right") == np.searchsorted(ends, run[-1], "right")


def test_few_slots_stay_empty():
    rng = np.random.default_rng(0)
    for longest in (20, 50, 200):
        lengths = rng.integers(1, longest + 1, size=256)
        groups, _ = attention_tiles(lengths)
        assert sum(count * length for count, length in groups) <= 1.05 * lengths.sum()
    for length in (1, 33, 50, 100):  # all alike
        groups, _ = attention_tiles(np.full(64, length))
        assert sum(count * size for count, size in groups) == 64 * length
