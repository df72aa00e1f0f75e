"""CUDA graphs, captured by hand and by `torch.compile`: every replay has masks of its own."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import Case, assert_close
from torch import nn

import torch_sparsedrop as sparsedrop

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

from torch_sparsedrop.providers.cuda.ready import NATIVE

pytestmark = pytest.mark.gpu
OPS = torch.ops.sparsedrop


@pytest.mark.skipif(not NATIVE, reason="the native part was not built")
@pytest.mark.parametrize("p", [0.5, torch.tensor(0.5)], ids=["number", "tensor"])
def test_a_captured_layer_draws_fresh_masks(p):
    p = p.cuda() if isinstance(p, torch.Tensor) else p
    x = torch.randn(1024, 1024, device="cuda", dtype=torch.bfloat16)
    weight = torch.eye(1024, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        sparsedrop.dropout_linear(x, weight, None, p)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = sparsedrop.dropout_linear(x, weight, None, p)
    runs = []
    for _ in range(2):
        torch.manual_seed(11)
        made = []
        for _ in range(6):
            graph.replay()
            made.append(y.clone())
        runs.append(made)
    assert all(torch.equal(one, again) for one, again in zip(*runs, strict=True))
    assert not any(torch.equal(one, after) for one, after in zip(runs[0], runs[0][1:], strict=False))
    for one in runs[0]:
        kept = one != 0
        assert torch.equal(one, torch.where(kept, 2 * x, 0))
        assert 0.15 < float(kept.float().mean()) < 0.85


def test_graph_captured_by_hand():
    case = Case(512, 512, 512, torch.bfloat16, "cuda", block_in=None)
    uniform, p = torch.empty(4, 4, device="cuda"), torch.tensor(0.5, device="cuda")

    def step():
        keep, plan, scale = OPS.draw(uniform.uniform_(), p, False)
        return keep, scale, OPS.linear(case.x, case.weight, None, plan, scale, [128, 128], None, None, [], 0)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        keep, scale, y = step()
    seen = set()
    for _ in range(8):
        graph.replay()
        mask = sparsedrop.BlockMask.from_keep(keep.clone(), 512, 512, block=128, scale=scale.clone())
        expected = sparsedrop.reference.linear(case.x.double(), case.weight.double(), drop_in=mask)
        assert_close(y, expected, case.k)
        seen.add(tuple(keep.flatten().tolist()))
    assert len(seen) > 4


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_compiled_graphs_draw_fresh_masks(mode):
    torch._dynamo.reset()
    layer = sparsedrop.nn.DropoutLinear(1024, 64, bias=False, p=0.5, device="cuda", dtype=torch.bfloat16)
    x = torch.ones(1024, 1024, device="cuda", dtype=torch.bfloat16)
    compiled = torch.compile(layer, mode=mode)

    def steps(seed):
        torch.manual_seed(seed)
        found = []
        for _ in range(6):
            layer.weight.grad = None
            y = compiled(x)
            y.float().sum().backward()
            found.append((y.detach().clone(), layer.weight.grad.clone()))
        return found

    steps(1)
    first, again, other = steps(2), steps(2), steps(3)
    for (y, dw), (y_again, dw_again) in zip(first, again, strict=True):
        assert torch.equal(y, y_again)
        assert torch.equal(dw, dw_again)
    assert not torch.equal(first[0][0], other[0][0])
    for i in range(5):
        assert not torch.equal(first[i][0], first[i + 1][0])


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("function", [nn.GELU, nn.ReLU])
def test_models_draw_fresh_masks(mode, function):
    """The pass draws three masks at once, and its op computes what lies between two linears."""
    torch._dynamo.reset()
    layers = [(nn.Linear(512, 1024), function(), nn.Dropout(0.5), nn.Linear(1024, 512)) for _ in range(3)]
    model = nn.Sequential(*[module for layer in layers for module in layer]).to("cuda", torch.bfloat16)
    x = torch.randn(1024, 512, device="cuda", dtype=torch.bfloat16)
    compiled = torch.compile(model, backend="sparsedrop", options={"select": "all", "mode": mode})

    def steps(seed):
        torch.manual_seed(seed)
        found = []
        for _ in range(5):
            model.zero_grad()
            y = compiled(x)
            y.float().square().sum().backward()
            found.append([y.detach().clone(), *(p.grad.clone() for p in model.parameters())])
        return found

    steps(1)
    first, again, other = steps(2), steps(2), steps(3)
    for tensors, tensors_again in zip(first, again, strict=True):
        assert all(map(torch.equal, tensors, tensors_again))
        assert all(tensor.isfinite().all() and tensor.any() for tensor in tensors)
    for tensors, tensors_after in zip(first, [*first[1:], other[0]], strict=True):
        assert not any(map(torch.equal, tensors, tensors_after))
