"""Dropouts in attention and others that are left, and shapes at the edge."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .form import BOTH, IN, OUT, Form, P, form


@form(("D", None))
def attention_probabilities(m: Form, x: Tensor) -> Tensor:
    return F.dropout(torch.softmax(x @ x.transpose(1, 2), -1), P) @ x


@form(("E", None))
def attention_op(m: Form, x: Tensor) -> Tensor:
    q = x.unflatten(-1, (4, 16)).transpose(1, 2)
    return F.scaled_dot_product_attention(q, q, q, dropout_p=0.1)


@form(("E", None), ("C", OUT))
def multi_head_attention(m: Form, x: Tensor) -> Tensor:
    return x + F.dropout(m.attention(x, x, x, need_weights=False)[0], P)


@form(("E", None), ("C", OUT))
def cross_attention_with_masks(m: Form, x: Tensor) -> Tensor:
    padding = torch.zeros(x.shape[:2], dtype=torch.bool).index_fill(1, torch.tensor([3, 5]), True)
    allowed = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril().logical_not()
    y = m.attention(x, x.cos(), x.cos(), need_weights=False, key_padding_mask=padding, attn_mask=allowed)[0]
    return x + F.dropout(y, P)


@form(("E", None), ("G", None))
def attention_with_weights(m: Form, x: Tensor) -> Tensor:
    y, weights = m.attention(x, x, x)
    return (x + F.dropout(y, P)).sum() + weights.square().sum()


@form()
def dead(m: Form, x: Tensor) -> Tensor:
    return F.dropout(m.fc1(F.dropout(x, 0.5, False)), 0.0, True)


@form(("B", BOTH))
def dead_between(m: Form, x: Tensor) -> Tensor:
    y = F.dropout(F.relu(F.dropout(m.fc1(x), 0.0)), P)
    return m.fc2(F.dropout(y, 0.3, False))


@form(("G", None), ("G", None))
def live_feature_and_alpha(m: Form, x: Tensor) -> Tensor:
    return m.fc1(F.alpha_dropout(F.dropout1d(x, P), P, True))


@form()
def feature_and_alpha(m: Form, x: Tensor) -> Tensor:
    return m.fc1(F.alpha_dropout(F.dropout1d(x, 0.0, True), 0.0, True))


@form(("G", None))
def no_linear_near(m: Form, x: Tensor) -> Tensor:
    return F.dropout(x.sin(), P) + m.c


@form(("G", None))
def scaled_and_shifted(m: Form, x: Tensor) -> Tensor:
    return F.dropout(x * m.c + m.c, P)


@form(("F", None))
def positions(m: Form, x: Tensor) -> Tensor:
    return F.dropout(x.sin() + m.w[: x.shape[1]], P)


@form(("A", IN))
def cls_token(m: Form, x: Tensor) -> Tensor:
    return m.fc1(F.dropout(x[:, 0].sin(), P))


@form(("A", IN))
def one_row(m: Form, x: Tensor) -> Tensor:
    return m.fc1(F.dropout(x[0, 0].sin(), P))


@form(("A", IN))
def p_one(m: Form, x: Tensor) -> Tensor:
    return m.fc1(F.dropout(x.sin(), 1.0))
