"""Every spelling of dropout beside a linear: what is decided, and that it computes what dense masks would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracle import Twin, assert_close, gradients
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

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
@pytest.mark.parametrize("name", ["both_sides", "chunked_gate", "shared_by_linears_and_a_residual"])
def test_blocks_and_kinds(name: str, block: Any, kind: str) -> None:
    twin = run(name, block=block, kind=kind)
    assert all(site.fused for site in twin.sites)
    # 48 columns are no multiple of 32 or 128: a gate's second half would begin inside a block.
    expected = IN if name == "chunked_gate" and block != (32, 16) else FORMS[name][1][0][1]
    assert twin.sites[0].how == expected


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


def test_p_override_of_zero_removes() -> None:
    torch._dynamo.reset()
    model, x = Form(FORMS["both_sides"][0]), torch.randn(2, 24, K)
    twin = Twin(p=0.0)
    y = torch.compile(model, backend=twin)(x)
    assert [site.removed for site in twin.sites] == [True, True]
    assert torch.equal(y, x + model.fc2(F.gelu(model.fc1(x))))
