"""Which module a graph's node comes from: a graph has only paths, but Dynamo knows the modules while it compiles."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from .passes.decide import path_of, path_parts


def module_trains(node: fx.Node) -> bool:
    """``training`` of the module whose forward made ``node``; a change of it will recompile.

    False where the module cannot be found: then nothing is inserted.
    """
    from torch._dynamo.guards import GuardBuilder, install_guard
    from torch._dynamo.source import AttrSource

    module, source = _find(node)
    if module is None:
        return False
    install_guard(AttrSource(source, "training").make_guard(GuardBuilder.CONSTANT_MATCH))
    return module.training


def namer(root: nn.Module | None = None) -> Callable[[fx.Node], str]:
    """Names of nodes' modules as ``root.named_modules()`` has them.

    A frame after a graph break knows only paths from its own module. Without a root, it is the outermost model that
    is running.
    """
    root = running_model() if root is None else root
    names = {} if root is None else {id(module): name for name, module in root.named_modules()}

    def name(node: fx.Node) -> str:
        module, _ = _find(node)
        return names.get(id(module), path_of(node))

    return name


def tell_apart(root: nn.Module | None, choices: Callable[[str], object]) -> None:
    """Compile a frame that begins inside the model, after a graph break, for a module alone that is not as others.

    Dynamo would run it for others of its class too, for which ``choices`` may have another answer, by their names.
    """
    from torch._dynamo.guards import GuardBuilder, install_guard
    from torch._dynamo.source import GetItemSource, LocalSource
    from torch._dynamo.symbolic_convert import InstructionTranslator

    try:
        scope = InstructionTranslator.current_tx().output.local_scope
    except (AttributeError, RuntimeError):
        return
    root = running_model() if root is None else root
    names = {} if root is None else {module: name for name, module in root.named_modules()}

    def inside(module: nn.Module) -> list[object]:
        return [choices(f"{names[module]}.{name}".rstrip(".")) for name, _ in module.named_modules()]

    found: list[tuple[Any, Any]] = [(LocalSource(name), local) for name, local in scope.items()]
    for source, local in found[:]:
        if isinstance(local, (list, tuple)):
            found += [(GetItemSource(source, i), item) for i, item in enumerate(local)]
    for source, local in found:
        if isinstance(local, nn.Module) and local is not root and local in names:
            own = inside(local)
            if any(inside(other) != own for other in names if type(other) is type(local)):
                install_guard(source.make_guard(GuardBuilder.ID_MATCH))


def running_model() -> nn.Module | None:
    found: nn.Module | None = None
    frame = sys._getframe()
    while frame is not None:
        module = frame.f_locals.get("self") if "self" in frame.f_code.co_varnames else None
        if isinstance(module, torch._dynamo.OptimizedModule):
            module = module._orig_mod
        if isinstance(module, nn.Module) and (found is None or any(one is found for one in module.modules())):
            found = module
        frame = frame.f_back  # type: ignore[assignment]
    return found


def _find(node: fx.Node) -> tuple[nn.Module | None, Any]:
    """The module, and how Dynamo's guards reach it."""
    from torch._dynamo.source import AttrSource, DictGetItemSource, GetItemSource, GlobalSource, LocalSource
    from torch._dynamo.symbolic_convert import InstructionTranslator

    stack = node.meta.get("nn_module_stack")
    try:
        tx: Any = InstructionTranslator.current_tx()
    except (AttributeError, RuntimeError):
        return None, None
    # A node of the module whose frame this is has no stack: that module is the first argument, behind Dynamo's own.
    own = next((name for name in tx.f_code.co_varnames if not name.startswith("__")), "")
    found = re.match(r"([LG])\['(\w+)'\](.*)", next(reversed(stack.values()))[0] if stack else f"L['{own}']")
    if found is None:
        return None, None
    kind, name, rest = found.groups()
    scope = tx.output.local_scope if kind == "L" else tx.output.global_scope
    module: Any = scope.get(name)
    source: Any = LocalSource(name) if kind == "L" else GlobalSource(name)
    for part in path_parts(rest):
        children = getattr(module, "_modules", {})
        if part in children:
            module, source = children[part], DictGetItemSource(AttrSource(source, "_modules"), part)
        elif isinstance(module, (list, tuple)) and part.isdigit() and int(part) < len(module):
            module, source = module[int(part)], GetItemSource(source, int(part))
        elif isinstance(module, dict) and part in module:
            module, source = module[part], DictGetItemSource(source, part)
        elif hasattr(module, part):  # the way through a forward set on the instance: forward.__self__
            module, source = getattr(module, part), AttrSource(source, part)
        else:
            return None, None
    return (module, source) if isinstance(module, nn.Module) else (None, None)
