"""Where a graph holds gradients back: `torch.no_grad()` and `torch.inference_mode()` around some of its calls."""

from __future__ import annotations

import torch
from torch import fx

_OFF = "sparsedrop_without_gradients"


def mark(graph: fx.Graph) -> None:
    """Finds the calls that run without gradients in a graph that runs with them; `stops_gradient` tells of these."""
    enabled, inference = True, []
    if not torch.is_grad_enabled():
        return
    for node in graph.nodes:
        name = getattr(node.target, "__name__", "")
        if name == "_set_grad_enabled":
            enabled = bool(node.args[0])
        elif name == "_enter_inference_mode":
            inference.append(enabled)
            enabled = enabled and not node.args[0]
        elif name == "_exit_inference_mode":
            enabled = inference.pop() if inference else enabled
        elif node.op in ("call_function", "call_method") and not enabled:
            node.meta[_OFF] = True


def stops_gradient(node: fx.Node) -> bool:
    """Whether gradients would flow where a node is, if it were left out."""
    if _OFF not in node.meta:
        return False
    # Of what runs without gradients, a view still says that it requires them.
    sources = (operand.meta.get("example_value") for operand in node.all_input_nodes if _OFF not in operand.meta)
    return any(isinstance(source, torch.Tensor) and source.requires_grad for source in sources)
