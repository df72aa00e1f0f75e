"""Step one: every spelling of dropout and of a linear layer, brought to one form.

The graph changes in one harmless way: after an in-place call, readers of the operand read the call's
result, which is the same tensor. All else is a description of the graph as it stands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch._subclasses import FakeTensor

from .attention import match_output_projection
from .forms import (
    TRANSPOSES,
    dropout_arguments,
    is_dead,
    is_dropout,
    op_name,
    readers_of,
    same,
    value,
    writes_to,
)
from .gradients import mark, stops_gradient
from .sites import Dropout, Linear


@dataclass
class Normal:
    """A graph's live dropouts, in order, and its linears by the node that holds their result."""

    graph: fx.Graph
    dropouts: list[Dropout]
    linears: dict[fx.Node, Linear]
    dead: int
    transformed: set[fx.Node]
    """What runs under `torch.func.grad`, `vjp` or `jvp` inside the graph: no linear there is one of ours."""


def normalise(graph: fx.Graph) -> Normal:
    _rename_written(graph)
    mark(graph)
    dropouts, dead = [], 0
    for node in graph.nodes:
        if is_dropout(node):
            if is_dead(node):
                dead += 1
            else:
                dropouts.append(Dropout(node, dropout_arguments(node)[0], writes_to(node) is not None))
    transformed = _transformed(graph)
    linears = {
        node: linear for node in graph.nodes if node not in transformed and (linear := match_linear(node)) is not None
    }
    # A product whose bias is added by the next node is one linear, known by that node.
    for linear in list(linears.values()):
        if op_name(linear.node) == "add":
            for arg in linear.node.all_input_nodes:
                if arg in linears and linears[arg].x is linear.x:
                    del linears[arg]
    return Normal(graph, dropouts, linears, dead, transformed)


def _transformed(graph: fx.Graph) -> set[fx.Node]:
    """Nodes between a transform's beginning and its end. They differentiate ops in ways that ours have no rule for."""
    found, depth = set(), 0
    for node in graph.nodes:
        name = op_name(node)
        depth += (name in _TRANSFORMS_BEGIN) - (name in _TRANSFORMS_END)
        if depth > 0:
            found.add(node)
    return found


_TRANSFORMS_BEGIN = frozenset({"_grad_increment_nesting", "_jvp_increment_nesting"})
_TRANSFORMS_END = frozenset({"_grad_decrement_nesting", "_jvp_decrement_nesting"})


def _rename_written(graph: fx.Graph) -> None:
    position = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        written = writes_to(node)
        if written is not None:
            later = [user for user in written.users if position[user] > position[node]]
            for user in later:
                user.replace_input_with(written, node)


def match_linear(node: fx.Node) -> Linear | None:
    """The linear layer whose result ``node`` is."""
    if node.op not in ("call_function", "call_method") or value(node) is None:
        return None
    hidden = match_output_projection(node)
    if hidden is not None:
        return hidden
    matcher = _MATCHERS.get(op_name(node))
    found = None if matcher is None else matcher(node)
    if found is None or any(value(part) is None for part in (found.x, found.weight)):
        return None
    return found


_PLAIN = (torch.Tensor, nn.Parameter, FakeTensor)


def _match_linear(node: fx.Node) -> Linear | None:
    named = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs
    x, weight, bias = named["input"], named["weight"], named.get("bias")
    return _linear(node, x, weight, bias)


def _linear(node: fx.Node, x: object, weight: object, bias: object, transposed: bool = False) -> Linear | None:
    """A linear of those operands if they have a linear's shapes. A transposed view of the weight is looked through."""
    x_value, w_value, b_value = value(x), value(weight), value(bias)
    if x_value is None or w_value is None or w_value.dim() != 2 or x_value.dim() < 1:
        return None
    # A subclass (quantised, distributed) knows PyTorch's ops, not ours.
    if not all(tensor is None or type(tensor) in _PLAIN for tensor in (x_value, w_value, b_value)):
        return None
    if not x_value.is_floating_point() or not w_value.is_floating_point():
        return None
    # A longer bias spreads a product of one column.
    fits = b_value is not None and b_value.dim() == 1 and same(b_value.shape[0], w_value.shape[1 if transposed else 0])
    if bias is not None and not fits:
        return None
    assert isinstance(x, fx.Node)
    assert isinstance(weight, fx.Node)
    base = _transposed_of(weight)
    if base is not None:
        weight, transposed = base, not transposed
    return Linear(node, x, weight, bias if isinstance(bias, fx.Node) else None, transposed)


def _transposed_of(node: fx.Node) -> fx.Node | None:
    base = node.args[0] if node.args and op_name(node) in TRANSPOSES and not stops_gradient(node) else None
    base_value, node_value = value(base), value(node)
    if base_value is None or node_value is None or base_value.dim() != 2:
        return None
    swapped = same(base_value.shape[0], node_value.shape[1]) and same(base_value.shape[1], node_value.shape[0])
    # transpose(0, 0) of a square matrix has the shape of a transpose, but not its strides.
    moved = same(base_value.stride(0), node_value.stride(1)) and same(base_value.stride(1), node_value.stride(0))
    return base if swapped and moved and isinstance(base, fx.Node) else None


def _match_addmm(node: fx.Node) -> Linear | None:
    if node.kwargs.get("beta", 1) != 1 or node.kwargs.get("alpha", 1) != 1 or len(node.args) != 3:
        return None
    bias, x, weight = node.args
    return _linear(node, x, weight, bias, transposed=True)


def _match_matmul(node: fx.Node) -> Linear | None:
    if len(node.args) != 2 or not is_weight(node.args[1]):
        return None
    return _linear(node, node.args[0], node.args[1], None, transposed=True)


def _match_add(node: fx.Node) -> Linear | None:
    """A product and the bias that is added next."""
    if len(node.args) != 2 or node.kwargs.get("alpha", 1) != 1 or writes_to(node) is not None:
        return None
    for product, bias in (node.args, reversed(node.args)):
        if (
            not isinstance(product, fx.Node)
            or op_name(product) not in ("matmul", "mm")
            or len(readers_of(product)) != 1
            or stops_gradient(product)
        ):
            continue
        found, added = match_linear(product), value(bias)
        # Another dtype: under autocast the sum is that of a bfloat16 product and a float32 bias.
        alike = added is not None and added.dtype == value(product).dtype  # type: ignore[union-attr]
        if found is not None and alike and added.dim() == 1 and is_weight(bias):  # type: ignore[union-attr]
            return _linear(node, found.x, product.args[1], bias, transposed=True)
    return None


def _match_einsum(node: fx.Node) -> Linear | None:
    """Products such as ``ibh,hnd->ibnd``: one operand is a weight whose indices are contracted or new."""
    operands = node.args[1:] if len(node.args) == 3 else node.args[1] if len(node.args) == 2 else ()
    if not isinstance(operands, (tuple, list)) or len(operands) != 2 or not isinstance(node.args[0], str):
        return None
    terms, _, out = node.args[0].replace(" ", "").partition("->")
    for (x, xi), (w, wi) in (pairs := list(zip(operands, terms.split(","), strict=True)), pairs[::-1]):
        contracted = "".join(i for i in xi if i in wi)
        rows, new = xi[: len(xi) - len(contracted)], "".join(i for i in wi if i not in xi)
        x_value, w_value = value(x), value(w)
        if not contracted or not new or "." in wi or x_value is None or w_value is None or not is_weight(w):
            continue
        if xi != rows + contracted or out != rows + new or wi not in (new + contracted, contracted + new):
            continue
        sizes = dict(zip(wi, w_value.shape, strict=True))
        broadcast = not all(map(same, x_value.shape[x_value.dim() - len(contracted) :], (sizes[i] for i in contracted)))
        if broadcast or not x_value.is_floating_point():
            continue
        k, n = (math.prod(sizes[i] for i in part) for part in (contracted, new))
        leading = tuple(x_value.shape[: x_value.dim() - len(contracted)])  # of "..." too
        transposed = wi == contracted + new
        flat = ((*leading, k), (k, n) if transposed else (n, k), (*leading, *(sizes[i] for i in new)))
        return Linear(node, x, w, None, transposed, flat)
    return None


def is_weight(node: object) -> bool:
    """Whether a value is made of parameters alone."""
    seen: set[fx.Node] = set()
    todo = [node]
    while todo:
        at = todo.pop()
        if not isinstance(at, fx.Node) or len(seen) > 64:
            return False
        if at in seen:
            continue
        seen.add(at)
        if at.op == "placeholder":
            if not isinstance(value(at), torch.nn.Parameter):
                return False
        elif at.op != "get_attr":
            inputs = at.all_input_nodes
            if not inputs:
                return False
            todo.extend(inputs)
    return True


_MATCHERS = {
    "linear": _match_linear,
    "addmm": _match_addmm,
    "matmul": _match_matmul,
    "mm": _match_matmul,
    "add": _match_add,
    "einsum": _match_einsum,
}
