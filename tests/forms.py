"""Every spelling of dropout beside a linear, and what is decided for each of its dropouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

K, N = 64, 48
P = 0.4


class Form(nn.Module):
    """Weights for a spelling, and the spelling."""

    def __init__(self, spell: Callable[[Form, Tensor], Any]) -> None:
        super().__init__()
        self.spell = spell
        self.w = nn.Parameter(torch.randn(N, K) / 8)
        self.v = nn.Parameter(torch.randn(K, N) / 8)
        self.b = nn.Parameter(torch.randn(N))
        self.c = nn.Parameter(torch.randn(K))
        self.fc1 = nn.Linear(K, N)
        self.fc2 = nn.Linear(N, K)
        self.wide = nn.Linear(K, 2 * N)
        self.normed = weight_norm(nn.Linear(K, N))
        self.heads = nn.Parameter(torch.randn(K, 3, 16) / 8)
        self.attention = nn.MultiheadAttention(K, 4, dropout=0.1, batch_first=True)
        self.norm = nn.LayerNorm(N)

    def forward(self, x: Tensor) -> Tensor:
        return self.spell(self, x)


FORMS: dict[str, tuple[Callable[[Form, Tensor], Any], list[tuple[str, str | None]]]] = {}


def form(*sites: tuple[str, str | None]) -> Any:
    def register(spell: Any) -> Any:
        FORMS[spell.__name__] = spell, list(sites)
        return spell

    return register


IN, OUT, BOTH = "drop_in", "drop_out", "drop_in+drop_out"


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


@form(("B", BOTH))
def gated(m: Form, x: Tensor) -> Tensor:
    return m.fc2(F.dropout(F.silu(F.linear(x, m.w)) * F.linear(x, m.v.t(), m.b), P))


@form(("B", BOTH))
def chunked_gate(m: Form, x: Tensor) -> Tensor:
    gate, up = m.wide(x).chunk(2, dim=-1)
    return m.fc2(F.dropout(F.gelu(gate) * up, P))


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


@form(("A", IN))
def cls_token(m: Form, x: Tensor) -> Tensor:
    return m.fc1(F.dropout(x[:, 0].sin(), P))


@form(("A", IN))
def one_row(m: Form, x: Tensor) -> Tensor:
    return m.fc1(F.dropout(x[0, 0].sin(), P))


@form(("A", IN))
def p_one(m: Form, x: Tensor) -> Tensor:
    return m.fc1(F.dropout(x.sin(), 1.0))
