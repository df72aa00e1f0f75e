"""Insert nodes that carry what the compiler expects of them: a fake value and the module they belong to."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from .forms import before_or_after_dropout, known, value
from .sites import Size

aten = torch.ops.aten


class Emitter:
    """Calls on nodes make nodes; calls on plain numbers are computed at once."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self._fake_mode = _fake_mode(graph)
        self._constants: dict[tuple[float, torch.device], fx.Node] = {}
        self._stack: dict[str, Any] = {}
        self._anchor: fx.Node | None = None

    def before(self, node: fx.Node) -> Any:
        """A context in which nodes go in front of ``node`` and count as its module's."""
        self._stack = {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}
        self._anchor = node
        return self.graph.inserting_before(node)

    def hoist(self, node: fx.Node) -> None:
        """Bring a number that is computed further down in front of the place where nodes go."""
        assert self._anchor is not None
        if node < self._anchor:
            return
        for operand in node.all_input_nodes:
            self.hoist(operand)
        self._anchor.prepend(node)

    def call(self, target: Any, *args: Any, like: fx.Node | None = None, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(target, args, kwargs)
        node.meta.update(self._stack)
        if like is not None:
            node.meta["example_value"] = like.meta["example_value"]
        else:
            self._fake(node, target, args, kwargs)
        return node

    def copy(self, node: fx.Node, source: fx.Node) -> fx.Node:
        """A view, a cast or a product with a number again, of another tensor."""
        before = before_or_after_dropout(node)
        assert before is not None
        return self.graph.node_copy(node, lambda arg: source if arg is before else arg)

    def _fake(self, node: fx.Node, target: Any, args: Any, kwargs: Any) -> None:
        values = fx.map_arg((args, kwargs), lambda arg: arg.meta.get("example_value"))
        with self._fake_mode:
            node.meta["example_value"] = target(*values[0], **values[1])

    def sizes(self, node: fx.Node) -> list[Size | fx.Node]:
        """A tensor's shape: numbers where they are known, else nodes."""
        tensor = value(node)
        assert tensor is not None
        sizes = map(known, tensor.shape)
        return [
            size if isinstance(size, int) else self.call(aten.sym_size.int, node, i) for i, size in enumerate(sizes)
        ]

    def arithmetic(self, function: Any, a: Size | fx.Node, b: Size | fx.Node) -> Size | fx.Node:
        if isinstance(a, fx.Node) or isinstance(b, fx.Node):
            return self.call(function, a, b)
        return function(a, b)

    def product(self, sizes: list[Size | fx.Node]) -> Size | fx.Node:
        result: Size | fx.Node = math.prod(size for size in sizes if not isinstance(size, fx.Node))
        for size in sizes:
            if isinstance(size, fx.Node):
                result = size if isinstance(result, int) and result == 1 else self.call(operator.mul, result, size)
        return result

    def flat_size(self, rows: Size | fx.Node, cols: Size | fx.Node) -> Size | fx.Node:
        """As `ops.checks.flat_size` has it."""
        size = self.arithmetic(operator.mul, rows, cols)
        if isinstance(cols, int) and cols > 1:
            return size
        return self.call(torch.sym_max, size, 2) if isinstance(size, fx.Node) else max(size, 2)

    def blocks(self, size: Size | fx.Node, block: int) -> Size | fx.Node:
        return self.arithmetic(operator.floordiv, self.arithmetic(operator.add, size, block - 1), block)

    def number(self, number: float | fx.Node, device: torch.device) -> fx.Node:
        """A number as a 0-dim float32 tensor; known ones are made once, at the top of the graph."""
        if isinstance(number, fx.Node):
            self.hoist(number)
            if value(number) is not None:
                return self.call(aten._to_copy.default, number, dtype=torch.float32, device=device)
            return self._full(number, device)
        if (number, device) not in self._constants:
            first = next(node for node in self.graph.nodes if node.op not in ("placeholder", "get_attr"))
            with self.graph.inserting_before(first):
                self._constants[number, device] = self._full(number, device)
        return self._constants[number, device]

    def _full(self, number: float | fx.Node, device: torch.device) -> fx.Node:
        return self.call(aten.full.default, [], number, dtype=torch.float32, device=device, pin_memory=False)


def _fake_mode(graph: fx.Graph) -> FakeTensorMode:
    for node in graph.nodes:
        found = node.meta.get("example_value")
        if isinstance(found, torch._subclasses.FakeTensor):
            return found.fake_mode
    return FakeTensorMode(allow_non_fake_inputs=True)
