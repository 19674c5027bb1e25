"""The fused softmax loss equals the plain one, in tiles and without wide tensors."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from src.nn.kernels import softmax_loss as kernel
from src.nn.softmax_loss import softmax_loss

COUNTS, ITEMS = (5, 0, 3, 11), (7, 4, 40, 3)

# (CHUNK_ELEMENTS, TILE_ROWS, LEAST_ROWS): rows of logits are 16 or 48 elements long in memory
TILINGS = {
    "a tile a domain": (2**22, 256, 32),
    "three targets a tile": (2**22, 3, 32),
    "one target a tile": (48, 256, 1),
    "items cut too": (64, 256, 32),
    "smallest tiles": (16, 256, 32),
}


@pytest.fixture(params=TILINGS.values(), ids=list(TILINGS))
def tiling(request, monkeypatch):
    set_tiling(monkeypatch, *request.param)
    return request.param


def set_tiling(monkeypatch, elements, rows=256, least=32):
    monkeypatch.setattr(kernel, "CHUNK_ELEMENTS", elements)
    monkeypatch.setattr(kernel, "TILE_ROWS", rows)
    monkeypatch.setattr(kernel, "LEAST_ROWS", least)


def softmax_case(dtype, hidden=6):
    """(rows, table, targets, spans, coefficients) of domains with the counts and items above."""
    torch.manual_seed(1)
    rows = torch.randn(sum(COUNTS), hidden, dtype=dtype, requires_grad=True)
    table = torch.randn(1 + sum(ITEMS), hidden, dtype=dtype, requires_grad=True)
    targets, spans, row, item = [], [], 0, 1
    for count, items in zip(COUNTS, ITEMS, strict=True):
        if count:
            spans.append((slice(row, row + count), slice(item, item + items)))
        targets.append(torch.randint(item, item + items, (count,)))
        row, item = row + count, item + items
    coefficients = torch.linspace(-1, 2, row, dtype=dtype)
    coefficients[4:7] = 0
    return rows, table, torch.cat(targets), spans, coefficients


def one_domain(targets, items, hidden, dtype=torch.float32):
    torch.manual_seed(0)
    return (
        torch.randn(targets, hidden, dtype=dtype, requires_grad=True),
        torch.randn(items + 1, hidden, dtype=dtype, requires_grad=True),
        torch.randint(1, items + 1, (targets,)),
        [(slice(0, targets), slice(1, items + 1))],
        torch.rand(targets, dtype=dtype) - 0.2,
    )


def plain(*case):
    return softmax_loss(*case, kernels="plain")


def with_gradients(function, rows, table, *rest, scale=1.0):
    """(objective, losses, gradient of the rows, gradient of the table)."""
    objective, values = function(rows, table, *rest)
    return objective, values, *torch.autograd.grad(scale * objective, (rows, table))


def assert_same(actual, expected, tolerance):
    for got, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def relative(got, want):
    return ((got - want).norm() / want.norm()).item()


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 4e-6)], ids=["float64", "float32"]
)
def test_fused_losses_and_gradients_are_the_plain_ones(tiling, dtype, tolerance):
    """With coefficients below, at and above 0, and a domain without targets."""
    case = softmax_case(dtype)
    assert bool((case[-1] < 0).any() and (case[-1] == 0).any())
    actual = with_gradients(kernel.softmax_loss, *case, scale=-0.7)
    assert_same(actual, with_gradients(plain, *case, scale=-0.7), tolerance)
    assert actual[3].abs().max() > 0.1
    assert not actual[3][[0, *range(8, 12)]].any()  # padding, and the domain without targets


@pytest.mark.parametrize("kernels", ["plain", "fused"])
@pytest.mark.parametrize("one_span", [False, True], ids=["several spans", "one span"])
def test_losses_and_gradients_are_those_of_the_softmax_written_out(kernels, one_span):
    """ℓ = logsumexp − logit of the target; ∂ℓ/∂logits = softmax − one-hot."""
    hidden, table, targets, spans, coefficients = softmax_case(torch.float64)
    if one_span:
        spans = [(slice(0, sum(COUNTS)), slice(1, 1 + sum(ITEMS)))]
    with torch.no_grad():
        allowed = torch.zeros(len(targets), len(table), dtype=torch.bool)
        for span, items in spans:
            allowed[span, items] = True
        logits = (hidden @ table.T).masked_fill(~allowed, -torch.inf)  # [N, V + 1]
        onehot = F.one_hot(targets, len(table))
        losses = logits.logsumexp(1) - (hidden * table[targets]).sum(1)
        logits_gradient = coefficients[:, None] * (logits.softmax(1) - onehot)
        expected = (
            coefficients @ losses,
            losses,
            logits_gradient @ table,
            logits_gradient.T @ hidden,
        )
    actual = with_gradients(
        lambda *case: softmax_loss(*case, kernels), hidden, table, targets, spans, coefficients
    )
    assert_same(actual, expected, 1e-10)
    assert actual[0].requires_grad and not actual[1].requires_grad


class Repeated(torch.autograd.Function):
    """The objective with a new forward pass for each backward pass, as the numerical check needs:
    it goes backward twice, and the loss allows it once."""

    @staticmethod
    def forward(ctx, rows, table, *rest):
        ctx.inputs = rows, table, *rest
        return kernel.softmax_loss(rows, table, *rest)[0]

    @staticmethod
    def backward(ctx, gradient):
        rows, table, *rest = ctx.inputs
        with torch.enable_grad():
            actual = with_gradients(kernel.softmax_loss, rows, table, *rest, scale=gradient)
        return *actual[2:], None, None, None


def test_the_gradient_passes_the_numerical_check(tiling):
    rows, table, *rest = softmax_case(torch.float64, hidden=2)
    torch.autograd.gradcheck(lambda h, e: Repeated.apply(h, e, *rest), (rows, table))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_logits_stay_exact(tiling, dtype):
    """Logits of ±1e4 differ by far more than exp can hold."""
    rows, table, targets, spans, coefficients = softmax_case(dtype)
    with torch.no_grad():
        rows.copy_(torch.where(rows > 0, 100.0, -100.0))
        table.copy_(torch.where(table > 0, 17.0, -17.0))  # every sum of them is exact
    case = rows, table, targets, spans, coefficients
    logits = rows @ table.T
    assert logits.max() > 9.9e3 and logits.min() < -9.9e3
    actual = with_gradients(kernel.softmax_loss, *case)
    assert all(bool(part.isfinite().all()) for part in actual)
    assert bool((actual[1] >= 0).all()) and actual[1].max() > 1e4
    expected = with_gradients(plain, *(part.double() if part is rows or part is table else part
                                        for part in case))  # fmt: skip
    for got, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("elements", [2**22, 64], ids=["one pass", "two passes"])
def test_bf16_autocast_stays_within_the_rounding_of_its_products(elements, monkeypatch):
    set_tiling(monkeypatch, elements)
    case = softmax_case(torch.float32, hidden=32)
    rows, table, *rest = case
    exact = with_gradients(plain, rows.double(), table.double(), *rest)
    with torch.autocast("cpu", torch.bfloat16):
        actual = with_gradients(kernel.softmax_loss, *case)
    assert all(part.dtype == torch.float32 for part in actual)
    # bf16 keeps 8 bits: inputs and logits (up to ~20 here) are each off by at most 1 in 2⁹
    assert (actual[1] - exact[1]).abs().max() < 20 * 3 * 2**-9
    for got, want in zip(actual[2:], exact[2:], strict=True):
        assert relative(got, want) < 0.02
    assert relative(actual[3], with_gradients(plain, *case)[3]) > 1e-4  # bf16 it was


def test_in_bf16_a_target_that_is_nearly_certain_still_gets_its_gradient():
    """Its share of .9995 would round to 1 in bf16; the distance to 1 is rounded instead."""
    rows = torch.tensor([[1.0, 0.0]], requires_grad=True)
    table = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.375, 0.0]], requires_grad=True)
    case = rows, table, torch.tensor([1]), [(slice(0, 1), slice(1, 3))], torch.ones(1)
    exact = with_gradients(plain, *case)
    assert 3e-4 < exact[1].item() < 6e-4
    with torch.autocast("cpu", torch.bfloat16):
        actual = with_gradients(kernel.softmax_loss, *case)
    for got, want in zip(actual[2:], exact[2:], strict=True):
        assert relative(got, want) < 0.02


def test_bf16_inputs_get_bf16_gradients_summed_in_float32():
    case = one_domain(40, 30, 8)
    rows, table = (part.detach().bfloat16().requires_grad_() for part in case[:2])
    actual = with_gradients(kernel.softmax_loss, rows, table, *case[2:])
    assert [part.dtype for part in actual] == [torch.float32] * 2 + [torch.bfloat16] * 2
    expected = with_gradients(plain, rows.float(), table.float(), *case[2:])
    for got, want in zip(actual, expected, strict=True):
        assert relative(got.float(), want) < 0.02


def test_float64_stays_float64_under_autocast():
    case = softmax_case(torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        actual = with_gradients(kernel.softmax_loss, *case)
    assert_same(actual, with_gradients(plain, *case), 1e-10)


# ------------------------------------------------------------------------ what it costs


class Watch(TorchDispatchMode):
    """The operations done, and the number of elements of the largest tensor that one returned."""

    def __init__(self):
        super().__init__()
        self.names, self.elements = [], 0

    @property
    def products(self):
        return sum(name in ("aten::mm", "aten::addmm_") for name in self.names)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.names.append(function.overloadpacket._qualified_op_name)
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("least", [1, 32], ids=["one pass", "two passes"])
def test_no_tensor_over_targets_and_items_is_ever_made(least, precision, monkeypatch):
    """Forward and backward: for 100,000 logits nothing above 1024, the table (1002) or a tile."""
    set_tiling(monkeypatch, 1024, least=least)
    case = one_domain(200, 500, 2)
    with Watch() as seen, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        kernel.softmax_loss(*case)[0].backward()
    assert seen.products > 100
    assert seen.elements <= 1024


@pytest.mark.parametrize(
    "wanted, least, products",
    [
        ("both", 1, 3), ("rows", 1, 2), ("table", 1, 2), ("none", 1, 1), ("no_grad", 1, 1),
        ("both", 32, 4), ("rows", 32, 3), ("table", 32, 3), ("none", 32, 1), ("no_grad", 32, 1),
    ],
)  # fmt: skip
def test_only_the_work_that_is_asked_for_is_done(wanted, least, products, monkeypatch):
    """Products a tile: 3 in one pass and 4 in two, less where a gradient is not wanted."""
    set_tiling(monkeypatch, 512, least=least)
    rows, table, *rest = one_domain(64, 120, 4)
    rows.requires_grad_(wanted in ("both", "rows", "no_grad"))
    table.requires_grad_(wanted in ("both", "table", "no_grad"))
    expected = plain(rows, table, *rest)
    height, width = kernel._tile_shape(64, 120)
    tiles = -(-64 // height) * -(-120 // width)
    with Watch() as seen, torch.set_grad_enabled(wanted != "no_grad"):
        objective, values = kernel.softmax_loss(rows, table, *rest)
        assert objective.requires_grad is (products > 1)
        if products > 1:
            objective.backward()
    assert seen.products == products * tiles
    assert ("aten::scatter_add_" in seen.names) is (products > 1)
    assert_same((objective, values), expected, 1e-5)
    assert (rows.grad is None) is (wanted not in ("both", "rows"))
    assert (table.grad is None) is (wanted not in ("both", "table"))


@pytest.mark.parametrize(
    "targets, items",
    [(1, 1), (2900, 14228), (400, 20971), (7, 10**6), (512, 10**6), (2900, 10**8), (5, 17)],
)
def test_a_tile_never_exceeds_the_chunk(targets, items):
    height, width = kernel._tile_shape(targets, items)
    assert 1 <= height <= targets
    assert width >= 1
    assert height * kernel._aligned(width) <= kernel.CHUNK_ELEMENTS
    assert width == items or height >= min(targets, kernel.LEAST_ROWS)


def test_the_same_input_gives_the_same_bits(tiling):
    case = softmax_case(torch.float32)
    for got, want in zip(*(with_gradients(kernel.softmax_loss, *case) for _ in "ab"), strict=True):
        assert torch.equal(got, want)


def test_losses_carry_no_gradient_and_a_second_backward_pass_is_refused():
    objective, values = kernel.softmax_loss(*softmax_case(torch.float32))
    assert not values.requires_grad
    objective.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        objective.backward()


@pytest.mark.parametrize("kernels", ["plain", "fused"])
def test_without_targets_the_objective_is_zero(kernels):
    rows, table = torch.zeros(0, 4, requires_grad=True), torch.ones(9, 4, requires_grad=True)
    none = torch.zeros(0)
    objective, values = softmax_loss(rows, table, none.long(), [], none, kernels)
    objective.backward()
    assert objective.item() == 0 and len(values) == 0
    assert rows.grad.shape == (0, 4)
    assert table.grad is None or not table.grad.any()


@pytest.mark.parametrize("elements", [2**22, 512], ids=["one pass", "two passes"])
def test_no_operation_waits_for_a_value(elements, monkeypatch):
    """As a GPU needs it: with tensors that have no content, to read a number from one fails."""
    set_tiling(monkeypatch, elements)
    case = one_domain(64, 120, 4)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        tensors = [mode.from_tensor(part) if torch.is_tensor(part) else part for part in case]
        actual = with_gradients(kernel.softmax_loss, *tensors)
        with pytest.raises(DataDependentOutputException):
            actual[0].item()
    assert [part.shape for part in actual] == [(), (64,), (64, 4), (121, 4)]
