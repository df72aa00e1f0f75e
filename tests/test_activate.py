"""`sparsedrop::activate`: M ⊙ f(x + b), and its derivative."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from torch_sparsedrop import BlockMask
from torch_sparsedrop.ops import REVISION
from torch_sparsedrop.ops.functions import FUNCTIONS, NUMBERS, RELU

OPS = torch.ops.sparsedrop
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
FUNCTION = pytest.mark.parametrize("function", range(len(FUNCTIONS)), ids=list(NUMBERS))
# Triton's interpreter has no bfloat16 arithmetic of its own, but casts it.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = [((70, 200), (32, 48)), ((2, 33, 96), (16, 96)), ((129, 131), (128, 128))]

Served = tuple[Callable[..., Tensor], Callable[..., tuple[Tensor, Tensor]]]


@pytest.fixture(params=["registered", "interpreted"])
def served(request: pytest.FixtureRequest) -> Served:
    """The ops as the dispatcher has them, and without a GPU the Triton kernels in the interpreter too."""
    if request.param == "registered":
        return OPS.activate, OPS.activate_grad
    if GPU or importlib.util.find_spec("triton") is None:
        pytest.skip("the registered ones are the kernels" if GPU else "triton is not installed")
    from torch_sparsedrop.providers.triton import activate as kernels

    return kernels.activate, kernels.activate_grad


def expected(x: Tensor, bias: Tensor | None, function: int, mask: BlockMask, grad: Tensor) -> list[Tensor]:
    """y, dx and db in double precision."""
    leaves = [t.double().requires_grad_() for t in (x, bias) if t is not None]
    z = leaves[0] if bias is None else leaves[0] + leaves[1]
    y = torch.where(mask.dense().view(x.shape), FUNCTIONS[function].value(z), 0)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.double())]


def rounding(dtype: torch.dtype) -> float:
    """Of the result, and of float32 arithmetic, where an exponent of ten or so loses as many units."""
    return torch.finfo(dtype).eps + 16 * torch.finfo(torch.float32).eps


def largest(tensor: Tensor) -> float:
    return tensor.abs().max().item() if tensor.numel() else 0.0


def compare(
    served: Served, function: int, dtype: torch.dtype, shape: tuple[int, ...], block: tuple[int, int],
    biases: Iterable[torch.dtype | None],
) -> None:  # fmt: skip
    forward, backward = served
    rows, cols = torch.Size(shape[:-1]).numel(), shape[-1]
    mask = BlockMask.draw(rows, cols, 0.4, block=block, device=DEVICE)
    x, grad = (torch.randn(shape, device=DEVICE).to(dtype) for _ in range(2))
    dropped = ~mask.dense().view(shape)
    for kind in biases:
        bias = None if kind is None else torch.randn(cols, device=DEVICE).to(kind)
        y, dx, *db = expected(x, bias, function, mask, grad)
        poisoned, incoming = x.clone(), grad.clone()
        poisoned[dropped], incoming[dropped] = float("nan"), float("inf")
        got = forward(poisoned, bias, function, mask.plan, block, REVISION)
        source = got if function == RELU else poisoned
        got_dx, got_db = backward(incoming, source, bias, function, mask.plan, block, REVISION)
        # On a GPU the second call is the native part's.
        assert torch.equal(forward(poisoned, bias, function, mask.plan, block, REVISION), got)
        again = backward(incoming, source, bias, function, mask.plan, block, REVISION)
        assert all(map(torch.equal, again, (got_dx, got_db)))
        for mine, theirs in ((got, y), (got_dx, dx)):
            assert (mine.dtype, mine.shape) == (dtype, x.shape)
            assert torch.equal(mine[dropped], torch.zeros_like(mine[dropped]))
            assert ((mine - theirs).abs() <= rounding(dtype) * largest(theirs)).all()
        if bias is None:
            assert got_db.numel() == 0
        else:
            assert got_db.dtype == bias.dtype
            added = dx.abs().reshape(rows, cols).sum(0)
            assert ((got_db - db[0]).abs() <= rounding(bias.dtype) * largest(added)).all()


@FUNCTION
@pytest.mark.parametrize("case", range(len(SHAPES)), ids=[str(shape) for shape, _ in SHAPES])
def test_equals_plain_pytorch(served: Served, function: int, case: int) -> None:
    """Every pair of function, shape and dtype; on a GPU each case compiles kernels of its own, which takes seconds."""
    dtype = DTYPES[(function + case) % len(DTYPES)]
    compare(served, function, dtype, *SHAPES[case], dict.fromkeys((None, dtype, torch.float32)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
@given(
    st.sampled_from(range(len(FUNCTIONS))), st.sampled_from(DTYPES), st.integers(0, 90), st.integers(1, 90),
    st.tuples(st.integers(16, 70), st.integers(16, 70)), st.sampled_from((None, *DTYPES)), st.integers(0, 2**31),
)  # fmt: skip
def test_shapes_and_blocks(
    served: Served, function: int, dtype: torch.dtype, rows: int, cols: int, block: tuple[int, int],
    bias: torch.dtype | None, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    compare(served, function, dtype, (rows, cols), block, [bias])


@pytest.mark.parametrize("ones", [False, True])
def test_other_layouts(served: Served, ones: bool) -> None:
    """A transposed x, a gradient that is one number throughout, as that of a sum, and every second value of a bias."""
    mask = BlockMask.draw(40, 50, 0.4, block=16, device=DEVICE)
    x, bias = torch.randn(50, 40, device=DEVICE).t(), torch.randn(100, device=DEVICE)[::2]
    grad = torch.ones((), device=DEVICE).expand(40, 50) if ones else torch.randn(50, 40, device=DEVICE).t()
    arguments = bias, NUMBERS["gelu"], mask.plan, (16, 16), REVISION
    dense = bias.contiguous(), *arguments[1:]
    torch.testing.assert_close(served[0](x, *arguments), served[0](x.contiguous(), *dense))
    got = served[1](grad, x, *arguments)
    torch.testing.assert_close(got, served[1](grad.contiguous(), x.contiguous(), *dense))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
def test_opcheck(dtype: torch.dtype, bias: bool) -> None:
    mask = BlockMask.draw(40, 50, 0.4, block=16, device=DEVICE)
    x = torch.randn(40, 50, device=DEVICE).to(dtype).requires_grad_()
    b = torch.randn(50, device=DEVICE).to(dtype).requires_grad_() if bias else None
    arguments = x, b, NUMBERS["gelu"], mask.plan, [16, 16], REVISION
    torch.library.opcheck(OPS.activate.default, arguments)
    detached = [t.detach() if isinstance(t, Tensor) else t for t in arguments]
    torch.library.opcheck(OPS.activate_grad.default, (torch.randn_like(detached[0]), *detached))


@FUNCTION
def test_gradients_of_the_op(function: int) -> None:
    mask = BlockMask.draw(18, 20, 0.4, block=16)
    x, b = torch.randn(18, 20, dtype=torch.float64), torch.randn(20, dtype=torch.float64)

    def call(x: Tensor, b: Tensor) -> Tensor:
        return OPS.activate(x, b, function, mask.plan, [16, 16], REVISION)

    torch.autograd.gradcheck(call, (x.requires_grad_(), b.requires_grad_()))
    torch.autograd.gradgradcheck(call, (x, b))


def test_of_relu_only_the_result_is_kept() -> None:
    mask, kept = BlockMask.draw(40, 50, 0.4, block=16), []
    x, b = torch.randn(40, 50, requires_grad=True), torch.randn(50, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = OPS.activate(x, b, RELU, mask.plan, [16, 16], REVISION)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in (y, b, mask.plan)}


@pytest.mark.parametrize(
    ("change", "text"),
    [({"function": 4}, "function must be one of 0 .relu"), ({"block": [16, 32]}, "plan must be int32 of"),
     ({"bias": torch.ones(3)}, "bias must be floating of shape"), ({"x": torch.tensor(1.0)}, "at least one dim")],
)  # fmt: skip
def test_bad_arguments(change: dict[str, Any], text: str) -> None:
    plan = BlockMask.draw(40, 50, 0.4, block=16).plan
    good = {"x": torch.randn(40, 50), "bias": None, "function": RELU, "plan": plan, "block": [16, 16]}
    with pytest.raises(ValueError, match=text):
        OPS.activate(**good | change, revision=REVISION)
