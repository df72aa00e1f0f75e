"""The compiled CPU kernels: every instruction set that runs here, against float64 at the error rounding explains."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import BLOCKS, DTYPES, LAYOUTS, assert_explained, lay_out

from torch_sparsedrop.ops import REVISION, packing
from torch_sparsedrop.ops.checks import grid_of
from torch_sparsedrop.ops.layout import layout
from torch_sparsedrop.providers import cpu

pytestmark = pytest.mark.skipif(cpu.missing is not None, reason=f"no compiled kernels: {cpu.missing}")

ops = torch.ops.sparsedrop
ABSENT = (None, None, [])


class Mask:
    """A plan, a scale and a block as the ops take them, and the same mask over elements."""

    def __init__(self, rows, cols, block, p, balanced=False):
        grid = grid_of(rows, cols, block)
        keep, plan, scale = ops.draw(torch.rand(grid[0], grid[1] + balanced), torch.tensor(p), balanced)
        self.arguments = (plan, scale, list(block))
        self.dense = packing.spread(keep, rows, cols, block)
        self.scale = scale.double()


class Free:
    """No mask."""

    arguments, scale = ABSENT, 1.0

    def __init__(self, rows, cols):
        self.dense = torch.ones(rows, cols, dtype=torch.bool)


@st.composite
def cases(draw, largest=300):
    m, n, k = (draw(st.one_of(st.integers(0, 40), st.integers(0, largest))) for _ in range(3))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    dtype, sides = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(["in", "out", "both", "none"]))
    bm, bk, bn = (draw(st.sampled_from(BLOCKS)) for _ in range(3))
    p, balanced = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0])), draw(st.booleans())
    into = Mask(m, k, (bm, bk), p, balanced) if sides in ("in", "both") else Free(m, k)
    out = Mask(m, n, (bm, bn), p, balanced) if sides in ("out", "both") else Free(m, n)
    x, weight, grad = (lay_out(shape, draw(st.sampled_from(LAYOUTS)), dtype) for shape in ((m, k), (n, k), (m, n)))
    bias = lay_out((n,), draw(st.sampled_from(["contiguous", "strided"])), dtype) if draw(st.booleans()) else None
    return x, weight, bias, grad, into, out


def poisoned(tensor, mask, value):
    """Dropped elements hold ``value``, in the memory layout that the tensor had."""
    if 0 in tensor.stride():
        return tensor
    changed = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return changed.copy_(torch.where(mask, tensor, value))


def check_all(case):
    x, weight, bias, grad, into, out = case
    m, k, n = *x.shape, weight.shape[0]
    masks, exchanged = (*into.arguments, *out.arguments), (*out.arguments, *into.arguments)
    kept_x, kept_grad = (torch.where(mask.dense, t, 0).double() for mask, t in ((into, x), (out, grad)))
    wide, added = weight.double(), (torch.zeros(n) if bias is None else bias).double()
    bad_x, bad_grad = poisoned(x, into.dense, float("nan")), poisoned(grad, out.dense, float("inf"))
    scale = into.scale * out.scale

    def product(a, b, c):
        return torch.where(out.dense, out.scale * (into.scale * (a @ b.t()) + c), 0)

    y = ops.linear(bad_x, weight, bias, *masks, REVISION)
    assert_explained(y, product(kept_x, wide, added), product(kept_x.abs(), wide.abs(), added.abs()), k)
    assert not torch.signbit(y[~out.dense]).any()

    dx = ops.linear(bad_grad, weight.t(), None, *exchanged, REVISION)
    expected, magnitude = kept_grad @ wide, kept_grad.abs() @ wide.abs()
    assert_explained(dx, scale * torch.where(into.dense, expected, 0), scale * magnitude, n)

    dw = ops.weight_grad(bad_grad, bad_x, *masks, REVISION)
    assert_explained(dw, scale * (kept_grad.t() @ kept_x), scale * (kept_grad.abs().t() @ kept_x.abs()), m)

    db = ops.weight_grad(bad_grad, None, *ABSENT, *out.arguments, REVISION)
    assert_explained(db[:, 0], out.scale * kept_grad.sum(0), out.scale * kept_grad.abs().sum(0), m)

    for result, shape in ((y, (m, n)), (dx, (m, k)), (dw, (n, k)), (db, (n, 1))):
        assert result.shape == shape
        assert result.is_contiguous()
        assert result.dtype == x.dtype


@given(cases())
def test_ops(case):
    check_all(case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_longer_than_a_chunk(dtype):
    """More kept steps, columns and rows than the kernels take at a time."""
    m, n, k = 300, 2100, 1500
    into, out = Mask(m, k, (130, 48), 0.2), Mask(m, n, (130, 80), 0.2)
    x, weight, grad = (torch.randn(shape).to(dtype) for shape in ((m, k), (n, k), (m, n)))
    check_all((x, weight, torch.randn(n).to(dtype), grad, into, out))


ISAS = cpu.instruction_sets().get("supported", [])


@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa != cpu.instruction_sets().get("chosen")])
def test_other_instruction_sets(isa):
    """The choice is made once in a process, so each other one gets a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "SPARSEDROP_CPU_ISA": isa}
    chosen = [
        f"{__file__}::{name}"
        for name in ("test_ops", "test_sums_longer_than_a_chunk", "test_threads_agree", "test_a_column_of_ones")
    ]
    done = subprocess.run([*command[:-1], *chosen], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_threads_agree(dtype):
    m, n, k, before = 400, 1300, 700, torch.get_num_threads()
    into, out = Mask(m, k, (64, 96), 0.5), Mask(m, n, (64, 128), 0.5)
    x, weight, grad = (torch.randn(shape).to(dtype) for shape in ((m, k), (n, k), (m, n)))
    masks = (*into.arguments, *out.arguments, REVISION)
    try:
        results = []
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            db = ops.weight_grad(grad, None, *ABSENT, *out.arguments, REVISION)
            results.append((ops.linear(x, weight, None, *masks), ops.weight_grad(grad, x, *masks), db))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_column_of_ones(dtype, masked, transposed):
    """Without x, also where columns lie along memory."""
    m, n = 300, 1000
    out, grad = Mask(m, n, (48, 160), 0.4), torch.randn(m, n).to(dtype)
    given = grad.t().contiguous().t() if transposed else grad
    result = ops.weight_grad(given, None, *ABSENT, *(out.arguments if masked else ABSENT), REVISION)
    kept = out.scale * torch.where(out.dense, grad.double(), 0) if masked else grad.double()
    assert_explained(result[:, 0], kept.sum(0), kept.abs().sum(0), m)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sides", ["in", "out", "both"])
def test_nothing_beyond_the_operands_is_read(dtype, sides):
    """Operands end where poisoned memory begins, on all sides."""
    m, n, k = 71, 85, 99

    def framed(rows, cols):
        frame = torch.full((rows + 40, cols + 40), float("nan"), dtype=dtype)
        frame[20 : 20 + rows, 20 : 20 + cols] = torch.randn(rows, cols)
        return frame[20 : 20 + rows, 20 : 20 + cols]

    into = Mask(m, k, (32, 33), 0.4) if sides != "out" else Free(m, k)
    out = Mask(m, n, (32, 17), 0.4) if sides != "in" else Free(m, n)
    check_all((framed(m, k), framed(n, k), torch.randn(n).to(dtype), framed(m, n), into, out))
    check_all((framed(k, m).t(), framed(k, n).t(), None, framed(n, m).t(), into, out))


@given(st.integers(0, 70), st.integers(0, 140), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.booleans())
def test_plan_is_the_same_as_in_plain_pytorch(rows, cols, p, strided):
    keep = torch.rand(rows, cols) >= p
    if strided:
        keep = torch.stack([keep, ~keep], dim=2).transpose(0, 1)[..., 0].t()
    assert torch.equal(ops.plan(keep), packing.pack(keep))


@given(st.integers(0, 20), st.integers(0, 70), st.floats(0, 1, width=32), st.booleans(), st.integers(0, 2**31))
def test_draw_is_the_same_as_in_plain_pytorch(rows, cols, p, balanced, seed):
    torch.manual_seed(seed)
    # Few distinct numbers, so that ties occur.
    uniform = (torch.rand(rows, cols + balanced) * 16).floor() / 16
    drawn, expected = ops.draw(uniform, torch.tensor(p), balanced), packing.draw(uniform, torch.tensor(p), balanced)
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))
    keep, plan, scale = ops.draw(packing.flat(uniform), torch.tensor(p), balanced, [rows, cols])
    assert torch.equal(keep, packing.flat(expected[0]))
    assert torch.equal(plan, expected[1])
    assert torch.equal(scale, expected[2])
    assert torch.equal(ops.plan(keep, [rows, cols]), plan)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("p", [float("nan"), -1.0, 2.0, float("inf")])
def test_draw_survives_any_probability(p, balanced):
    uniform = torch.tensor([[0.1, float("nan"), 0.3, 0.2], [float("inf"), 0.5, -1.0, 0.9]])
    keep, plan, scale = ops.draw(uniform, torch.tensor(p), balanced)
    assert torch.equal(plan, packing.pack(keep))
    assert scale.isfinite()


@settings(max_examples=30)
@given(st.integers(0, 2**31))
def test_a_forged_plan_cannot_lead_astray(seed):
    """Any contents of a plan of the right size mean some mask; nothing outside is read or left unwritten."""
    torch.manual_seed(seed)
    m, n, k, block = 50, 40, 70, [16, 16]

    def forged(rows, cols):
        size = layout(*grid_of(rows, cols, block)).size
        return torch.randint(-(2**31), 2**31, (size,), dtype=torch.int32), torch.ones(()), block

    masks = (*forged(m, k), *forged(m, n), REVISION)
    x, weight, grad = torch.ones(m, k), torch.ones(n, k), torch.ones(m, n)
    y, dw = ops.linear(x, weight, None, *masks), ops.weight_grad(grad, x, *masks)
    assert ((y >= 0) & (y <= k)).all()
    assert ((dw >= 0) & (dw <= m)).all()


def test_leading_dimensions_of_any_strides():
    m, k, n = (4, 6, 5), 40, 24
    x = torch.randn(6, 4, 5, k).transpose(0, 1)
    weight, mask = torch.randn(n, k), Mask(120, k, (16, 16), 0.5)
    y = ops.linear(x, weight, None, *mask.arguments, *ABSENT, REVISION)
    flat = ops.linear(x.reshape(120, k), weight, None, *mask.arguments, *ABSENT, REVISION)
    assert y.shape == (*m, n)
    assert torch.equal(y.reshape(120, n), flat)


def test_host_module_agrees_about_the_plan():
    from torch_sparsedrop import _host

    for grid in [(0, 0), (1, 1), (3, 70), (128, 64), (65, 129)]:
        assert _host.plan_layout(*grid) == tuple(layout(*grid))
