"""The function between two linears that share a mask, where `sparsedrop.activate` knows it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from torch_sparsedrop.ops.functions import NUMBERS

from .forms import op_name, operand_or, readers_of, value
from .gradients import stops_gradient
from .sites import Linear, Site

# Where kernels skip what is dropped. On a CPU the compiler's own loops fuse the function with what follows.
DEVICES = frozenset({"cuda"})
# Smaller blocks make tiles too small to be read at memory speed.
LEAST_BLOCK = 32


@dataclass(frozen=True)
class Activation:
    """``node`` = function(linear), read by the site's dropout alone."""

    node: fx.Node
    linear: Linear
    function: int


def find_activation(site: Site) -> Activation | None:
    if len(site.producers) != 1 or site.producers[0].repeat != 1 or min(site.block) < LEAST_BLOCK:
        return None
    linear = site.producers[0].linear
    node = operand_or(site.node, 0, "input", None)
    function, tensor, before = _function(node), value(node), value(linear.node)
    if function is None or tensor is None or before is None or tensor.device.type not in DEVICES:
        return None
    direct = operand_or(node, 0, "input", None) is linear.node and readers_of(linear.node) == [node]
    direct = direct and not stops_gradient(node)
    return Activation(node, linear, function) if direct and tensor.dtype == before.dtype else None


def _function(node: fx.Node) -> int | None:
    name = op_name(node)
    if name == "gelu":
        name = {"none": "gelu", "tanh": "gelu_tanh"}[operand_or(node, 1, "approximate", "none")]
    return NUMBERS.get(name)
