"""Autocast does what it does for `torch.nn.functional.linear`."""

import pytest
import torch

import torch_sparsedrop as sparsedrop
from torch_sparsedrop import BlockMask
from torch_sparsedrop.ops import REVISION

MASK = BlockMask.draw(40, 32, 0.1, block=16)


def through_function(x, weight, bias):
    return sparsedrop.linear(x, weight, bias, drop_in=MASK)


def through_overload(x, weight, bias):
    arguments = MASK.plan, MASK.scale, [16, 16], None, None, [], REVISION
    return torch.ops.sparsedrop.linear(x, weight, bias, *arguments)


ENTRANCES = pytest.mark.parametrize("call", [through_function, through_overload])


def operands(dtype=torch.float32):
    return [torch.randn(s, dtype=dtype, requires_grad=True) for s in ((40, 32), (24, 32), (24,))]


@ENTRANCES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_operands_are_cast_and_gradients_come_back_whole(call, dtype):
    leaves = operands()
    with torch.autocast("cpu", dtype=dtype):
        y = call(*leaves)
    assert y.dtype == dtype
    assert torch.equal(y, call(*(t.to(dtype) for t in leaves)))
    grads = torch.autograd.grad(y.sum(), leaves)
    assert [g.dtype for g in grads] == [torch.float32] * 3


@ENTRANCES
def test_the_scale_is_not_cast(call):
    x, weight, _ = (torch.ones_like(t) for t in operands())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = call(x, weight * 1e-3, None)
    kept = MASK.dense().sum(1, keepdim=True)
    exact = (kept * torch.tensor(1e-3).bfloat16().double() * MASK.scale.double()).expand(40, 24)
    # In bfloat16 the scale 1/0.9 would be 1.1094, off by 1.5e-3; rounding the result costs at most 2^-9.
    assert torch.equal(y, exact.to(torch.bfloat16))


@ENTRANCES
def test_nested_off(call):
    leaves = operands()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autocast("cpu", enabled=False):
        y = call(*leaves)
    assert y.dtype == torch.float32
    assert torch.equal(y, call(*leaves))


@ENTRANCES
def test_float64_stays(call):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert call(*operands(torch.float64)).dtype == torch.float64


@ENTRANCES
def test_mixed_operands_meet_in_the_autocast_dtype(call):
    x, weight, bias = operands()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = call(x.bfloat16(), weight, bias)
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("inside", [True, False])
def test_under_compile(inside, fresh_compiler):
    leaves = operands()

    def call(*args):
        if not inside:
            return through_function(*args)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return through_function(*args)

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not inside):
        y, expected = compiled(*leaves), call(*leaves)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    grads = (torch.autograd.grad(result.sum(), leaves) for result in (y, expected))
    for found, wanted in zip(*grads, strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)
