"""Shapes and probabilities that change cost no more compiles than without the backend."""

from __future__ import annotations

from typing import Any

import nets
import pytest
import torch
from nets import OPTIONS, Counter, Net

pytestmark = pytest.mark.usefixtures("fresh_compiler")


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
@pytest.mark.parametrize("block", [16, 128], ids=["several columns of blocks", "one column of blocks"])
@pytest.mark.parametrize("network", ["Net", "Gated", "Residual"])
def test_changing_shapes_cost_no_more_compiles(dynamic: bool | None, inner: str, block: int, network: str) -> None:
    """Down to one block of rows, to one row, and up again."""
    sizes = [(8, 48), (8, 33), (3, 48), (5, 40), (2, 4), (2, 48), (1, 3), (1, 1), (8, 40)]
    counts: list[list[int]] = []
    for ours in (False, True):
        torch._dynamo.reset()
        counter = Counter()

        def inside(module: Any, inputs: Any, counter: Counter = counter) -> Any:
            counter.graphs.append("")
            return torch._dynamo.lookup_backend(inner)(module, inputs)

        backend: dict[str, Any] = {"backend": inside}
        if ours:
            backend = {"backend": "sparsedrop", "options": {**OPTIONS, "block": block, "inner": inside}}
        model = torch.compile(getattr(nets, network)(), dynamic=dynamic, **backend)
        counts.append([])
        for batch, length in sizes:
            model(torch.randn(batch, length, 64)).sum().backward()
            counts[-1].append(len(counter.graphs))
    assert counts[1] == counts[0]


def test_symbolic_grid() -> None:
    counter = Counter()
    model = torch.compile(Net(), backend="sparsedrop", dynamic=True, options={**OPTIONS, "inner": counter})
    for length in (33, 40, 64):
        y = model(torch.randn(8, length, 64))
        assert y.shape == (8, length, 64)
    assert len(counter.graphs) == 1
    assert "floordiv" in counter.graphs[0]


def test_schedule_of_p_compiles_as_often_as_without() -> None:
    """nn.Dropout.p as a graph input: a Node, not a number."""
    counts = []
    for ours in (False, True):
        torch._dynamo.reset()
        counter = Counter()
        net = Net()
        backend: dict[str, Any] = {"backend": counter}
        if ours:
            backend = {"backend": "sparsedrop", "options": {**OPTIONS, "inner": counter}}
        model = torch.compile(net, **backend)
        for p in (0.1, 0.2, 0.3, 0.4, 0.9):
            net.drop1.p = net.drop2.p = p
            y = model(torch.zeros(1024, 64) + 1) - 1
        counts.append(len(counter.graphs))
        if ours:
            assert "item" in counter.graphs[-1]
            dropped = (y == 0).float().mean().item()
            assert dropped == pytest.approx(0.9, abs=0.08)
    assert counts[1] <= counts[0]


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
def test_p_as_a_node_differentiates(inner: str) -> None:
    net = Net()
    model = torch.compile(net, backend="sparsedrop", options={**OPTIONS, "inner": inner})
    for p in (0.1, 0.2, 0.3):
        net.drop1.p = net.drop2.p = p
        model(torch.randn(64, 64)).sum().backward()
    assert net.fc1.weight.grad is not None
