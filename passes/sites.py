"""What the steps of the pass hand to each other: dropouts and linears as found, sites as decided."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import fx

Size = Any
"""A Python int, or a SymInt of a graph with dynamic shapes."""


@dataclass(frozen=True)
class Dropout:
    """A live dropout call: ``source`` goes in, each element is dropped with probability ``p``."""

    node: fx.Node
    p: float | fx.Node
    inplace: bool

    @property
    def source(self) -> fx.Node:
        return operand(self.node, 0, "input")


@dataclass(frozen=True)
class Linear:
    """``node`` = ``x`` (..., K) times ``weight``, plus ``bias``.

    ``weight`` is stored (N, K), or (K, N) where ``transposed``. An einsum gives in ``flat`` the sizes to which its
    operands are first reshaped: x's, the weight's and the result's. ``attention`` is the call that hides the linear
    and what it reads; x is then a tensor with the same rows.
    """

    node: fx.Node
    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    transposed: bool = False
    flat: tuple[tuple[Size, ...], tuple[Size, ...], tuple[Size, ...]] | None = None
    attention: fx.Node | None = None

    @property
    def whole_in(self) -> bool:
        """Whether x is in the graph and K its last dimension (an einsum may contract several)."""
        if self.attention is not None:
            return False
        return self.flat is None or len(self.flat[0]) == self.x.meta["example_value"].dim()

    @property
    def whole_out(self) -> bool:
        """Whether N is the result's last dimension."""
        return self.flat is None or len(self.flat[2]) == len(self.flat[0])


@dataclass(frozen=True)
class Reader:
    """A linear that reads a dropout, through nodes that could as well stand in front of it."""

    linear: Linear
    chain: tuple[fx.Node, ...] = ()


@dataclass(frozen=True)
class Producer:
    """A linear whose output a mask can be walked back to, ``repeat`` times side by side (chunked gates)."""

    linear: Linear
    repeat: int = 1


@dataclass
class Site:
    """One dropout call and what becomes of it."""

    node: fx.Node
    module: str
    letter: str
    p: float | fx.Node | None
    shape: tuple[Size, ...]
    reason: str
    fused: bool = False
    block: tuple[int, int] = (128, 128)
    readers: list[Reader] = field(default_factory=list)
    others: list[fx.Node] = field(default_factory=list)
    producers: list[Producer] = field(default_factory=list)
    scale_output: bool = False
    """The dropout's scale is the producer's (linear → dropout); otherwise producers take a scale of 1."""
    removed: bool = False
    """An override set its probability to 0: the dropout goes."""
    drawn: fx.Node | None = None
    """The node that draws the mask, once the graph is rewritten."""
    place: int | None = None
    """Which of the masks it draws, where they are several."""
    inserted: bool = False
    """There is no dropout call: ``node`` is the linear that gets one."""

    @property
    def how(self) -> str | None:
        if not self.fused:
            return None
        sides = ["drop_in"] * bool(self.readers) + ["drop_out"] * bool(self.producers)
        return "+".join(sides)


def operand(node: fx.Node, index: int, name: str) -> Any:
    """A call's argument, however it was passed."""
    return node.args[index] if len(node.args) > index else node.kwargs[name]
