"""Mask propagation: from a dropout back through elementwise work to the linears that made its input.

If those linears drop a block of their output, is the same block zero (or free to be anything) when it reaches the
dropout? Each node answers for itself, from what its operands say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import fx

from .forms import op_name, passes_through, readers_of, same, same_shape, value
from .sites import Linear, Producer


class Keeps(IntEnum):
    """What a node makes of blocks that its linears dropped."""

    NOTHING = 0
    """It does not come from the linears elementwise, or only together with something else."""
    PLACES = 1
    """It comes from them elementwise, but a zero or its gradient does not stay zero (sigmoid, sqrt)."""
    ZEROS = 2
    """Zeros stay zeros (relu, gelu)."""
    SCALE = 3
    """Zeros stay zeros, and a factor on the linears is a factor on the result (sums, casts)."""


# f(0) = 0
ZERO_AT_ZERO = frozenset({
    "relu", "relu6", "gelu", "silu", "tanh", "hardswish", "mish", "elu", "leaky_relu", "celu", "selu", "softsign",
    "hardshrink", "softshrink", "tanhshrink", "abs", "square", "sin", "sinh", "asin", "asinh", "atan", "tan",
    "erf", "expm1", "log1p", "prelu", "sign",
})  # fmt: skip
# Elementwise with f(0) ≠ 0, or with an infinite slope there: times a gradient of zero that is NaN.
NONZERO_AT_ZERO = frozenset({
    "sigmoid", "softplus", "exp", "hardsigmoid", "logsigmoid", "cos", "cosh", "rsqrt", "reciprocal", "log", "threshold",
    "log2", "exp2", "erfc", "sqrt",
})  # fmt: skip
_LINEAR = frozenset({"neg", "positive"})


@dataclass
class Region:
    """What a dropout's input is made of.

    ``shape_of`` is the answer whoever else reads the nodes; ``keeps`` the answer when only ``producers`` drop,
    linears that nobody outside the region reads.
    """

    shape_of: Keeps
    keeps: Keeps
    producers: list[Producer] = field(default_factory=list)
    blocker: str = ""


def find_region(source: fx.Node, dropout: fx.Node, linears: dict[fx.Node, Linear]) -> Region:
    whole = _Walk(linears)
    shape_of = whole.keeps(source)
    if shape_of is Keeps.NOTHING:
        return Region(shape_of, shape_of)
    inside = {node for node, kept in whole.answers.items() if kept is not Keeps.NOTHING}
    outsider = _shrink(inside, source, dropout)
    private = _Walk({node: linear for node, linear in linears.items() if node in inside})
    keeps = private.keeps(source)
    producers = private.producers() if keeps >= Keeps.ZEROS else []
    blocker = ""
    if shape_of is Keeps.PLACES:
        blocker = f"{whole.loses(source)} does not keep zeros and their gradients"
    elif keeps < Keeps.ZEROS and outsider is not None:
        blocker = f"{outsider[0].name} is also read by {outsider[1].name}"
    return Region(shape_of, keeps, producers, blocker)


def _shrink(inside: set[fx.Node], source: fx.Node, dropout: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Take out of a set of nodes those that are read from outside, and so on; return the first case."""
    first = None
    changed = True
    while changed:
        changed = False
        for node in list(inside):
            for user in readers_of(node):
                if user not in inside and not (user is dropout and node is source):
                    inside.discard(node)
                    first, changed = first or (node, user), True
                    break
    return first


class _Walk:
    """Ask every node behind a dropout, the linears being the ones that drop."""

    def __init__(self, linears: dict[fx.Node, Linear]) -> None:
        self.linears = linears
        self.answers: dict[fx.Node, Keeps] = {}
        self.repeats: dict[fx.Node, int] = {}

    def producers(self) -> list[Producer]:
        return [Producer(self.linears[node], n) for node, n in self.repeats.items() if self.answers.get(node)]

    def keeps(self, node: object) -> Keeps:
        if not isinstance(node, fx.Node):
            return Keeps.NOTHING
        if node not in self.answers:
            self.answers[node] = Keeps.NOTHING
            self.answers[node] = self._ask(node)
        return self.answers[node]

    def loses(self, node: fx.Node) -> str:
        """The op nearest the linears at which zeros are lost."""
        for operand in node.all_input_nodes:
            if self.answers.get(operand) is Keeps.PLACES:
                return self.loses(operand)
        return op_name(node)

    def _ask(self, node: fx.Node) -> Keeps:
        if node in self.linears:
            if not self.linears[node].whole_out:
                return Keeps.NOTHING
            self.repeats.setdefault(node, 1)
            return Keeps.SCALE
        through = passes_through(node)
        if through is not None:
            return self.keeps(through)
        name, args = op_name(node), node.args
        if name == "getitem" and len(args) == 2 and isinstance(args[0], fx.Node) and isinstance(args[1], int):
            return self._chunk(args[0], node)
        if name in ZERO_AT_ZERO or name in NONZERO_AT_ZERO or name in _LINEAR or name in ("clamp", "hardtanh", "pow"):
            return self._unary(node, name)
        if name in ("add", "sub", "mul", "div", "where", "maximum", "minimum"):
            return self._binary(node, name)
        if name == "glu":
            return self._gated(node)
        return Keeps.NOTHING

    def _unary(self, node: fx.Node, name: str) -> Keeps:
        source = node.args[0] if node.args else node.kwargs.get("input")
        kept = self.keeps(source)
        if kept is Keeps.NOTHING or not _alike(source, node):
            return Keeps.NOTHING
        if name in _LINEAR:
            return kept
        keeps_zero = name in ZERO_AT_ZERO
        if name == "pow":
            exponent = node.args[1] if len(node.args) > 1 else None
            keeps_zero = isinstance(exponent, (int, float)) and exponent >= 1
        elif name in ("clamp", "hardtanh"):
            defaults = (None, None) if name == "clamp" else (-1.0, 1.0)
            names = ("min", "max") if name == "clamp" else ("min_val", "max_val")
            low, high = (
                node.args[i + 1] if len(node.args) > i + 1 else node.kwargs.get(names[i], defaults[i]) for i in (0, 1)
            )
            above, below = (0 if limit is None else limit for limit in (low, high))
            keeps_zero = isinstance(above, (int, float)) and isinstance(below, (int, float)) and above <= 0 <= below
        return min(kept, Keeps.ZEROS if keeps_zero else Keeps.PLACES)

    def _binary(self, node: fx.Node, name: str) -> Keeps:
        operands = list(node.args[1:] if name == "where" else node.args[:2])
        if len(operands) < 2:
            return Keeps.NOTHING
        answers = [self.keeps(operand) for operand in operands]
        for operand, kept in zip(operands, answers, strict=True):
            if kept is not Keeps.NOTHING and not _alike(operand, node):
                return Keeps.NOTHING
        first, second = answers
        constant = [not isinstance(operand, fx.Node) or value(operand) is None for operand in operands]
        if name == "mul":
            if min(first, second) is not Keeps.NOTHING:  # two branches: one zero is enough, the factor is squared
                return min(max(first, second), Keeps.ZEROS)
            return max(first, second)
        if name == "div":
            return first if second is Keeps.NOTHING else Keeps.NOTHING
        if name in ("add", "sub"):
            if any(constant) and max(answers) is not Keeps.NOTHING:
                zero = any(c and operand == 0 for c, operand in zip(constant, operands, strict=True))
                return max(answers) if zero else Keeps.PLACES
            return min(first, second)
        kept = min(first, second)
        return min(kept, Keeps.ZEROS)

    def _chunk(self, chunks: fx.Node, item: fx.Node) -> Keeps:
        """One of the equal parts into which a linear's last dimension is cut."""
        name, parts = op_name(chunks), chunks.meta.get("example_value")
        source = chunks.args[0] if chunks.args else None
        whole, piece = value(source), value(item)
        if name not in ("chunk", "split") or not isinstance(parts, (tuple, list)) or whole is None or piece is None:
            return Keeps.NOTHING
        sizes = [part.shape[-1] for part in parts]
        if not all(isinstance(size, int) and size == sizes[0] for size in sizes):
            return Keeps.NOTHING
        kept = self._cut(source, whole, sizes[0], len(sizes))
        if kept is not Keeps.NOTHING:
            self.answers[chunks] = kept
        return kept

    def _gated(self, node: fx.Node) -> Keeps:
        """F.glu: one half of a linear's last dimension times the sigmoid of the other."""
        source = node.args[0] if node.args else node.kwargs.get("input")
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", -1)
        whole, half = value(source), value(node)
        if whole is None or half is None or dim not in (-1, whole.dim() - 1):
            return Keeps.NOTHING
        return min(self._cut(source, whole, half.shape[-1], 2), Keeps.ZEROS)

    def _cut(self, source: object, whole: torch.Tensor, size: int, count: int) -> Keeps:
        """What of a linear is kept whose last dimension is cut into equal pieces, if these drop the same."""
        if not same(whole.shape[-1], size * count):
            return Keeps.NOTHING
        linear = source
        while isinstance(linear, fx.Node) and linear not in self.linears:
            linear = passes_through(linear)
        if not isinstance(linear, fx.Node):
            return Keeps.NOTHING
        kept = self.keeps(source)
        if kept is not Keeps.NOTHING:
            self.repeats[linear] = count
        return kept


def _alike(operand: object, node: fx.Node) -> bool:
    """Whether an elementwise node leaves its operand's rows and columns where they were."""
    before, after = value(operand), value(node)
    return (
        isinstance(before, torch.Tensor)
        and isinstance(after, torch.Tensor)
        and after.is_floating_point()
        and same_shape(before, after)
    )
