"""Graphs as Dynamo captures them, as text for journals."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import fx, nn

from torch_sparsedrop.ops import REVISION


def capture(model: nn.Module, *args: Any, dynamic: bool | None = None) -> fx.GraphModule:
    """The one graph of a model in training."""
    found: list[fx.GraphModule] = []

    def keep(module: fx.GraphModule, inputs: Any) -> Any:
        found.append(module)
        return module.forward

    torch._dynamo.reset()
    torch.compile(model.train(), backend=keep, dynamic=dynamic, fullgraph=True)(*args)
    (module,) = found
    return module


def journal(graph: fx.Graph) -> str:
    """One line a call, names of parameters short, the revision as a name."""
    lines = []
    for node in graph.nodes:
        if node.op == "placeholder":
            continue
        line = node.format_node() or ""
        line = (
            line.replace(str(REVISION), "REVISION").replace(" : [num_users=", " [").replace("call_function[target=", "")
        )
        line = re.sub(r" \[(\d+)\] = ", r" = ", line)
        line = line.replace("](args = ", "").replace(", kwargs = {})", "").replace("call_method[target=", ".")
        line = line.replace(", pin_memory: False}", "}")
        line = line.replace("torch.ops.", "")
        line = re.sub(r"%l_self_modules_(\w+?)_parameters_(\w+?)_\b", r"%\1.\2", line)
        lines.append(line.rstrip())
    return "\n".join(lines) + "\n"
