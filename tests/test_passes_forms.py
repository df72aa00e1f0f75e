"""Spellings of dropout beside a linear: what is decided, and that it computes what dense masks would."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from forms import BOTH, FORMS, IN, Form, K, N, P
from oracle import Twin, assert_close, gradients
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def run(name: str, **options: Any) -> Twin:
    spell, _ = FORMS[name]
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, x = Form(spell).double(), torch.randn(3, 24, K, dtype=torch.float64, requires_grad=True)
    twin = Twin(**options)
    compiled = torch.compile(model, backend=twin)
    losses, found = [], []
    for twin.dense in (False, True):
        torch.manual_seed(7)
        loss = compiled(x).square().sum()
        loss.backward()
        losses.append(loss)
        found.append(gradients(model) | {"x": x.grad})
        x.grad = None
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-9)
    found = [{key: grad for key, grad in grads.items() if grad is not None} for grads in found]
    assert_close(found[0], found[1], 1e-5 if "cast" in name else 1e-9)
    return twin


@pytest.mark.parametrize("name", FORMS)
def test_form(name: str) -> None:
    twin = run(name)
    assert [(site.letter, site.how) for site in twin.sites] == FORMS[name][1]
    assert all(site.reason for site in twin.sites)


@pytest.mark.parametrize("kind", ["bernoulli", "balanced"])
@pytest.mark.parametrize("block", [(16, 32), (32, 16), 128])
@pytest.mark.parametrize("name", ["both_sides", "chunked_gate", "gated_by_glu", "shared_by_linears_and_a_residual"])
def test_blocks_and_kinds(name: str, block: Any, kind: str) -> None:
    twin = run(name, block=block, kind=kind)
    assert all(site.fused for site in twin.sites)
    # 48 columns are no multiple of 32 or 128: a gate's second half would begin inside a block.
    expected = IN if name in ("chunked_gate", "gated_by_glu") and block != (32, 16) else FORMS[name][1][0][1]
    assert twin.sites[0].how == expected


@pytest.mark.parametrize("block", [(16, 32), 128])
def test_chunks_that_end_inside_a_block_are_left(block: Any) -> None:
    """Where no linear reads the dropout, which would take the mask instead."""
    (site,) = run("added_chunks", block=block).sites
    assert (site.letter, site.fused) == ("C", False)
    assert "width 48 is not a multiple of block[1]" in site.reason


def test_row_blocks_that_differ() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(K, N), nn.Linear(N, K)
            self.drop1, self.drop2 = nn.Dropout(P), nn.Dropout(P)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.drop2(self.fc2(self.drop1(F.gelu(self.fc1(x)))))

    torch._dynamo.reset()
    twin = Twin(block={"drop1": (32, 16), "drop2": (16, 16)})
    torch.compile(Net(), backend=twin)(torch.randn(64, K)).sum().backward()
    assert [site.how for site in twin.sites] == [BOTH, None]
    assert "row blocks 32 and 16" in twin.sites[1].reason


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_body(reentrant: bool) -> None:
    model = Form(FORMS["both_sides"][0])
    layer = Form(lambda m, x: checkpoint(model, x, use_reentrant=reentrant))
    torch._dynamo.reset()
    seen = []

    def inner(module: Any, inputs: Any) -> Any:
        from torch._dynamo.backends.debugging import aot_eager

        seen.extend(str(part.graph) for part in module.modules() if isinstance(part, torch.fx.GraphModule))
        return aot_eager(module, inputs)

    compiled = torch.compile(layer, backend="sparsedrop", options={"inner": inner, "select": "all", "block": 16})
    x = torch.randn(2, 24, K, requires_grad=True)
    compiled(x).square().sum().backward()
    assert sum(graph.count("sparsedrop.linear.default") for graph in seen) == 2
    # The recomputed mask is the first one: where the output is dropped, so is the gradient of fc2's bias.
    assert model.fc1.weight.grad is not None


def test_nan_in_dropped_blocks_stays_out() -> None:
    torch._dynamo.reset()
    model = Form(lambda m, x: m.fc1(F.dropout(x * 1.0, 1.0)))
    compiled = torch.compile(model, backend="sparsedrop", options={"inner": "eager", "select": "all", "block": 16})
    x = torch.full((32, K), float("nan"))
    torch.testing.assert_close(compiled(x), model.fc1.bias.expand(32, N))


@pytest.mark.parametrize("select", ["all", "profitable"])
def test_p_override_of_zero_removes(select: str) -> None:
    """Also what would be too small to gain."""
    torch._dynamo.reset()
    model, x = Form(FORMS["both_sides"][0]), torch.randn(2, 24, K)
    twin = Twin(p=0.0, select=select)
    y = torch.compile(model, backend=twin)(x)
    assert [site.removed for site in twin.sites] == [True, True]
    assert torch.equal(y, x + model.fc2(F.gelu(model.fc1(x))))
