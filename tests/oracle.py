"""The dense oracle: one captured graph, run twice with the same masks.

Once as the pass rewrote it, and once as it was, with each fused dropout replaced by a dense selection. Random calls
that the pass leaves alone are seeded by their place in the graph, so that both runs see the same numbers. A third run
has masks that keep everything.
"""

from __future__ import annotations

import copy
import zlib
from typing import Any

import torch
from torch import Tensor, fx
from torch_sparsedrop.passes import SparseDropPass, graphs, normalise
from torch_sparsedrop.passes.forms import is_dropout, op_name
from torch_sparsedrop.passes.letter import ATTENTION
from torch_sparsedrop.passes.sites import Site

from torch_sparsedrop.ops import packing
from torch_sparsedrop.options import Options


class Twin:
    """A backend whose functions run one of two versions of every graph: set ``dense`` between calls.

    ``tiny``: the rewritten graph with a probability of almost 0 instead of its own.
    """

    def __init__(self, **options: Any) -> None:
        self.options = Options.parse({"select": "all", "block": 16, **options})
        self.dense = False
        self.tiny = False
        self.sites: list[Site] = []
        self.kept: list[float] = []

    def __call__(self, module: fx.GraphModule, example_inputs: Any) -> Any:
        original = copy.deepcopy(module)
        normalise(original.graph)  # readers of a tensor that is written in place read the written one
        run = SparseDropPass(self.options, trains=lambda node: True, together=True)
        run(module.graph)
        self.sites += run.sites
        masks: dict[str, tuple[Tensor, Tensor]] = {}
        fused = _Fused(module, run.sites, masks, self.kept)
        dense = _Dense(original, run.sites, masks)
        assert all(node.meta.get("example_value") is not None for g in graphs(module.graph) for node in g.nodes
                   if node.op == "call_function" and "sparsedrop" in str(node.target))  # fmt: skip
        tiny = _Tiny(module, run.sites)
        return lambda *args: (dense if self.dense else tiny if self.tiny else fused).run(*args)


class _Seeded(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, sites: list[Site]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.seeds = {site.node.name: zlib.crc32(site.node.name.encode()) for site in sites if not site.fused}
        # Attention may have been taken apart: then it has another name, but still its place.
        attention = [node.name for node in module.graph.nodes if op_name(node) in ATTENTION]
        self.seeds |= {name: i for i, name in enumerate(attention)}

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self.seeds:
            torch.manual_seed(self.seeds[n.name])
        return super().run_node(n)


class _Fused(_Seeded):
    def __init__(self, module: fx.GraphModule, sites: list[Site], masks: Any, kept: list[float]) -> None:
        super().__init__(module, sites)
        self.sites = sites
        self.masks, self.kept = masks, kept

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        for site in self.sites:
            if site.drawn is n:
                keeps, _, scale = result
                keep = keeps if site.place is None else keeps.chunk(n.args[3][0])[site.place]
                self.masks[site.node.name] = keep, scale
                self.kept.append(keep.float().mean().item())
        return result


class _Tiny(fx.Interpreter):
    """Masks that keep everything, since p is 1e-12; what the pass left alone drops nothing."""

    def __init__(self, module: fx.GraphModule, sites: list[Site]) -> None:
        super().__init__(module)
        self.drawn = {site.drawn for site in sites if site.drawn is not None}
        self.left = {site.node.name for site in sites if not site.fused}

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n in self.drawn:
            return n.target(args[0], torch.full_like(args[1], 1e-12), *args[2:])  # type: ignore[operator]
        if n.name in self.left and is_dropout(n):
            return args[0] if args else kwargs["input"]
        if op_name(n) in ATTENTION:
            place = 4 if "scaled" in op_name(n) else 10
            if len(args) > place:
                args = (*args[:place], 0.0, *args[place + 1 :])
            kwargs = {**kwargs, "dropout_p": 0.0} if "dropout_p" in kwargs else kwargs
        return getattr(self, n.op)(n.target, args, kwargs)


class _Dense(_Seeded):
    def __init__(self, module: fx.GraphModule, sites: list[Site], masks: Any) -> None:
        super().__init__(module, sites)
        self.fused = {site.node.name: site for site in sites if site.fused}
        self.masks = masks

    def run_node(self, n: fx.Node) -> Any:
        site = self.fused.get(n.name)
        if site is None:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        x = args[0] if args else kwargs["input"]
        keep, scale = self.masks[n.name]
        cols = x.shape[-1]
        mask = packing.spread(keep, x.numel() // cols, cols, site.block).view(x.shape)
        dropped = torch.where(mask, x, 0) * scale.to(x.dtype)
        return getattr(self, n.op)(n.target, (dropped, *args[1:]), kwargs) if site.inserted else dropped


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def assert_close(got: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    """Every gradient, relative to the largest entry of its tensor."""
    assert got.keys() == wanted.keys()
    assert got
    for name, want in wanted.items():
        error = (got[name] - want).abs().max().item()
        scale = want.abs().max().item()
        assert error <= tolerance * max(scale, 1e-3), f"{name}: {error:.2e} where the largest is {scale:.2e}"
