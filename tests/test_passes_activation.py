"""Where the pass uses `sparsedrop::activate`, and that models stay the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from capture import capture
from oracle import Twin, assert_close, gradients
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F
from torch_sparsedrop.passes import SparseDropPass, activation
from torch_sparsedrop.passes.forms import op_name

from torch_sparsedrop.ops.functions import FUNCTIONS

OPS = torch.ops.sparsedrop


class Mlp(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor] = F.gelu, bias: bool = True) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 128, bias=bias), nn.Linear(128, 64)
        self.drop = nn.Dropout(0.4)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.drop(self.function(self.fc1(x))))


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    monkeypatch.setattr(activation, "DEVICES", frozenset({"cpu"}))


def functions_used(model: nn.Module, block: int = 32) -> list[str]:
    module = capture(model, torch.randn(40, 64))
    SparseDropPass(select="all", block=block)(module.graph)
    return [FUNCTIONS[node.args[2]].name for node in module.graph.nodes if node.target is OPS.activate.default]


@pytest.mark.usefixtures("everywhere")
def test_the_pass_uses_it_between_two_linears() -> None:
    assert functions_used(Mlp()) == ["gelu"]
    assert functions_used(Mlp(lambda x: F.gelu(x, approximate="tanh"))) == ["gelu_tanh"]
    assert functions_used(Mlp(nn.ReLU(inplace=True))) == ["relu"]
    assert functions_used(Mlp(F.silu)) == ["silu"]
    assert functions_used(Shared()) == ["gelu"]
    assert functions_used(Mlp(torch.tanh)) == []
    assert functions_used(Mlp(lambda x: F.relu(x) * 2)) == []


def test_only_on_devices_whose_kernels_skip() -> None:
    assert functions_used(Mlp()) == []


@pytest.mark.usefixtures("everywhere")
def test_small_blocks_stay_with_the_compiler() -> None:
    assert functions_used(Mlp(), block=16) == []


class Shared(Mlp):
    """The dropped tensor has another reader."""

    def forward(self, x: Tensor) -> Tensor:
        dropped = self.drop(self.function(self.fc1(x)))
        return self.fc2(dropped) + dropped[:, :64]


@pytest.mark.usefixtures("everywhere", "fresh_compiler")
@pytest.mark.parametrize("function", [F.gelu, nn.ReLU(inplace=True), F.silu])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [Mlp, Shared])
def test_a_model_equals_its_dense_twin(kind: type[Mlp], function: Any, bias: bool) -> None:
    torch.manual_seed(0)
    model, x = kind(function, bias), torch.randn(40, 64)
    twin = Twin(block=32)
    compiled = torch.compile(model, backend=twin)
    found = []
    for twin.dense in (False, True):
        torch.manual_seed(1)
        y = compiled(x)
        y.square().mean().backward()
        found.append((y.detach(), gradients(model)))
    torch.testing.assert_close(*(y for y, _ in found))
    assert_close(*(grads for _, grads in found), 1e-5)


@pytest.mark.usefixtures("everywhere", "fresh_compiler")
def test_under_autocast_and_inductor() -> None:
    model, x = Mlp(), torch.randn(40, 64)
    compiled = torch.compile(model, backend="sparsedrop", options={"select": "all", "block": 32})
    with torch.autocast("cpu", torch.bfloat16):
        y = compiled(x)
    y.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 and p.grad.any() for p in model.parameters())


class Widened(Mlp):
    """As Hugging Face's T5, whose second linear stays in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(self.function(self.fc1(x))).to(self.fc2.weight.dtype))


@pytest.mark.parametrize("autocast", [False, True])
def test_a_cast_that_autocast_takes_back_is_left_out(autocast: bool) -> None:
    model = Widened()
    if not autocast:
        model.fc1.bfloat16()
    x = torch.randn(40, 64, dtype=torch.float32 if autocast else torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        module = capture(model, x)
    SparseDropPass(select="all", block=32)(module.graph)
    first, second = (node for node in module.graph.nodes if node.target is OPS.linear.default)
    assert op_name(second.args[0]) == ("gelu" if autocast else "to")
    assert [node.meta["example_value"].dtype for node in (first, second)][autocast] == torch.bfloat16


@pytest.mark.usefixtures("everywhere", "fresh_compiler")
def test_batches_of_any_size_are_one_graph() -> None:
    model, counter = Mlp(), CompileCounterWithBackend("aot_eager")
    options = {"select": "all", "block": 32, "inner": counter}
    compiled = torch.compile(model, backend="sparsedrop", options=options, dynamic=True, fullgraph=True)
    counts = []
    for rows in (40, 16, 7, 129):
        compiled(torch.randn(rows, 64)).sum().backward()
        counts.append(counter.frame_count)
    assert counts == counts[:1] * 4
    nodes = [node for module in counter.graphs for node in module.graph.nodes]
    assert any(node.target is OPS.activate.default for node in nodes)
