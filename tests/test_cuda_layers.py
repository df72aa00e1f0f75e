"""Layers on a GPU: their parts, the call that serves all but the first of a kind, and their masks' statistics."""

from __future__ import annotations

import pytest
import torch

import torch_sparsedrop as sparsedrop
from torch_sparsedrop.ops import layer as layer_op

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

from torch_sparsedrop.providers import cuda
from torch_sparsedrop.providers.cuda import matmul
from torch_sparsedrop.providers.cuda.ready import NATIVE
from torch_sparsedrop.providers.triton import plan

pytestmark = pytest.mark.gpu
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@pytest.mark.parametrize("leading", [(4096,), (8, 512), ()])
def test_a_layer_sums_the_gradient_of_its_bias(leading):
    """Without a mask over the output too; a gradient without rows is the sum itself."""
    layer = sparsedrop.nn.DropoutLinear(256, 384, p=0.5, device="cuda")
    x, grad = torch.randn(*leading, 256, device="cuda"), torch.randn(*leading, 384, device="cuda")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        layer(x).backward(grad)
    expected = grad.double().reshape(-1, 384)
    error = (layer.bias.grad - expected.sum(0)).abs().max()
    assert error <= (torch.finfo(torch.float32).eps + 1e-6) * expected.abs().sum(0).max()
    assert any(event.name == "sum_rows" for event in profile.events()) == bool(leading)


@pytest.mark.skipif(not NATIVE, reason="the native part was not built")
@pytest.mark.parametrize("p", [0.3, 1.0, torch.tensor(0.3)], ids=str)
@pytest.mark.parametrize("kind", ["bernoulli", "balanced"])
@pytest.mark.parametrize("which", ["in", "out"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_layer_equals_its_parts(dtype, which, kind, p, monkeypatch):
    """One call of the op does what its parts do, from the first call on."""
    calls = []
    op = layer_op._OP
    monkeypatch.setattr(layer_op, "_OP", lambda *arguments: (calls.append(1), op(*arguments))[1])
    function = sparsedrop.dropout_linear if which == "in" else sparsedrop.linear_dropout
    p = p.cuda() if isinstance(p, torch.Tensor) else p
    shapes = (520, 640), (768, 640), (768,)
    leaves = [torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True) for shape in shapes]

    def parts():
        mask = sparsedrop.BlockMask.draw(520, 640 if which == "in" else 768, p, kind=kind, device="cuda")
        return sparsedrop.linear(*leaves, **{f"drop_{which}": mask})

    found = []
    for call in (lambda: function(*leaves, p, kind=kind), lambda: function(*leaves, p, kind=kind), parts):
        torch.manual_seed(5)
        y = call()
        found.append((y, *torch.autograd.grad(y, leaves, y.detach()), torch.rand(4, device="cuda")))
    assert len(calls) == 2
    for one, again, by_parts in zip(*found, strict=True):
        assert torch.equal(one, again)
        assert torch.equal(one, by_parts)


@pytest.mark.skipif(not NATIVE, reason="the native part was not built")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("number", [False, True], ids=["tensor", "number"])
@pytest.mark.parametrize("wanted", ["hopper", "triton"])
@pytest.mark.parametrize("which", ["in", "out"])
def test_python_serves_only_the_first_call_of_a_kind(which, wanted, number, dtype, monkeypatch):
    monkeypatch.setenv("SPARSEDROP_GPU", wanted)
    matmul.forget()
    served = []
    for name, kernel in (
        ("draw", plan.serve_draw),
        ("linear", matmul.serve_linear),
        ("weight_grad", matmul.serve_weight_grad),
    ):
        monkeypatch.setitem(
            cuda._kernels, name, lambda *args, name=name, kernel=kernel: (served.append(name), kernel(*args))[1]
        )
    function = sparsedrop.dropout_linear if which == "in" else sparsedrop.linear_dropout
    sides = 384, 520, 640
    found = []
    for m in (*sides[:2], *sides[:2]):
        torch.manual_seed(m)
        operands = [torch.randn(shape, device="cuda", dtype=dtype) for shape in ((m, 640), (768, 640), (768,))]
        leaves = [tensor.requires_grad_() for tensor in operands]
        p = 0.5 if number else torch.tensor(0.5, device="cuda")
        y = function(*leaves, p)
        found.append((y, *torch.autograd.grad(y, leaves, y.detach())))
    kinds = ["draw", "linear", "weight_grad"]
    assert sorted(set(served)) == kinds
    assert all(served.count(name) <= 2 * (1 if name == "draw" else 2) for name in kinds), served
    for one, again in zip(found[:2], found[2:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["bernoulli", "balanced"])
def test_mask_statistics(kind, compiled):
    """Every block is dropped as often as every other, independently of other layers and steps."""
    torch.manual_seed(0)
    rows, cols, p, steps = 24, 20, 0.3, 1500

    def two_layers():
        masks = [sparsedrop.BlockMask.draw(rows * 128, cols * 128, p, kind=kind, device="cuda").keep for _ in range(2)]
        return torch.stack(masks)

    draw = torch.compile(two_layers) if compiled else two_layers
    keep = torch.stack([draw() for _ in range(steps)]).double()
    spread = (p * (1 - p) / steps) ** 0.5
    assert (keep.mean(0) - (1 - p)).abs().max() < 5.5 * spread
    assert abs(float(keep.mean()) - (1 - p)) < 5 * spread / (2 * rows * cols) ** 0.5
    if kind == "balanced":
        assert (keep.sum(-1) == cols * (1 - p)).all()
    first, second = keep[:, 0].flatten(1), keep[:, 1].flatten(1)
    for one, other in ((first, second), (first[1:], first[:-1])):
        correlation = ((one - (1 - p)) * (other - (1 - p))).mean(0) / (p * (1 - p))
        assert correlation.abs().max() < 5.5 / steps**0.5
