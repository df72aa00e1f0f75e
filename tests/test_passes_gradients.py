"""Dropout beside `torch.no_grad()`: what has no gradient without this library has none with it."""

from __future__ import annotations

import pytest
import torch
from forms import Form, K, P
from torch import Tensor
from torch.nn import functional as F

import torch_sparsedrop as sparsedrop


def dropout_in_front(m: Form, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = F.dropout(x, P)
    return m.fc1(y)


def dropout_between(m: Form, x: Tensor) -> Tensor:
    y = F.relu(m.fc1(x))
    with torch.no_grad():
        y = F.dropout(y, P)
    return m.fc2(y)


def dropout_behind(m: Form, x: Tensor) -> Tensor:
    y = m.fc2(m.fc1(x))
    with torch.no_grad():
        target = F.dropout(y, P)
    return (x - target).square()


def dropout_in_inference_mode(m: Form, x: Tensor) -> Tensor:
    with torch.inference_mode():
        y = F.dropout(x, P)
    return m.fc1(y.clone())


def view_behind(m: Form, x: Tensor) -> Tensor:
    y = F.dropout(x, P)
    with torch.no_grad():
        y = y.view(-1, K)
    return m.fc1(y)


def factor_behind(m: Form, x: Tensor) -> Tensor:
    y = F.dropout(x, P)
    with torch.no_grad():
        y = y * 2
    return m.fc1(y)


def transposed_weight(m: Form, x: Tensor) -> Tensor:
    with torch.no_grad():
        w = m.w.t()
    return F.dropout(x, P) @ w


def product_without_its_bias(m: Form, x: Tensor) -> Tensor:
    y = F.dropout(x, P)
    with torch.no_grad():
        y = y @ m.v
    return y + m.b


def linear_beside_another(m: Form, x: Tensor) -> Tensor:
    y = F.dropout(x, P)
    with torch.no_grad():
        z = m.fc1(y)
    return F.linear(y, m.w) + z


def function_between(m: Form, x: Tensor) -> Tensor:
    y = m.fc1(x)
    with torch.no_grad():
        y = F.relu(y)
    return m.fc2(F.dropout(y, P))


def all_inside(m: Form, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.fc2(F.dropout(F.relu(m.fc1(x)), P))
    return m.fc1(x) + m.fc1(y)


SPELLINGS = {
    dropout_in_front: 0, dropout_between: 0, dropout_behind: 0, dropout_in_inference_mode: 0, view_behind: 0,
    factor_behind: 0, transposed_weight: 1, product_without_its_bias: 1, linear_beside_another: 1, function_between: 1,
    all_inside: 1,
}  # fmt: skip
"""How many of their dropouts are fused."""


def have_gradients(model: Form) -> dict[str, bool]:
    torch.manual_seed(0)
    x = torch.randn(3, 24, K, requires_grad=True)
    y = model(x)
    if y.requires_grad:
        y.sum().backward()
    return {name: tensor.grad is not None for name, tensor in (("x", x), *model.named_parameters())}


@pytest.mark.parametrize("spell", SPELLINGS, ids=lambda spell: spell.__name__)
def test_gradients_stop_where_they_did(spell) -> None:
    torch._dynamo.reset()
    expected = have_gradients(Form(spell))
    model = sparsedrop.convert(Form(spell), inner="aot_eager", select="all", block=16)
    assert have_gradients(model) == expected
    report = sparsedrop.explain(model, torch.randn(3, 24, K, requires_grad=True))
    assert report.totals["fused"] == SPELLINGS[spell], report


def test_all_of_a_model_without_gradients() -> None:
    """As for uncertainty by dropout in evaluation: nothing is left for the want of them."""
    torch._dynamo.reset()
    seen = []

    def inner(module, inputs):
        seen.append(str(module.graph))
        return module.forward

    model = sparsedrop.convert(Form(lambda m, x: m.fc1(F.dropout(x, P))), inner=inner, select="all", block=16)
    with torch.no_grad():
        model(torch.randn(3, 24, K, requires_grad=True))
    assert "sparsedrop.linear" in seen[0]
