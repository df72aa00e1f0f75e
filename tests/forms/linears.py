"""How a linear is written."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .form import BOTH, IN, OUT, Form, K, N, P, form


@form(("C", OUT))
def conv1d_output(m: Form, x: Tensor) -> Tensor:
    y = torch.addmm(m.b, x.view(-1, K), m.v).view(*x.shape[:-1], N)
    return F.dropout(y, P) + 1


@form(("A", IN))
def conv1d_input(m: Form, x: Tensor) -> Tensor:
    return torch.addmm(m.b, F.dropout(x.sin(), P).view(-1, K), m.v)


@form(("B", BOTH))
def conv1d_mlp(m: Form, x: Tensor) -> Tensor:
    y = F.gelu(torch.addmm(m.b, x.view(-1, K), m.v).view(*x.shape[:-1], N))
    return torch.addmm(m.c, F.dropout(y, P).view(-1, N), m.w)


@form(("G", None))
def scaled_addmm_is_no_linear(m: Form, x: Tensor) -> Tensor:
    return torch.addmm(m.b, F.dropout(x.sin(), P).view(-1, K), m.v, alpha=2)


@form(("A", IN))
def falcon(m: Form, x: Tensor) -> Tensor:
    return F.dropout(x.sin(), P) @ m.w.T + m.b


@form(("C", OUT))
def falcon_output(m: Form, x: Tensor) -> Tensor:
    return F.dropout(m.b + x @ m.w.t(), P) + 1


@form(("C", OUT))
def matmul_without_bias(m: Form, x: Tensor) -> Tensor:
    return F.dropout(torch.matmul(x, m.v), P) + 1


@form(("A", IN))
def einsum_input(m: Form, x: Tensor) -> Tensor:
    return torch.einsum("ibh,hnd->ibnd", F.dropout(x.sin(), P), m.heads)


@form(("C", OUT))
def einsum_output(m: Form, x: Tensor) -> Tensor:
    heads = x[..., :48].unflatten(-1, (3, 16))
    return F.dropout(torch.einsum("ibnd,hnd->ibh", heads, m.heads), P) + 1


@form(("A", IN))
def einsum_of_any_rows(m: Form, x: Tensor) -> Tensor:
    return torch.einsum("...h,hn->...n", F.dropout(x.sin(), P), m.v)


@form(("C", OUT))
def einsum_of_any_rows_output(m: Form, x: Tensor) -> Tensor:
    return F.dropout(torch.einsum("i...h,nh->i...n", x, m.w), P) + 1


@form(("G", None))
def einsum_of_many_weights(m: Form, x: Tensor) -> Tensor:
    return torch.einsum("ibh,...hn->ib...n", F.dropout(x.sin(), P), m.v)


@form(("A", IN))
def weight_norm_linear(m: Form, x: Tensor) -> Tensor:
    return m.normed(F.dropout(x.sin(), P))


@form(("C", OUT))
def weight_norm_output(m: Form, x: Tensor) -> Tensor:
    return F.dropout(m.normed(x), P) + 1


@form(("G", None))
def dropout_is_its_own_weight(m: Form, x: Tensor) -> Tensor:
    d = F.dropout(x[0].sin(), P)
    return F.linear(d, d)


@form(("A", IN), ("G", None))
def dropout_is_another_ones_weight(m: Form, x: Tensor) -> Tensor:
    d, e = F.dropout(x[0].sin(), P), F.dropout(x[0].cos(), P)
    return F.linear(d, e, e[:, 0])


@form(("G", None))
def dropout_is_its_own_bias(m: Form, x: Tensor) -> Tensor:
    d = F.dropout(x[0, 0, :N].sin(), P)
    return F.linear(d, m.w.t()[:N, :N], d)


@form(("A", IN))
def cast_to_less_than_the_bias(m: Form, x: Tensor) -> Tensor:
    return (F.dropout(x.sin(), P).float() @ m.w.t().float()) + m.b


@form(("G", None))
def complex_linear(m: Form, x: Tensor) -> Tensor:
    return F.linear(F.dropout(F.linear(x.cfloat(), m.w.cfloat()).abs().double(), P).cfloat(), m.v.cfloat()).abs()


@form(("G", None))
def einsum_that_broadcasts(m: Form, x: Tensor) -> Tensor:
    return torch.einsum("bsk,nk->bsn", F.dropout(x.sin().mean(-1, keepdim=True), P), m.w)


@form(("A", IN))
def one_column_and_a_longer_bias(m: Form, x: Tensor) -> Tensor:
    return F.dropout(x.sin(), P) @ m.v[:, :1] + m.b


@form(("G", None))
def one_column_and_a_longer_bias_output(m: Form, x: Tensor) -> Tensor:
    return F.dropout(x @ m.v[:, :1] + m.b, P)
