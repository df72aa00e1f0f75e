"""The spellings of an op in a captured graph, and what can be asked of a node's value."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from .gradients import stops_gradient

METADATA = frozenset(
    {"size", "dim", "numel", "shape", "dtype", "device", "ndim", "sym_size", "sym_numel", "is_contiguous"}
)
VIEWS = frozenset(
    {"view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "contiguous", "view_as", "reshape_as"}
)
CASTS = frozenset({"to", "float", "half", "bfloat16", "double", "type", "type_as", "_to_copy"})
TRANSPOSES = frozenset({"t", "T", "mT", "transpose", "permute", "swapaxes", "swapdims", "adjoint"})
_INPLACE_OPERATORS = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div", "ipow": "pow"}
_SYNONYMS = {"truediv": "div", "true_divide": "div", "divide": "div", "multiply": "mul", "subtract": "sub",
             "negative": "neg", "__matmul__": "matmul", "concat": "cat", "sym_size_int": "sym_size"}  # fmt: skip


def op_name(node: fx.Node) -> str:
    """One name for all spellings of an op: function, method, operator or overload, in place or not."""
    if node.op == "call_method":
        name = str(node.target)
    elif node.op != "call_function":
        return ""
    elif isinstance(node.target, torch._ops.OpOverload):
        if node.target.namespace != "aten":
            return str(node.target)
        name = node.target._opname
    elif node.target is getattr:
        name = str(node.args[1])
    else:
        name = getattr(node.target, "__name__", "")
    name = _INPLACE_OPERATORS.get(name, name)
    if name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    return _SYNONYMS.get(name, name)


_INPLACE_ARGUMENT = {"relu": 1, "relu6": 1, "silu": 1, "mish": 1, "hardswish": 1, "hardsigmoid": 1, "selu": 1,
                     "dropout": 3, "leaky_relu": 2, "elu": 2, "celu": 2, "hardtanh": 3, "threshold": 3}  # fmt: skip


def writes_to(node: fx.Node) -> fx.Node | None:
    """The operand that a call changes in place and returns, if it is of that kind."""
    if node.op == "call_method":
        written = str(node.target).endswith("_") and not str(node.target).endswith("__")
    elif node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        if isinstance(node.target, torch._ops.OpOverload):
            name = node.target._opname
        written = name in _INPLACE_OPERATORS or (name.endswith("_") and not name.endswith("__"))
        position = _INPLACE_ARGUMENT.get(name)
        if position is not None and getattr(node.target, "__module__", "") in ("torch.nn.functional", "torch._C._nn"):
            given = node.args[position] if len(node.args) > position else node.kwargs.get("inplace", False)
            written = written or given is True
    else:
        return None
    if not written:
        return None
    first = node.args[0] if node.args else node.kwargs.get("input")
    return first if isinstance(first, fx.Node) and value(first) is not None else None


def value(node: Any) -> torch.Tensor | None:
    """The fake tensor that a node stands for; None for anything else."""
    if not isinstance(node, fx.Node):
        return None
    found = node.meta.get("example_value", node.meta.get("val"))
    return found if isinstance(found, torch.Tensor) else None


def known(size: Any) -> Any:
    """A size as an int if it is one, however it is written; else the SymInt."""
    if isinstance(size, torch.SymInt) and size.node.expr.is_number:
        return int(size.node.expr)
    return size


def same(a: Any, b: Any) -> bool:
    """Whether two sizes are surely equal, without guarding on it."""
    expressions = [x.node.expr if isinstance(x, torch.SymInt) else x for x in (known(a), known(b))]
    return bool(expressions[0] == expressions[1])


def same_shape(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dim() == b.dim() and all(map(same, a.shape, b.shape))


def readers_of(node: fx.Node) -> list[fx.Node]:
    """Who uses a node's elements; asking for its shape or dtype is no reading."""
    return [user for user in node.users if op_name(user) not in METADATA]


def passes_through(node: fx.Node) -> fx.Node | None:
    """The operand whose matrix of rows × last dimension this node repeats unchanged: a view, a cast, a dead dropout."""
    name = op_name(node)
    if name not in VIEWS and name not in CASTS and name not in ("dropout", "clone"):
        return None
    if (writes_to(node) is not None and name != "dropout") or stops_gradient(node):
        return None
    first = node.args[0] if node.args else node.kwargs.get("input")
    before, after = value(first), value(node)
    if before is None or after is None or before.dim() == 0 or after.dim() == 0 or before.device != after.device:
        return None
    if name in VIEWS and before.dtype != after.dtype:  # the same bits as other numbers
        return None
    if not (before.is_floating_point() and after.is_floating_point() and same(before.shape[-1], after.shape[-1])):
        return None
    if name == "dropout":
        return first if isinstance(first, fx.Node) and is_dead(node) else None
    return first if isinstance(first, fx.Node) else None


def before_or_after_dropout(node: fx.Node) -> fx.Node | None:
    """The operand of what gives the same in front of a dropout and behind it: `passes_through`, or times a number."""
    if op_name(node) != "mul" or writes_to(node) is not None or len(node.args) != 2:
        return passes_through(node)
    tensor, number = node.args if isinstance(node.args[0], fx.Node) else reversed(node.args)
    finite = isinstance(number, (int, float)) and math.isfinite(number) and not stops_gradient(node)
    return tensor if finite and isinstance(tensor, fx.Node) and value(tensor) is not None else None


def dropout_arguments(node: fx.Node) -> tuple[Any, Any]:
    """(p, training) of a dropout call, with the defaults of its spelling."""
    defaults = (0.5, True)
    p = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", defaults[0])
    training = (
        node.args[2] if len(node.args) > 2 else node.kwargs.get("training", node.kwargs.get("train", defaults[1]))
    )
    return p, training


def is_dropout(node: fx.Node) -> bool:
    """Elementwise dropout in any of its spellings; not the feature and alpha variants."""
    return node.op == "call_function" and op_name(node) == "dropout" and value(node) is not None


# Dropouts of whole channels, and those that keep the variance, with their default of ``training``.
_OTHER_DROPOUTS = {
    "dropout1d": True, "dropout2d": True, "dropout3d": True, "feature_dropout": True,
    "native_dropout": True, "alpha_dropout": False, "feature_alpha_dropout": False,
}  # fmt: skip


def is_other_dropout(node: fx.Node) -> bool:
    """A live dropout of a kind that is never fused."""
    name = op_name(node)
    if node.op != "call_function" or name not in _OTHER_DROPOUTS:
        return False
    training = operand_or(node, 2, "training", _OTHER_DROPOUTS[name])
    return training is not False and operand_or(node, 1, "p", 0.5) != 0


def is_dead(node: fx.Node) -> bool:
    p, training = dropout_arguments(node)
    return training is False or (not isinstance(p, fx.Node) and p == 0)


def is_softmax(node: fx.Node) -> bool:
    return op_name(node) in ("softmax", "_softmax", "log_softmax", "_safe_softmax")


def operand_or(node: fx.Node, index: int, name: str, default: Any) -> Any:
    """A call's argument, however it was passed, or its default."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)
