"""How a dropout is written, and what writes into its source or its result."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .form import BOTH, IN, OUT, Form, K, N, P, form


@form(("A", None))
def result_written_later(m: Form, x: Tensor) -> Tensor:
    d = F.dropout(x.sin(), P)
    d[:, 0] = 1.0
    return m.fc1(d)


@form(("A", None))
def source_written_later(m: Form, x: Tensor) -> Tensor:
    y = x.sin() * 1.0
    d = F.dropout(y, P)
    y.view(-1).add_(1)
    return m.fc1(d).sum() + y.sum()


@form(("A", None))
def result_written_through_another_view(m: Form, x: Tensor) -> Tensor:
    d = F.dropout(x.sin(), P)
    d.ravel().mul_(2)
    return m.fc1(d)


@form(("A", None))
def result_written_in_a_list(m: Form, x: Tensor) -> Tensor:
    d = F.dropout(x.sin(), P)
    torch._foreach_mul_([d], 2.0)
    return m.fc1(d)


@form(("A", None))
def result_written_as_an_out(m: Form, x: Tensor) -> Tensor:
    d = F.dropout(x.detach().sin(), P)
    torch.mul(d, 2, out=d)
    return m.fc1(d)


@form(("A", None))
def source_written_through_another_view(m: Form, x: Tensor) -> Tensor:
    y = x.sin() * 1.0
    d = F.dropout(y, P)
    torch.moveaxis(y, 0, 1)[0].add_(1)
    return m.fc1(d).sum() + y.sum()


@form(("B", BOTH), ("C", OUT))
def result_added_to(m: Form, x: Tensor) -> Tensor:
    d = F.dropout(m.fc2(F.dropout(F.relu(m.fc1(x)), P)), P)
    d += x
    d[:, 0] = 1.0
    return d


@form(("A", IN))
def module_call(m: Form, x: Tensor) -> Tensor:
    return m.fc1(F.dropout(x.sin(), P, True, False))


@form(("A", IN))
def keywords(m: Form, x: Tensor) -> Tensor:
    return F.linear(F.dropout(x.sin(), p=P, training=True), weight=m.w, bias=m.b)


@form(("A", IN), ("A", IN))
def defaults(m: Form, x: Tensor) -> Tensor:
    return F.linear(F.dropout(x.sin()), m.w) + F.linear(F.dropout(x.cos(), 0.3), m.w)


@form(("A", IN))
def torch_dropout(m: Form, x: Tensor) -> Tensor:
    return F.linear(torch.dropout(x.sin(), P, True), m.w, None)


@form(("A", IN))
def in_place(m: Form, x: Tensor) -> Tensor:
    y = x.sin()
    F.dropout(y, P, True, True)
    return m.fc1(y)


@form(("A", IN))
def torch_dropout_in_place(m: Form, x: Tensor) -> Tensor:
    return m.fc1(torch.dropout_(x.sin(), P, True))


@form(("A", None))
def in_place_seen_through_a_view(m: Form, x: Tensor) -> Tensor:
    y = x.sin()
    view = y.view(-1)
    return m.fc1(F.dropout(y, P, True, True)).sum() + view.sum()


@form(("A", None))
def in_place_seen_through_another_view(m: Form, x: Tensor) -> Tensor:
    y = x.sin()
    view = y.ravel()
    return m.fc1(F.dropout(y, P, True, True)).sum() + view.sum()


@form(("A", IN), ("A", IN))
def times_a_number(m: Form, x: Tensor) -> Tensor:
    return m.fc1(F.dropout(x.sin(), P) * 0.3) + m.fc1(2 * F.dropout(x.cos(), P).view(-1, K)).view(*x.shape[:-1], N)


@form(("A", IN))
def times_a_number_and_read_elsewhere(m: Form, x: Tensor) -> Tensor:
    y = F.dropout(x.sin(), P) * 0.3
    return m.fc1(y).sum() + y.exp().sum()


@form(("A", None))
def times_a_number_and_written_later(m: Form, x: Tensor) -> Tensor:
    d = F.dropout(x.sin(), P) * 0.3
    d[:, 0] = 1.0
    return m.fc1(d)


@form(("G", None))
def times_a_tensor(m: Form, x: Tensor) -> Tensor:
    return m.fc1(F.dropout(x.sin(), P) * m.c)
