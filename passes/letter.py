"""A dropout's class, from what is around it.

A: linears read it. B: they do, and behind it lies a function of other linears' outputs. C: it ends a linear, with
nothing between that changes more than its scale. D: it drops attention probabilities. F: it lies behind embeddings.
G: none of these. (E is attention's own, in `left.py`.)
"""

from __future__ import annotations

from torch import fx

from .forms import is_softmax, op_name, passes_through, value
from .normalise import is_weight
from .region import Keeps
from .sites import Reader

ATTENTION = frozenset({"scaled_dot_product_attention", "multi_head_attention_forward"})
_SUMS = frozenset({"linear", "addmm", "matmul", "bmm", "mm", "einsum", "baddbmm"})


def letter_of(source: fx.Node, linears: list[Reader], shape_of: Keeps) -> str:
    at: fx.Node | None = source
    while at is not None:
        if is_softmax(at):
            return "D"
        at = passes_through(at)
    if linears:
        return "A" if shape_of is Keeps.NOTHING else "B"
    if shape_of is Keeps.SCALE:
        return "C"
    return "F" if _from_embedding(source) else "G"


def _from_embedding(source: fx.Node) -> bool:
    """Whether a value is made of embeddings (of tokens or positions) before any linear or attention."""
    seen, todo, embedded = set(), [source], False
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        name = op_name(at)
        if name in _SUMS or name in ATTENTION:
            return False
        embedded = embedded or name in ("embedding", "embedding_bag")
        embedded = embedded or (name in ("add", "cat") and any(map(_is_table, at.all_input_nodes)))
        todo.extend(at.all_input_nodes)
    return embedded


def _is_table(node: fx.Node) -> bool:
    """Positions, or a class token; a bias has one dimension."""
    tensor = value(node)
    return is_weight(node) and tensor is not None and tensor.dim() > 1
