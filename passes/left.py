"""Dropouts that are never fused: one row each for `explain`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from .forms import known, op_name, operand_or, value
from .letter import ATTENTION
from .sites import Site


def attention_site(node: fx.Node, module: Callable[[fx.Node], str]) -> Site | None:
    """Attention with its own dropout: one row for `explain`, always left."""
    name = op_name(node)
    if node.op != "call_function" or name not in ATTENTION:
        return None
    if name == "scaled_dot_product_attention":
        p, tensor = operand_or(node, 4, "dropout_p", 0.0), value(node)
    else:
        p, found = operand_or(node, 10, "dropout_p", 0.0), node.meta.get("example_value")
        p = p if operand_or(node, 13, "training", True) is not False else 0.0
        tensor = found[0] if isinstance(found, tuple) else None
    if not isinstance(p, fx.Node) and p == 0:
        return None
    shape: tuple[Any, ...] = () if tensor is None else tuple(tensor.shape)
    return Site(node, module(node), "E", p, shape, "attention's own dropout is left alone")


def other_site(node: fx.Node, module: Callable[[fx.Node], str]) -> Site:
    tensor = value(node)
    shape = () if tensor is None else tuple(map(known, tensor.shape))
    p = operand_or(node, 1, "p", 0.5)
    return Site(node, module(node), "G", p, shape, f"{op_name(node)} is another kind of dropout and left alone")
