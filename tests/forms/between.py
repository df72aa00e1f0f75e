"""What lies between the producing linears and the dropout, and who else reads it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .form import BOTH, IN, OUT, Form, K, N, P, form


@form(("B", BOTH))
def cast_between(m: Form, x: Tensor) -> Tensor:
    return m.fc2(F.dropout(F.relu(m.fc1(x)), P).to(torch.float64))


@form(("C", OUT))
def cast_before(m: Form, x: Tensor) -> Tensor:
    return F.dropout(m.fc1(x).float(), P) + 1


@form(("B", BOTH))
def in_place_activation(m: Form, x: Tensor) -> Tensor:
    return m.fc2(F.dropout(F.relu(m.fc1(x), inplace=True), P, True, True))


@form(("B", BOTH), ("C", OUT))
def both_sides(m: Form, x: Tensor) -> Tensor:
    return x + F.dropout(m.fc2(F.dropout(F.gelu(m.fc1(x)), P)), P)


@form(("B", BOTH))
def identity_between(m: Form, x: Tensor) -> Tensor:
    return m.fc2(F.dropout(m.fc1(x), P))


@form(("B", BOTH))
def gelu_new(m: Form, x: Tensor) -> Tensor:
    y = m.fc1(x)
    y = 0.5 * y * (1.0 + torch.tanh(0.79788456 * (y + 0.044715 * torch.pow(y, 3.0))))
    return m.fc2(F.dropout(y, P))


@form(("B", IN), ("B", IN))
def infinite_slope_at_zero(m: Form, x: Tensor) -> Tensor:
    """A zero would send NaN to the factor: 0 (the dropout's gradient) times ∞."""
    y = F.linear(x, m.w).abs() * m.b.abs()
    z = m.fc1(x).abs() * m.b.abs()
    return m.fc2(F.dropout(y.sqrt(), P)) + m.fc2(F.dropout(z**0.5, P))


@form(("G", None))
def bits_read_as_other_numbers(m: Form, x: Tensor) -> Tensor:
    y = F.dropout(x.detach().half(), P).view(torch.bfloat16)
    return F.linear(y, m.w.bfloat16()).double()


@form(("B", BOTH))
def gated(m: Form, x: Tensor) -> Tensor:
    return m.fc2(F.dropout(F.silu(F.linear(x, m.w)) * F.linear(x, m.v.t(), m.b), P))


@form(("B", BOTH))
def chunked_gate(m: Form, x: Tensor) -> Tensor:
    gate, up = m.wide(x).chunk(2, dim=-1)
    return m.fc2(F.dropout(F.gelu(gate) * up, P))


@form(("C", OUT))
def added_chunks(m: Form, x: Tensor) -> Tensor:
    one, other = m.wide(x).chunk(2, dim=-1)
    return F.dropout(one + other, P)


@form(("B", BOTH))
def sigmoid_gate(m: Form, x: Tensor) -> Tensor:
    value, gate = m.wide(x).split(N, -1)
    return m.fc2(F.dropout(value * torch.sigmoid(gate), P))


@form(("B", BOTH))
def gated_by_glu(m: Form, x: Tensor) -> Tensor:
    return m.fc2(F.dropout(F.glu(m.wide(x)), P))


@form(("A", IN))
def glu_along_the_rows(m: Form, x: Tensor) -> Tensor:
    y = F.glu(torch.cat((m.fc1(x), m.fc1(x))), dim=0)
    return m.fc2(F.dropout(y, P))


@form(("B", IN))
def sigmoid_loses_zeros(m: Form, x: Tensor) -> Tensor:
    return m.fc2(F.dropout(torch.sigmoid(m.fc1(x)), P))


@form(("B", IN))
def added_constant_loses_zeros(m: Form, x: Tensor) -> Tensor:
    return m.fc2(F.dropout(F.relu(m.fc1(x)) + 1.0, P))


@form(("A", IN))
def norm_ends_the_region(m: Form, x: Tensor) -> Tensor:
    return m.fc2(F.dropout(m.norm(m.fc1(x)), P))


@form(("B", IN))
def activation_with_an_outside_reader(m: Form, x: Tensor) -> Any:
    y = F.relu(m.fc1(x))
    return m.fc2(F.dropout(y, P)).sum() + y.sum()


@form(("B", IN))
def linear_with_an_outside_reader(m: Form, x: Tensor) -> Any:
    y = m.fc1(x)
    return m.fc2(F.dropout(F.relu(y), P)).sum() + y.exp().sum()


@form(("B", BOTH))
def one_branch_read_outside(m: Form, x: Tensor) -> Any:
    up = F.linear(x, m.w)
    return m.fc2(F.dropout(F.relu(m.fc1(x)) * up, P)).sum() + up.sum()


@form(("A", IN))
def shared_by_linears_and_a_residual(m: Form, x: Tensor) -> Tensor:
    d = F.dropout(x.sin(), P)
    return F.linear(d, m.w).sum() + F.linear(d, m.w, m.b).cos().sum() + (d + x).square().sum()


@form(("A", IN))
def read_as_a_view_and_whole(m: Form, x: Tensor) -> Tensor:
    d = F.dropout(x.sin(), P)
    flat = d.reshape(-1, K)
    return m.fc1(flat).sum() + flat.exp().sum() + d.shape[0]


@form(("C", None))
def linear_read_twice(m: Form, x: Tensor) -> Tensor:
    y = m.fc1(x)
    return F.dropout(y, P) + y


@form(("C", OUT))
def sum_of_linears(m: Form, x: Tensor) -> Tensor:
    return F.dropout(m.fc1(x) + 0.5 * F.linear(x, m.w), P) + 1


@form(("C", OUT))
def layer_scale_after(m: Form, x: Tensor) -> Tensor:
    return m.b * F.dropout(m.fc1(x), P)
