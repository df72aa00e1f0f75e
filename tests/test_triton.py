"""The Triton kernels in Triton's interpreter, on a machine without a GPU."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from kernel_cases import Case, assert_close, assert_zero_where_dropped, random_case

from torch_sparsedrop import BlockMask
from torch_sparsedrop.ops import packing

if torch.cuda.is_available():
    pytest.skip("a GPU is here: test_cuda.py runs the compiled kernels", allow_module_level=True)
if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from torch_sparsedrop.providers.cuda import device as devices
from torch_sparsedrop.providers.cuda import matmul
from torch_sparsedrop.providers.triton import column as column_sum
from torch_sparsedrop.providers.triton import plan

# The interpreter has no product of bfloat16.
DTYPES = (torch.float16, torch.float32)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """New tensors hold NaN, so that an element that a kernel leaves out is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=[(9, 0), (8, 0)], ids=["sm90", "sm80"])
def capability(request, monkeypatch):
    """Tiles and ways to read memory, as on that GPU."""
    monkeypatch.setattr(devices, "capability", lambda device: request.param)
    monkeypatch.setattr(matmul, "_known", {})


@pytest.mark.usefixtures("capability")
@pytest.mark.parametrize("seed", range(24))
def test_random_problems(seed):
    case = random_case(seed, DTYPES, "cpu", most=150, blocks=(16, 32, 64, 20, 48))
    y = matmul.linear(case.x, case.weight, case.b, *case.masks())
    assert_close(y, case.expected_linear(), case.k)
    assert_zero_where_dropped(y, case.drop_out)
    assert_close(matmul.weight_grad(case.grad, case.x, *case.masks()), case.expected_weight_grad(), case.m)


@pytest.mark.usefixtures("capability")
@pytest.mark.parametrize("which", ["in", "out", "both", "none"])
@pytest.mark.parametrize(("block", "size"), [(32, 96), (64, 128), (128, 128), (256, 256)])
def test_mask_blocks(block, size, which):
    case = Case(
        size, block + 8, size, torch.float16, "cpu",
        block_in=(block, block) if which in ("in", "both") else None,
        block_out=(block, block) if which in ("out", "both") else None,
    )  # fmt: skip
    y = matmul.linear(case.x, case.weight, case.b, *case.masks())
    assert_close(y, case.expected_linear(), case.k)
    assert_zero_where_dropped(y, case.drop_out)
    assert_close(matmul.weight_grad(case.grad, case.x, *case.masks()), case.expected_weight_grad(), case.m)


def test_long_walks():
    """Bitmaps of more than one word, whole in the product and in parts in the reduction."""
    case = Case(16 * 70, 16, 16 * 130, torch.float32, "cpu", block_in=(16, 16), block_out=(16, 16), p=0.9)
    y = matmul.linear(case.x, case.weight, case.b, *case.masks())
    assert_close(y, case.expected_linear(), case.k)
    assert_close(matmul.weight_grad(case.grad, case.x, *case.masks()), case.expected_weight_grad(), case.m)


@pytest.mark.usefixtures("capability")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("side", ["grad", "x"])
@pytest.mark.parametrize(
    "sizes", [(150, 200, (32, 48)), (129, 131, (128, 128)), (700, 64, (16, 16)), (33, 7, (64, 16)), (0, 7, (16, 16))]
)
def test_sums_against_one_column(dtype, side, sizes):
    """As a bias has its gradient, or the weight of a linear with one output."""
    rows, cols, block = sizes
    mask = BlockMask.draw(rows, cols, 0.4, block=block)
    masked = torch.randn(rows, cols).to(dtype)
    dropped = ~mask.dense()
    poisoned = torch.where(dropped, float("nan"), masked)
    of_mask, none = (mask.plan, mask.scale, list(block)), (None, None, [])
    column = torch.randn(rows, 1).to(dtype)
    terms = mask.scale * torch.where(dropped, 0, masked * column.double())
    if side == "grad":
        got = matmul.weight_grad(poisoned, column, *none, *of_mask, 0)
        assert got.shape == (cols, 1)
    else:
        got = matmul.weight_grad(column, poisoned, *of_mask, *none, 0)
        assert got.shape == (1, cols)
    assert (got.flatten() - terms.sum(0)).abs().max() <= (torch.finfo(dtype).eps + 1e-6) * terms.abs().sum(0).max()
    (launch,) = matmul._known.values()
    assert isinstance(launch, column_sum.Launch)


@pytest.mark.usefixtures("capability")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "sizes", [(150, 200, (32, 48)), (1100, 131, (128, 128)), (33, 7, (64, 16)), (90, 1, (16, 16)), (0, 7, (16, 16))]
)
def test_sums_against_ones(dtype, masked, sizes):
    """Without x, from rows with a gap between them; by another kernel where rows do not lie along memory."""
    rows, cols, block = sizes
    mask = BlockMask.draw(rows, cols, 0.4, block=block)
    grad = torch.randn(rows, cols).to(dtype)
    arguments = (mask.plan, mask.scale, list(block)) if masked else (None, None, [])
    terms = mask.scale * torch.where(mask.dense(), grad.double(), 0) if masked else grad.double()
    poisoned = torch.where(mask.dense(), grad, float("nan")) if masked else grad
    gap = torch.nn.functional.pad(poisoned, (0, 9))[:, :cols]
    for given in (gap, gap.view(1, rows, cols), poisoned.t().contiguous().t()):
        matmul._known.clear()
        got = matmul.weight_grad(given, None, None, None, [], *arguments, 0)
        assert got.shape == (cols, 1)
        error = (got.flatten() - terms.sum(0)).abs()
        assert (error <= (torch.finfo(dtype).eps + 1e-6) * terms.abs().sum(0)).all()
        (launch,) = matmul._known.values()
        assert isinstance(launch, column_sum.Launch) == (given.stride(-1) == 1)


def test_dropped_values_are_never_used():
    case = Case(96, 64, 96, torch.float32, "cpu", block_in=(32, 32), block_out=(32, 32), p=0.5)
    expected, gradient = case.expected_linear(), case.expected_weight_grad()
    case.x[~case.drop_in.dense()] = float("nan")
    case.grad[~case.drop_out.dense()] = float("inf")
    assert_close(matmul.linear(case.x, case.weight, case.b, *case.masks()), expected, case.k)
    assert_close(matmul.weight_grad(case.grad, case.x, *case.masks()), gradient, case.m)


@pytest.mark.parametrize("masked", [False, True])
def test_a_sum_over_no_columns(masked):
    mask = BlockMask.draw(40, 0, 0.5, block=16)
    mask_out = (mask.plan, mask.scale, [16, 16]) if masked else (None, None, [])
    assert matmul.weight_grad(torch.randn(40, 0), None, None, None, [], *mask_out, 0).shape == (0, 1)


@pytest.mark.parametrize("sizes", [(0, 32, 32), (32, 0, 32), (32, 32, 0)])
def test_empty_sizes(sizes):
    case = Case(*sizes, torch.float32, "cpu", block_out=(32, 32))
    y = matmul.linear(case.x, case.weight, case.b, *case.masks())
    assert torch.allclose(y.double(), case.expected_linear())
    dw = matmul.weight_grad(case.grad, case.x, *case.masks())
    assert torch.equal(dw.double(), case.expected_weight_grad())


def test_leading_dimensions():
    case = Case(64, 32, 48, torch.float32, "cpu", block_out=(32, 32))
    folded = matmul.linear(case.x.reshape(4, 16, 48), case.weight, case.b, *case.masks())
    assert folded.shape == (4, 16, 32)
    assert torch.equal(folded.reshape(64, 32), matmul.linear(case.x, case.weight, case.b, *case.masks()))


@pytest.mark.parametrize("grid", [(1, 1), (5, 7), (3, 66), (70, 3), (33, 20)])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_plan_and_draw_equal_packing(grid, p):
    rows, cols = grid
    torch.manual_seed(0)
    for balanced in (False, True) if cols < 64 else (False,):
        uniform = torch.rand(rows, cols + balanced)
        uniform[:, cols // 2] = uniform[:, 0]
        got = plan.draw(uniform, torch.tensor(p), balanced)
        for mine, theirs in zip(got, packing.draw(uniform, torch.tensor(p), balanced), strict=True):
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs)
        assert all(torch.equal(a, b) for a, b in zip(got, plan.draw(uniform, p, balanced), strict=True))
        keep, packed, _ = plan.draw(packing.flat(uniform), torch.tensor(p), balanced, grid)
        assert keep.shape == packing.flat(got[0]).shape
        assert torch.equal(packing.matrix(keep, rows, cols), got[0])
        assert torch.equal(packed, got[1])
        assert torch.equal(plan.plan(keep, grid), got[1])
    keep = torch.rand(cols, rows).t() >= p
    assert torch.equal(plan.plan(keep), packing.pack(keep))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("grid", [(1, 2), (5, 7), (33, 20)])
def test_several_masks_in_one_draw(grid, count):
    for balanced in (False, True):
        uniform = torch.rand(count * grid[0], grid[1] + balanced)
        got = plan.draw(uniform.flatten(), torch.tensor(0.3), balanced, (count, *grid))
        for mine, theirs in zip(got, packing.draw(uniform, torch.tensor(0.3), balanced, count), strict=True):
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs.flatten() if theirs.dim() else theirs)


@pytest.mark.filterwarnings("ignore:torch_sparsedrop. no fused kernels")
def test_double_precision_goes_to_the_reference():
    case = Case(40, 40, 40, torch.float64, "cpu")
    y = matmul.linear(case.x, case.weight, case.b, *case.masks())
    assert torch.allclose(y, case.expected_linear())
