"""Run the steps over a captured module and everything it contains, and keep count."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from torch_sparsedrop.ops import REVISION
from torch_sparsedrop.options import Options

from .decide import decide, path_of
from .normalise import normalise
from .rewrite import rewrite
from .sites import Site

# Higher-order ops whose bodies are differentiated as if they stood in the graph.
_TRANSPARENT_BODIES = frozenset({
    "tag_activation_checkpoint", "wrap", "wrap_activation_checkpoint", "wrap_with_autocast",
    "wrap_with_set_grad_enabled", "invoke_subgraph",
})  # fmt: skip


@cache
def source_hash() -> str:
    """A hash of the pass's own sources: a graph rewritten by another version is another graph."""
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256(sources).hexdigest()


class SparseDropPass(CustomGraphPass):
    """The pass with its options: for Inductor's ``pre_grad_custom_pass``, or called on any captured graph.

    ``together`` draws the masks of one grid and p at once. Without it each is drawn by itself where it is first needed:
    random numbers then come in the model's order, as a seed promises outside Inductor.

    Attributes:
        sites: what was found and decided, over all graphs so far.
        matched: fused sites by class.
        dumps: (before, after) of each changed graph, where ``keep_dumps`` asks for them.
    """

    def __init__(
        self,
        options: Options | None = None,
        *,
        name: Callable[[fx.Node], str] = path_of,
        trains: Callable[[fx.Node], bool] | None = None,
        together: bool = False,
        keep_dumps: bool = False,
        **settings: object,
    ) -> None:
        self.options = Options.parse(settings) if options is None else options
        self.name = name
        self.trains = trains
        self.together = together
        if self.options.insert is not None and trains is None:
            raise ValueError('insert="linear" must know which modules train: use convert or backend="sparsedrop"')
        self.keep_dumps = keep_dumps
        self.sites: list[Site] = []
        self.matched: Counter[str] = Counter()
        self.dumps: list[tuple[str, str]] = []

    def __call__(self, graph: fx.Graph) -> None:
        for part in graphs(graph):
            before = str(part) if self.keep_dumps else ""
            normal = normalise(part)
            sites = decide(normal, self.options, name=self.name, trains=self.trains)
            rewrite(normal, sites, self.options.kind, self.together)
            fused = Counter(site.letter for site in sites if site.fused)
            self.sites += sites
            self.matched += fused
            owner = part.owning_module
            if (fused or any(site.removed for site in sites)) and owner is not None:
                owner.recompile()
            if fused and self.keep_dumps:
                self.dumps.append((before, str(part)))

    def uuid(self) -> str:
        return f"torch_sparsedrop {source_hash()} {REVISION} {self.options!r} {self.together}"


def graphs(graph: fx.Graph) -> Iterator[fx.Graph]:
    """A graph and the bodies of its checkpointed and otherwise wrapped parts, innermost first."""
    seen: set[int] = set()

    def visit(at: fx.Graph) -> Iterator[fx.Graph]:
        owner = at.owning_module
        for node in at.nodes if owner is not None else ():
            if getattr(node.target, "__name__", "") not in _TRANSPARENT_BODIES:
                continue
            for arg in node.args:
                body = (
                    getattr(owner, str(arg.target), None) if isinstance(arg, fx.Node) and arg.op == "get_attr" else None
                )
                if isinstance(body, fx.GraphModule) and id(body) not in seen:
                    seen.add(id(body))
                    yield from visit(body.graph)
        yield at

    yield from visit(graph)
