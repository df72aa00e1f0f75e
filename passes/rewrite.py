"""Step three: carry out what was decided.

u = rand(rows · cols);  keep, plan, scale = sparsedrop.draw(u, p, (rows, cols)), and n masks of one grid and p at once
u = rand(n · rows · cols);  keeps, plans, scale = sparsedrop.draw(u, p, (n, rows, cols))
dropout → linear                   sparsedrop.linear(x, W, b, plan, scale, block, –)
linear → dropout                   sparsedrop.linear(x, W, b, –, plan, scale, block)
linear → f → dropout → linear      the first with (plan, 1) on its output, the second with (plan, scale) on its input;
                                   f and the first one's bias by sparsedrop.activate(x, b, f, plan, block), where it can
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from torch_sparsedrop.ops import REVISION
from torch_sparsedrop.ops.checks import flat_size, grid_of
from torch_sparsedrop.ops.layout import layout

from .activation import Activation, find_activation
from .attention import emit_attention
from .emit import Emitter, aten
from .forms import CASTS, op_name, passes_through, value
from .normalise import Normal, match_linear
from .sites import Linear, Reader, Site, Size, operand

NO_MASK: tuple[Any, Any, list[int]] = (None, None, [])


@dataclass
class _Mask:
    """A site's mask in the graph. ``part``: where its grid begins and ends in ``drawn``, if that holds several."""

    drawn: fx.Node
    plan: fx.Node
    scale: fx.Node
    sizes: tuple[Size | fx.Node, Size | fx.Node]
    grid: list[Size | fx.Node]
    part: tuple[int, int] | None = None


class Rewriter:
    def __init__(self, normal: Normal, sites: list[Site], kind: str, together: bool) -> None:
        self.graph = normal.graph
        self.emit = Emitter(normal.graph)
        self.balanced = kind == "balanced"
        self.together = together
        self.sites = [site for site in sites if site.fused]
        self.removed = [site for site in sites if site.removed]
        self.masks: dict[int, _Mask] = {}
        self.sources: dict[int, fx.Node] = {}
        self.inputs: dict[fx.Node, tuple[Site, Reader]] = {}
        self.outputs: dict[fx.Node, tuple[Site, int]] = {}
        self.activations: dict[fx.Node, tuple[Site, Activation]] = {}
        for site in self.sites:
            if (activation := find_activation(site)) is not None:
                self.activations[activation.node] = site, activation
            self.inputs.update({reader.linear.node: (site, reader) for reader in site.readers})
            self.outputs.update({made.linear.node: (site, made.repeat) for made in site.producers})

    def run(self) -> None:
        by_node = {site.node: site for site in self.sites if not site.inserted}
        by_node |= {site.node: site for site in self.removed}
        dead: list[fx.Node] = []
        for node in list(self.graph.nodes):
            with self.emit.before(node):
                if node in by_node:
                    self._dropout(by_node[node])
                elif node in self.inputs or node in self.outputs:
                    self._linear(node)
                elif node in self.activations:
                    self._activate(*self.activations[node])
                else:
                    continue
            dead.append(node)
        self._erase(dead)
        self.graph.lint()

    def _dropout(self, site: Site) -> None:
        """What readers other than the linears see; the linears are given its source when their turn comes."""
        source = result = operand(site.node, 0, "input")
        if site.fused and site.letter == "C" and not site.scale_output:
            result = self.emit.call(aten.mul.Tensor, source, self._mask(site, source).scale, like=site.node)
        elif site.fused and site.letter != "C" and site.others:
            result = self._dropped(site, source)
        self.sources[id(site)] = source
        for user in list(site.node.users):
            user.replace_input_with(site.node, result)

    def _linear(self, node: fx.Node) -> None:
        linear = match_linear(node)
        assert linear is not None
        x = linear.x if linear.attention is None else emit_attention(self.emit, linear)
        into = out = NO_MASK
        if node in self.inputs:
            site, reader = self.inputs[node]
            if not site.inserted:
                x = self._undropped(site, reader)
            mask = self._mask(site, x)
            into = (mask.plan, mask.scale, list(site.block))
        if node in self.outputs:
            site, repeat = self.outputs[node]
            mask = self._mask(site, x, linear)
            scale = mask.scale if site.scale_output else self.emit.number(1.0, _device(x))
            out = (self._repeated(mask, repeat), scale, list(site.block))
            if any(activation.linear.node is node for _, activation in self.activations.values()):
                linear = replace(linear, bias=None)
        new = self._call(linear, x, (*into, *out))
        node.replace_all_uses_with(new)

    def _activate(self, site: Site, activation: Activation) -> None:
        mask, node = self.masks[id(site)], activation.node
        arguments = (activation.linear.bias, activation.function, mask.plan, list(site.block), REVISION)
        x = operand(node, 0, "input")
        new = self.emit.call(torch.ops.sparsedrop.activate.default, x, *arguments, like=node)
        node.replace_all_uses_with(new)

    def _undropped(self, site: Site, reader: Reader) -> fx.Node:
        """The linear's x without the dropout."""
        source, chain = self.sources[id(site)], reader.chain
        if chain and _undone(chain[-1], reader.linear.node):
            chain = chain[:-1]
        for node in chain:
            source = self.emit.copy(node, source)
        return source

    def _call(self, linear: Linear, x: fx.Node, masks: tuple[Any, ...]) -> fx.Node:
        emit, weight = self.emit, linear.weight
        if linear.flat is not None:
            tensor = value(x)
            assert tensor is not None
            leading = emit.sizes(x)[: len(linear.flat[0]) - 1]
            if not linear.whole_in:
                x = emit.call(aten.reshape.default, x, [*leading, linear.flat[0][-1]])
            if value(weight).dim() != 2:  # type: ignore[union-attr]
                weight = emit.call(aten.reshape.default, weight, list(linear.flat[1]))
        if linear.transposed:
            weight = emit.call(aten.t.default, weight)
        arguments = (x, weight, linear.bias, *masks, REVISION)
        if linear.whole_out:
            return emit.call(torch.ops.sparsedrop.linear.default, *arguments, like=linear.node)
        assert linear.flat is not None
        new = emit.call(torch.ops.sparsedrop.linear.default, *arguments)
        return emit.call(aten.reshape.default, new, [*leading, *linear.flat[2][len(leading) :]], like=linear.node)

    def _mask(self, site: Site, x: fx.Node, producer: Linear | None = None) -> _Mask:
        """The site's mask, drawn where it is first needed: from x (rows, K), or for a producer's (rows, N)."""
        if id(site) not in self.masks:
            alike = _alike(site, self.sites) if self.together else []
            if len(alike) > 1:
                self._draw_together(alike)
            else:
                self.masks[id(site)] = self._draw_alone(site, x, producer)
        return self.masks[id(site)]

    def _draw_together(self, sites: list[Site]) -> None:
        """One draw for sites of one grid and p, where the first of them needs its mask."""
        emit, device = self.emit, _device(sites[0].node)
        rows, cols = grid_of(*_sizes(sites[0]), sites[0].block)
        numbers = [flat_size(len(sites) * rows, cols + self.balanced)]
        uniform = emit.call(torch.rand, numbers, dtype=torch.float32, device=device)
        assert sites[0].p is not None
        p, grid = emit.number(sites[0].p, device), [len(sites), rows, cols]
        drawn = emit.call(torch.ops.sparsedrop.draw.default, uniform, p, self.balanced, grid)
        plans, scale = (emit.call(operator.getitem, drawn, i) for i in (1, 2))
        size, blocks = layout(rows, cols).size, rows * cols
        for i, site in enumerate(sites):
            plan = emit.call(aten.slice.Tensor, plans, 0, i * size, (i + 1) * size)
            site.drawn, site.place = drawn, i
            self.masks[id(site)] = _Mask(drawn, plan, scale, _sizes(site), [rows, cols], (i * blocks, (i + 1) * blocks))

    def _draw_alone(self, site: Site, x: fx.Node, producer: Linear | None) -> _Mask:
        emit, block = self.emit, site.block
        sizes = emit.sizes(x)
        cols = sizes[-1] if producer is None else self._columns(site, producer)
        leading = len(producer.flat[0]) - 1 if producer is not None and producer.flat is not None else len(sizes) - 1
        rows = emit.product(sizes[:leading])
        device = _device(x)
        grid = [emit.blocks(rows, block[0]), emit.blocks(cols, block[1])]
        # With a balanced mask the last column decides which rows keep one block more.
        columns = emit.arithmetic(operator.add, grid[1], 1) if self.balanced else grid[1]
        uniform = emit.call(torch.rand, [emit.flat_size(grid[0], columns)], dtype=torch.float32, device=device)
        assert site.p is not None
        drawn = emit.call(torch.ops.sparsedrop.draw.default, uniform, emit.number(site.p, device), self.balanced, grid)
        plan, scale = (emit.call(operator.getitem, drawn, i) for i in (1, 2))
        site.drawn = drawn
        return _Mask(drawn, plan, scale, (rows, cols), grid)

    def _keep(self, mask: _Mask) -> fx.Node:
        keep = self.emit.call(operator.getitem, mask.drawn, 0)
        return keep if mask.part is None else self.emit.call(aten.slice.Tensor, keep, 0, *mask.part)

    def _columns(self, site: Site, producer: Linear) -> Size | fx.Node:
        cols = site.shape[-1]
        if isinstance(cols, int):
            return cols
        return self.emit.sizes(producer.weight)[1 if producer.transposed else 0]

    def _repeated(self, mask: _Mask, repeat: int) -> fx.Node:
        if repeat == 1:
            return mask.plan
        emit, (rows, cols), device = self.emit, mask.grid, _device(mask.plan)
        wide = emit.arithmetic(operator.mul, cols, repeat)
        place = emit.call(aten.arange.default, emit.flat_size(rows, wide), device=device)
        row = emit.call(aten.floor_divide.default, place, wide)
        index = emit.call(
            aten.add.Tensor, emit.call(aten.mul.Tensor, row, cols), emit.call(aten.remainder.Scalar, place, cols)
        )
        keep = emit.call(aten.index.Tensor, self._keep(mask), [index])
        return emit.call(torch.ops.sparsedrop.plan.default, keep, [rows, wide])

    def _dropped(self, site: Site, source: fx.Node) -> fx.Node:
        """The block-dropped tensor itself: selected and scaled."""
        emit, mask, device = self.emit, self._mask(site, source), _device(source)
        axes = []
        for size, block in zip(mask.sizes, site.block, strict=True):
            place = emit.call(aten.arange.default, size, device=device)
            # The remainder is for Inductor: see `packing.block_of`.
            first = emit.call(aten.sub.Tensor, place, emit.call(aten.remainder.Scalar, place, block))
            axes.append(emit.call(aten.floor_divide.default, first, block))
        rows = emit.call(aten.mul.Tensor, emit.call(aten.unsqueeze.default, axes[0], 1), mask.grid[1])
        chosen = emit.call(aten.index.Tensor, self._keep(mask), [emit.call(aten.add.Tensor, rows, axes[1])])
        chosen = emit.call(aten.view.default, chosen, emit.sizes(source))
        selected = emit.call(aten.where.ScalarOther, chosen, source, 0.0, like=source)
        return emit.call(aten.mul.Tensor, selected, mask.scale, like=site.node)

    def _erase(self, dead: list[fx.Node]) -> None:
        """The replaced nodes, and whatever only they used."""
        todo = set(dead)
        for node in reversed(list(self.graph.nodes)):
            if node in todo and not node.users:
                todo.update(arg for arg in node.all_input_nodes if arg.op in ("call_function", "call_method"))
                self.graph.erase_node(node)


def _undone(cast: fx.Node, linear: fx.Node) -> bool:
    """Whether a linear takes back a cast to a wider dtype, as it does under autocast. The backward would keep what
    comes of it beside its equal."""
    before, after, result = value(passes_through(cast)), value(cast), value(linear)
    if op_name(cast) not in CASTS or before is None or after is None or result is None:
        return False
    return before.dtype == result.dtype and torch.promote_types(before.dtype, after.dtype) == after.dtype


def _alike(site: Site, sites: list[Site]) -> list[Site]:
    """The sites whose masks can be drawn with this one's: of the same grid and p, known before the graph runs."""
    wanted = _drawn_as(site)
    return [] if wanted is None else [other for other in sites if _drawn_as(other) == wanted]


def _drawn_as(site: Site) -> tuple[object, ...] | None:
    if isinstance(site.p, fx.Node) or not all(isinstance(size, int) for size in site.shape):
        return None
    return grid_of(*_sizes(site), site.block), site.p, _device(site.node)


def _sizes(site: Site) -> tuple[int, int]:
    """Rows and columns."""
    return math.prod(site.shape[:-1]), site.shape[-1]


def _device(node: fx.Node) -> torch.device:
    tensor = value(node)
    assert tensor is not None
    return tensor.device


def rewrite(normal: Normal, sites: list[Site], kind: str = "bernoulli", together: bool = False) -> None:
    """Replace every fused site's dropout and linears in the graph. ``together``: see `SparseDropPass`."""
    if any(site.fused or site.removed for site in sites):
        Rewriter(normal, sites, kind, together).run()
