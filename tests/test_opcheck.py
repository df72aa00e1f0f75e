"""opcheck over dtypes, layouts and requires_grad."""

import pytest
import torch
from problems import DTYPES, LAYOUTS, lay_out

from torch_sparsedrop import BlockMask
from torch_sparsedrop.ops import REVISION, layer
from torch_sparsedrop.ops.checks import flat_size, grid_of

M, N, K = 40, 33, 50


def mask_arguments(sides):
    arguments = []
    for side, cols in (("in", K), ("out", N)):
        if sides in (side, "both"):
            mask = BlockMask.draw(M, cols, 0.4, block=16)
            arguments += [mask.plan, mask.scale, [16, 16]]
        else:
            arguments += [None, None, []]
    return [*arguments, REVISION]


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("sides", ["in", "out", "both"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear(dtype, layout, sides, requires_grad):
    x, weight, bias = lay_out((M, K), layout, dtype), lay_out((N, K), layout, dtype), torch.randn(N).to(dtype)
    operands = [t.requires_grad_(requires_grad) for t in (x, weight, bias)]
    torch.library.opcheck(torch.ops.sparsedrop.linear.default, (*operands, *mask_arguments(sides)))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_grad(dtype, layout, requires_grad):
    operands = [lay_out((M, size), layout, dtype).requires_grad_(requires_grad) for size in (N, K)]
    torch.library.opcheck(torch.ops.sparsedrop.weight_grad.default, (*operands, *mask_arguments("both")))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("sides", ["out", ""])
def test_weight_grad_against_ones(sides, requires_grad):
    grad = torch.randn(M, N, requires_grad=requires_grad)
    torch.library.opcheck(torch.ops.sparsedrop.weight_grad.default, (grad, None, *mask_arguments(sides)))


@pytest.mark.parametrize("leading", [(M,), (4, 10)])
@pytest.mark.parametrize("leading_grad", [(M,), (4, 10), (2, 20), (1, 4, 10)])
def test_weight_grad_takes_what_its_fake_takes(leading, leading_grad):
    arguments = torch.randn(*leading_grad, N), torch.randn(*leading, K), *mask_arguments("both")
    if leading == leading_grad:
        torch.library.opcheck(torch.ops.sparsedrop.weight_grad.default, arguments)
        return
    for device in ("cpu", "meta"):
        there = [t.to(device) if isinstance(t, torch.Tensor) else t for t in arguments]
        with pytest.raises((ValueError, RuntimeError), match=r"must agree in '\.\.\.', got"):
            torch.ops.sparsedrop.weight_grad(*there)


@pytest.mark.parametrize("shape", [(0, 3), (4, 70), (65, 1)])
def test_plan_and_draw(shape):
    torch.library.opcheck(torch.ops.sparsedrop.plan.default, (torch.rand(shape) > 0.5,))
    for balanced in (False, True):
        uniform = torch.rand(shape[0], shape[1] + balanced)
        torch.library.opcheck(torch.ops.sparsedrop.draw.default, (uniform, torch.tensor(0.3), balanced))


@pytest.mark.parametrize("grid", [(0, 3), (1, 1), (4, 70), (65, 1)])
def test_flat_plan_and_draw(grid):
    keep = torch.rand(flat_size(*grid)) > 0.5
    torch.library.opcheck(torch.ops.sparsedrop.plan.default, (keep, grid))
    for balanced in (False, True):
        uniform = torch.rand(flat_size(grid[0], grid[1] + balanced))
        torch.library.opcheck(torch.ops.sparsedrop.draw.default, (uniform, torch.tensor(0.3), balanced, grid))


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("grid", [(0, 3), (1, 1), (4, 70), (65, 1)])
def test_several_masks_at_once(grid, count):
    for balanced in (False, True):
        uniform = torch.rand(flat_size(count * grid[0], grid[1] + balanced))
        arguments = uniform, torch.tensor(0.3), balanced, (count, *grid)
        torch.library.opcheck(torch.ops.sparsedrop.draw.default, arguments)


@pytest.mark.skipif(not layer._built(), reason="the native part was not built")
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("p", [(torch.tensor(0.4), 0.0), (None, 0.4)], ids=["tensor", "number"])
def test_layer(p, balanced, out, requires_grad):
    operands = [torch.randn(shape).requires_grad_(requires_grad) for shape in ((2, M // 2, K), (N, K), (N,))]
    rows, cols = grid_of(M, N if out else K, (16, 16))
    uniform = torch.rand(flat_size(rows, cols + balanced))
    arguments = *operands, uniform, *p, balanced, out, (16, 16), REVISION
    torch.library.opcheck(torch.ops.sparsedrop.layer.default, arguments)
