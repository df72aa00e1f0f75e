"""Who writes to a tensor's memory in place: a rewrite reads tensors later than their graph did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from .forms import op_name, readers_of, value, writes_to


def written_later(nodes: list[fx.Node], after: fx.Node) -> fx.Node | None:
    """A call behind ``after`` that changes one of ``nodes``, or a view of it, in place."""
    memory = {_memory(node) for node in nodes} - {None}
    node = after.next
    while node.op != "root":
        if any(_memory(written) in memory for written in _written_by(node)):
            return node
        node = node.next
    return None


def writes_privately(node: fx.Node) -> bool:
    """Whether nobody can tell an in-place call from one that returns a new tensor."""
    written = writes_to(node)
    if written is None:
        return True
    memory, own = _memory(written), {node}  # what comes of the call
    for other in node.graph.nodes:
        if other is node or _memory(other) != memory:
            continue
        if own.intersection(other.all_input_nodes):
            own.add(other)
            continue
        strangers = [user for user in readers_of(other) if user is not node and _memory(user) != memory]
        if strangers or other.op in ("placeholder", "get_attr"):
            return False
    return True


def _written_by(node: fx.Node) -> Iterator[fx.Node]:
    """The operands that a call changes."""
    written: list[Any] = [node.kwargs.get("out"), writes_to(node)]
    if op_name(node) == "setitem":
        written.append(node.args[0])
    elif isinstance(node.target, torch._ops.OpOverload):
        arguments = zip(node.target._schema.arguments, node.args, strict=False)
        written += [given for known, given in arguments if known.alias_info is not None and known.alias_info.is_write]
    elif getattr(node.target, "__name__", "").endswith("_") and node.args:  # _foreach_mul_ and others of lists
        written.append(node.args[0])
    for found in written:
        parts = found if isinstance(found, (list, tuple)) else [found]
        yield from (part for part in parts if isinstance(part, fx.Node))


def _memory(node: fx.Node) -> int | None:
    """What all views of a tensor share."""
    tensor = value(node)
    if tensor is None or tensor.layout != torch.strided:
        return None
    try:
        return int(tensor.untyped_storage()._cdata)
    except NotImplementedError:
        return None
