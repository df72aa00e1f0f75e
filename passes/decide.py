"""Step two: what becomes of each dropout. Nothing is changed here."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import fx

from torch_sparsedrop.options import Options

from .forms import (
    before_or_after_dropout,
    is_other_dropout,
    known,
    passes_through,
    readers_of,
    value,
)
from .gradients import stops_gradient
from .left import attention_site, other_site
from .letter import letter_of
from .memory import writes_privately, written_later
from .normalise import Normal
from .profit import unprofitable
from .region import Keeps, Region, find_region
from .sites import Dropout, Linear, Reader, Site


def path_of(node: fx.Node) -> str:
    """The path of the module whose forward made a node, from the module whose frame was captured."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return ".".join(path_parts(re.sub(r"^[LG]\['\w+'\]", "", path)))


def path_parts(path: str) -> list[str]:
    """The names in ``.encoder._modules['layer'][0]``, however Dynamo spells the way from one to the next."""
    return [part for part in re.findall(r"\w+", path) if part not in ("__dict__", "_modules", "_orig_mod")]


def decide(
    normal: Normal,
    choice: Options,
    *,
    name: Callable[[fx.Node], str] = path_of,
    trains: Callable[[fx.Node], bool] | None = None,
) -> list[Site]:
    """One site for each dropout call, in the graph's order; those that are never fused are among them, left.

    ``name`` gives a node's module as options name it. ``trains`` says whether a linear's module is in training, where
    dropout is to be inserted.
    """
    order = {node: i for i, node in enumerate(normal.graph.nodes)}
    sites = [_dropout_site(dropout, name(dropout.node), normal, choice) for dropout in normal.dropouts]
    sites += [site for node in normal.graph.nodes if (site := attention_site(node, name)) is not None]
    sites += [other_site(node, name) for node in normal.graph.nodes if is_other_dropout(node)]
    sites.sort(key=lambda site: order[site.node])
    if choice.insert == "linear":
        sites += [site for site in _inserted_sites(normal, sites, choice, name) if trains is None or trains(site.node)]
    _reconcile(sites)
    own = {dropout.node: dropout.p for dropout in normal.dropouts}
    for site in sites:
        if not site.fused and not site.removed:  # no override reaches what is left
            site.p = own.get(site.node, site.p)
    return sites


def readers(node: fx.Node, linears: dict[fx.Node, Linear]) -> tuple[list[Reader], list[fx.Node]]:
    """The linears that read a tensor's whole rows, and all other readers."""
    found: list[Reader] = []
    others: list[fx.Node] = []
    by_operand: dict[fx.Node, list[Linear]] = {}
    for linear in linears.values():
        by_operand.setdefault(linear.x, []).append(linear)

    def follow(at: fx.Node, chain: tuple[fx.Node, ...]) -> None:
        mine = [linear for linear in by_operand.get(at, []) if linear.whole_in and _reads_once(_product(linear), at)]
        found.extend(Reader(linear, chain) for linear in mine)
        taken = {_product(linear) for linear in mine}
        for user in readers_of(at):
            if user in taken:
                continue
            if before_or_after_dropout(user) is at:
                follow(user, (*chain, user))
            else:
                others.append(user)

    follow(node, ())
    return found, others


def _reads_once(node: fx.Node, operand: fx.Node) -> bool:
    """Not as the linear's weight or bias too."""
    count = 0

    def see(at: fx.Node) -> fx.Node:
        nonlocal count
        count += at is operand
        return at

    fx.map_arg((node.args, node.kwargs), see)
    return count == 1


def _product(linear: Linear) -> fx.Node:
    """The node that reads x: the linear's own, or the matmul in front of its added bias."""
    if linear.attention is not None or linear.x in linear.node.all_input_nodes:
        return linear.node
    return next(node for node in linear.node.all_input_nodes if linear.x in node.all_input_nodes)


def _dropout_site(dropout: Dropout, module: str, normal: Normal, choice: Options) -> Site:
    node, source = dropout.node, dropout.source
    shape = tuple(map(known, value(node).shape))  # type: ignore[union-attr]
    p = choice.p_for(module)
    site = Site(node, module, "G", dropout.p if p is None else p, shape, "", block=choice.block_for(module))
    linears, others = readers(node, normal.linears)
    region = find_region(source, node, normal.linears)
    if isinstance(site.p, fx.Node) and _depends(site.p, {made.linear.node for made in region.producers}):
        region = Region(region.shape_of, Keeps.NOTHING, [], "the probability is computed from it")
    site.letter = letter_of(source, linears, region.shape_of)
    # Each chunk has a mask of its own in the linear's, where blocks end with it.
    whole = isinstance(shape[-1], int) and shape[-1] % site.block[1] == 0
    producers = [producer for producer in region.producers if producer.repeat == 1 or whole]
    ragged = ""
    if len(producers) < len(region.producers):
        ragged = f"a chunk's width {shape[-1]} is not a multiple of block[1] = {site.block[1]}"
    reason = "torch.func.grad, vjp or jvp differentiates it in the graph" if node in normal.transformed else ""
    reason = reason or _unfit(dropout, site, linears)
    if not reason and site.letter == "C" and region.keeps is not Keeps.SCALE:
        reason = f"its linear's output cannot be dropped: {region.blocker or 'it is read elsewhere'}"
    if not reason and site.letter == "C" and ragged:
        reason = f"its linear's output cannot be dropped: {ragged}"
    if not reason and not choice.wants(module):
        reason = "excluded by include= or exclude="
    if not reason and site.p == 0:
        site.removed, reason = True, "p is overridden to 0"
    if not reason and choice.select == "profitable":
        beside = [*(reader.linear for reader in linears), *(producer.linear for producer in producers)]
        reason = unprofitable(site, beside, copied=bool(linears and others))
    if reason:
        site.reason = reason
        return site
    site.fused = True
    if site.letter == "C":
        site.producers = producers
        direct = len(region.producers) == 1 and _is_direct(source, region.producers[0].linear)
        site.scale_output = direct and region.producers[0].repeat == 1
        site.others = others
        site.reason = "the linear computes only the kept blocks of its output"
        return site
    site.readers, site.others, site.producers = linears, others, producers
    blocker = ragged or region.blocker
    site.reason = "the linears read only the kept blocks of their input"
    if site.producers:
        site.reason = "kept blocks only, on both sides of the activation"
    elif site.letter == "B":
        site.reason += f"; the first linear stays dense: {blocker or 'its output is read elsewhere'}"
    return site


def _depends(node: fx.Node, on: set[fx.Node]) -> bool:
    seen, todo = set(), [node]
    while todo:
        at = todo.pop()
        if at in on:
            return True
        if at not in seen:
            seen.add(at)
            todo.extend(at.all_input_nodes)
    return False


def _is_direct(source: fx.Node, linear: Linear) -> bool:
    at: fx.Node | None = source
    while at is not None and at is not linear.node:
        at = passes_through(at)
    return at is not None


def _unfit(dropout: Dropout, site: Site, linears: list[Reader]) -> str:
    """Why a dropout cannot be fused, whoever asks."""
    if site.letter == "D":
        return "attention probabilities are left alone"
    if site.letter == "F":
        return "embedding dropout that no linear reads"
    if site.letter == "G":
        return "no linear reads it directly, and its input does not come straight from one"
    if stops_gradient(dropout.node):
        return "it runs without gradients, its input with them"
    tensor = value(dropout.node)
    assert tensor is not None
    if tensor.dim() < 1 or not tensor.is_floating_point():
        return f"not a matrix of floats: {tensor.dtype} of shape {tuple(tensor.shape)}"
    if dropout.inplace and not writes_privately(dropout.node):
        return "it works in place on a tensor that others see; use inplace=False"
    read = [dropout.source, dropout.node, *(node for reader in linears for node in reader.chain)]
    writer = written_later(read, dropout.node) if site.letter != "C" else None
    if writer is not None:
        return f"{writer.name} changes what it reads or returns in place afterwards; use an out-of-place call there"
    return ""


def _inserted_sites(normal: Normal, sites: list[Site], choice: Options, name: Callable[[fx.Node], str]) -> list[Site]:
    """A dropout in front of every linear that has none."""
    taken = {reader.linear.node for site in sites for reader in site.readers}
    live = {dropout.node for dropout in normal.dropouts}
    found = []
    for node, linear in normal.linears.items():
        tensor = value(linear.x)
        assert tensor is not None
        module = name(node)
        p = choice.p_for(module)
        if p is None or p == 0 or node in taken or not linear.whole_in or _behind(linear.x, live):
            continue
        site = Site(
            node, module, "A", p, tuple(map(known, tensor.shape)), "", block=choice.block_for(module), inserted=True
        )
        reader = Reader(linear)
        site.reason = "" if choice.wants(module) else "excluded by include= or exclude="
        if not site.reason and choice.select == "profitable":
            site.reason = unprofitable(site, [linear])
        if not site.reason:
            site.fused, site.readers = True, [reader]
            site.reason = "inserted before the linear"
        found.append(site)
    return found


def _behind(node: fx.Node, live: set[fx.Node]) -> bool:
    at: fx.Node | None = node
    while at is not None:
        if at in live:
            return True
        at = before_or_after_dropout(at)
    return False


def _reconcile(sites: list[Site]) -> None:
    """Two masks of one linear need equal row blocks: where overrides say otherwise, the output's mask gives way."""
    rows_in = {reader.linear.node: site.block[0] for site in sites for reader in site.readers}
    for site in sites:
        clash = [p for p in site.producers if rows_in.get(p.linear.node, site.block[0]) != site.block[0]]
        if not clash:
            continue
        why = f"row blocks {rows_in[clash[0].linear.node]} and {site.block[0]} of one linear's two masks differ"
        if site.letter == "C":
            site.fused, site.producers, site.others, site.reason = False, [], [], f"{why}; give both one block="
        else:
            site.producers = [p for p in site.producers if p not in clash]
            site.reason = f"the linears read only the kept blocks of their input; {why}"
