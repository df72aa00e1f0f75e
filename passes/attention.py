"""`F.multi_head_attention_forward` hides its output projection. Where a dropout follows it, it is taken apart.

The attention is computed as it was, its own dropout untouched; only the last linear is told from the rest.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from .emit import Emitter, aten
from .forms import is_dead, is_dropout, op_name, operand_or, readers_of, value
from .sites import Linear

_ARGUMENTS = (
    "query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v",
    "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias", "training", "key_padding_mask", "need_weights",
    "attn_mask", "use_separate_proj_weight",
)  # fmt: skip


def match_output_projection(node: fx.Node) -> Linear | None:
    """The linear that ends in ``node``: attention's first result, or its only view, batch first."""
    result = node
    if op_name(node) == "transpose" and node.args[1:] in ((0, 1), (1, 0)) and isinstance(node.args[0], fx.Node):
        result = node.args[0]
    if result.target is not operator.getitem or result.args[1] != 0 or not isinstance(result.args[0], fx.Node):
        return None
    attention = result.args[0]
    if op_name(attention) != "multi_head_attention_forward" or not _plain(attention):
        return None
    followers = readers_of(result)
    if node is result and len(followers) == 1 and match_output_projection(followers[0]) is not None:
        return None
    if node is not result and followers != [node]:
        return None
    if not any(is_dropout(reader) and not is_dead(reader) for reader in readers_of(node)):
        return None
    given = arguments(attention)
    return Linear(node, given["query"], given["out_proj_weight"], given["out_proj_bias"], attention=attention)


def arguments(attention: fx.Node) -> dict[str, Any]:
    return {name: operand_or(attention, i, name, None) for i, name in enumerate(_ARGUMENTS)}


def _plain(attention: fx.Node) -> bool:
    given = arguments(attention)
    query = value(given["query"])
    weights_unused = given["need_weights"] is False and len(attention.users) == 1
    unusual = ("bias_k", "bias_v", "add_zero_attn", "use_separate_proj_weight")
    statics = any(attention.kwargs.get(name) is not None for name in ("static_k", "static_v"))
    batched = query is not None and query.dim() == 3
    return batched and weights_unused and not statics and not any(given[name] for name in unusual)


def emit_attention(emit: Emitter, linear: Linear) -> fx.Node:
    """What the output projection reads: (rows, batch, E), or batch first where the linear's result is."""
    attention = linear.attention
    assert attention is not None
    given = arguments(attention)
    query, key, source = given["query"], given["key"], given["value"]
    heads = given["num_heads"]
    if query is key and key is source:
        packed = emit.call(aten.linear.default, query, given["in_proj_weight"], given["in_proj_bias"])
        projected = _thirds(emit, packed, -1)
    else:
        weights = _thirds(emit, given["in_proj_weight"], 0)
        biases = [None] * 3 if given["in_proj_bias"] is None else _thirds(emit, given["in_proj_bias"], 0)
        operands = zip((query, key, source), weights, biases, strict=True)
        projected = [emit.call(aten.linear.default, *triple) for triple in operands]
    split = [_by_head(emit, part, heads) for part in projected]
    mask, causal = _mask(emit, attention, given, heads)
    p = 0.0 if given["training"] is False else given["dropout_p"]
    mixed = emit.call(aten.scaled_dot_product_attention.default, *split, mask, p, causal)
    order = [0, 2, 1, 3] if op_name(linear.node) == "transpose" else [2, 0, 1, 3]
    return emit.call(aten.flatten.using_ints, emit.call(aten.permute.default, mixed, order), 2)


def _thirds(emit: Emitter, node: fx.Node, dim: int) -> list[fx.Node]:
    chunks = emit.call(aten.chunk.default, node, 3, dim)
    return [emit.call(operator.getitem, chunks, i) for i in range(3)]


def _by_head(emit: Emitter, node: fx.Node, heads: int) -> fx.Node:
    """(rows, batch, E) as (batch, heads, rows, E / heads)."""
    tensor = value(node)
    assert tensor is not None
    split = emit.call(aten.unflatten.int, node, -1, [heads, tensor.shape[-1] // heads])
    return emit.call(aten.permute.default, split, [1, 2, 0, 3])


def _mask(emit: Emitter, attention: fx.Node, given: dict[str, Any], heads: int) -> tuple[fx.Node | None, bool]:
    padding, mask = given["key_padding_mask"], given["attn_mask"]
    causal = attention.kwargs.get("is_causal", False) is True and padding is None
    if causal:
        return None, True
    query = given["query"]
    mask, padding = (_additive(emit, part, query) for part in (mask, padding))
    tensor = value(mask)
    if tensor is not None and tensor.dim() == 3:
        mask = emit.call(aten.unflatten.int, mask, 0, [-1, 1 if tensor.shape[0] == 1 else heads])
    if padding is not None:
        padding = emit.call(aten.unsqueeze.default, emit.call(aten.unsqueeze.default, padding, 1), 2)
        mask = padding if mask is None else emit.call(aten.add.Tensor, mask, padding)
    return mask, False


def _additive(emit: Emitter, mask: fx.Node | None, query: fx.Node) -> fx.Node | None:
    """A bool mask (True: do not look) as numbers to add."""
    found, like = value(mask), value(query)
    if found is None or like is None or found.dtype != torch.bool:
        return mask
    zeros = emit.call(aten.zeros_like.default, mask, dtype=like.dtype)
    return emit.call(aten.masked_fill.Scalar, zeros, mask, float("-inf"))
