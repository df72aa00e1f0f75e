"""The kernels on a GPU: every layout, dtype and block, beside the reference."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import Case, assert_close, assert_zero_where_dropped, compare_products, random_case

import torch_sparsedrop as sparsedrop
from torch_sparsedrop.ops import packing

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

from torch_sparsedrop.providers.cuda import device as devices
from torch_sparsedrop.providers.cuda import matmul

pytestmark = pytest.mark.gpu
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
OPS = torch.ops.sparsedrop


@pytest.fixture
def poisoned_memory():
    """New tensors hold NaN, so that an element that a kernel leaves out is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["own", "hopper", "pointers"])
def reading(request, monkeypatch):
    """As this GPU serves them, with the Hopper kernel at any size, and as GPUs before Hopper read memory."""
    if request.param == "pointers":
        monkeypatch.setattr(devices, "capability", lambda device: (8, 0))
    if request.param == "hopper":
        monkeypatch.setenv("SPARSEDROP_GPU", "hopper")
    matmul.forget()
    yield
    matmul.forget()


def compare(case: Case) -> None:
    compare_products(case, OPS.linear, OPS.weight_grad)


@pytest.mark.usefixtures("reading", "poisoned_memory")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(40))
def test_random_problems(seed):
    compare(random_case(seed, DTYPES, "cuda", most=700, blocks=(32, 64, 128, 256, 16, 48, 100)))


@pytest.mark.usefixtures("reading", "poisoned_memory")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("which", ["in", "out", "both", "none"])
@pytest.mark.parametrize(("rows", "columns"), [(32, 64), (64, 32), (128, 128), (256, 256), (32, 256), (256, 32)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mask_blocks(dtype, rows, columns, which):
    case = Case(
        712, 1032, 1288, dtype, "cuda", layouts=("plain", "plain", "plain"),
        block_in=(rows, columns) if which in ("in", "both") else None,
        block_out=(rows, columns) if which in ("out", "both") else None,
    )  # fmt: skip
    compare(case)
    case.weight = case.weight.t().contiguous().t()
    assert_close(OPS.linear(case.x, case.weight, case.b, *case.masks()), case.expected_linear(), case.k)


def test_large_problem():
    """Several words of bitmap, more tiles than multiprocessors."""
    case = Case(9000, 2056, 8328, torch.bfloat16, "cuda", block_in=(128, 128), block_out=(128, 128))
    compare(case)


def test_operands_that_are_copied():
    """Large and of odd widths; and for TF32 those whose rows run the wrong way."""
    compare(Case(1030, 1033, 1031, torch.bfloat16, "cuda", block_in=(128, 128), block_out=(128, 64)))
    case = Case(1040, 1032, 1048, torch.float32, "cuda", block_in=(128, 128))
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        y = OPS.linear(case.x, case.weight.t().contiguous().t(), case.b, *case.masks())
        dw = OPS.weight_grad(case.grad, case.x, *case.masks())
    finally:
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    assert_close(y, case.expected_linear(), case.k, tf32=True)
    assert_close(dw, case.expected_weight_grad(), case.m, tf32=True)


@pytest.mark.parametrize("grid", [(1, 1), (128, 32), (128, 8), (512, 128), (2048, 33), (7, 700), (300, 300)])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.usefixtures("poisoned_memory")
def test_plan_and_draw_equal_packing(grid, p):
    rows, cols = grid
    p = torch.tensor(p, device="cuda")
    for balanced in (False, True):
        uniform = torch.rand(rows, cols + balanced, device="cuda")
        uniform[:, cols // 2] = uniform[:, 0]
        for mine, theirs in zip(OPS.draw(uniform, p, balanced), packing.draw(uniform, p, balanced), strict=True):
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs)
        uniform = torch.rand(3 * rows, cols + balanced, device="cuda")
        for _ in range(2):  # The second call is the native part's.
            several = OPS.draw(uniform.flatten(), p, balanced, (3, rows, cols))
            for mine, theirs in zip(several, packing.draw(uniform, p, balanced, 3), strict=True):
                assert torch.equal(mine, theirs.flatten() if theirs.dim() else theirs)
    keep = torch.rand(cols, rows, device="cuda").t() >= p
    assert torch.equal(OPS.plan(keep), packing.pack(keep))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "sizes", [(16384, 768, (128, 128)), (1000, 4100, (64, 48)), (33, 7, (16, 16)), (0, 7, (16, 16))]
)
@pytest.mark.parametrize("masked", [False, True])
def test_bias_gradients(dtype, sizes, masked):
    rows, cols, block = sizes
    mask = sparsedrop.BlockMask.draw(rows, cols, 0.3, block=block, device="cuda")
    grad = torch.randn(rows, cols, device="cuda").to(dtype)
    terms = mask.scale * torch.where(mask.dense(), grad.double(), 0) if masked else grad.double()
    if masked:
        grad[~mask.dense()] = float("nan")
    mask_out = (mask.plan, mask.scale, list(block)) if masked else (None, None, [])
    for given in (grad, torch.nn.functional.pad(grad, (0, 3))[:, :cols], grad.t().contiguous().t()):
        arguments = given, None, None, None, [], *mask_out, 0
        # The second call is the native part's where rows lie along memory.
        first, second = (OPS.weight_grad(*arguments) for _ in range(2))
        assert torch.equal(first, second)
        assert first.shape == (cols, 1)
        error = (first.flatten() - terms.sum(0)).abs().max()
        assert error <= (torch.finfo(dtype).eps + 1e-6) * terms.abs().sum(0).max()


def test_dropped_values_are_never_used():
    case = Case(512, 384, 640, torch.bfloat16, "cuda", block_in=(128, 128), block_out=(128, 128))
    expected, gradient = case.expected_linear(), case.expected_weight_grad()
    case.x[~case.drop_in.dense()] = float("nan")
    case.grad[~case.drop_out.dense()] = float("inf")
    assert_close(OPS.linear(case.x, case.weight, case.b, *case.masks()), expected, case.k)
    assert_close(OPS.weight_grad(case.grad, case.x, *case.masks()), gradient, case.m)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients(dtype):
    case = Case(520, 264, 392, dtype, "cuda", block_in=(64, 128), block_out=(64, 64))
    got, want = [], []
    for found, function, wide in ((got, sparsedrop.linear, False), (want, sparsedrop.reference.linear, True)):
        leaves = [t.double() if wide else t for t in (case.x, case.weight, case.b)]
        leaves = [t.detach().requires_grad_() for t in leaves]
        y = function(*leaves, drop_in=case.drop_in, drop_out=case.drop_out)
        y.backward(case.grad.to(y.dtype))
        found += [leaf.grad for leaf in leaves]
    for mine, theirs, terms in zip(got, want, (case.n, case.m, case.m), strict=True):
        assert_close(mine, theirs, terms)
    assert_zero_where_dropped(got[0], case.drop_in)


def test_float32_obeys_the_tf32_setting():
    case = Case(512, 512, 512, torch.float32, "cuda", block_in=(128, 128))
    expected = case.expected_linear()
    assert_close(OPS.linear(case.x, case.weight, case.b, *case.masks()), expected, case.k)
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        y = OPS.linear(case.x, case.weight, case.b, *case.masks())
    finally:
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    assert_close(y, expected, case.k, tf32=True)
    assert (y.double() - expected).norm() > 1e-5 * expected.norm()
