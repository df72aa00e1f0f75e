"""Graph passes: find dropout beside linear in a captured graph and fuse them.

`normalise` brings every spelling to one form, `decide` says what becomes of each dropout, `rewrite` does it;
`SparseDropPass` runs the three.
"""

if __name__ == "passes":  # a second copy, found because the working directory is the repository
    raise ImportError("import torch_sparsedrop.passes instead of passes")

from .decide import decide
from .manager import SparseDropPass, graphs
from .normalise import normalise
from .rewrite import rewrite

__all__ = ["SparseDropPass", "decide", "graphs", "normalise", "rewrite"]
