"""Whether a linear's module trains: a graph does not say so, but Dynamo knows the module while it compiles."""

from __future__ import annotations

import re
from typing import Any

from torch import fx, nn


def module_trains(node: fx.Node) -> bool:
    """``training`` of the module whose forward made ``node``; a change of it will recompile.

    False where the module cannot be found: then nothing is inserted.
    """
    from torch._dynamo.guards import GuardBuilder, install_guard
    from torch._dynamo.source import AttrSource, DictGetItemSource, GlobalSource, LocalSource
    from torch._dynamo.symbolic_convert import InstructionTranslator

    stack = node.meta.get("nn_module_stack")
    if not stack:
        return False
    path = next(reversed(stack.values()))[0]
    found = re.match(r"([LG])\['(\w+)'\](.*)", path)
    tx: Any = InstructionTranslator.current_tx()
    if found is None:
        return False
    kind, name, rest = found.groups()
    scope = tx.output.local_scope if kind == "L" else tx.output.global_scope
    module: Any = scope.get(name)
    source: Any = LocalSource(name) if kind == "L" else GlobalSource(name)
    for part in re.findall(r"\w+", rest):
        children = getattr(module, "_modules", {})
        if part not in children:
            return False
        module, source = children[part], DictGetItemSource(AttrSource(source, "_modules"), part)
    if not isinstance(module, nn.Module):
        return False
    install_guard(AttrSource(source, "training").make_guard(GuardBuilder.CONSTANT_MATCH))
    return module.training
