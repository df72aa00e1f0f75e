"""Starting a kernel at little cost to the host."""

from __future__ import annotations

from typing import Any


class Start:
    """A kernel, a grid and the arguments that do not change. The first call compiles; later ones go straight to the
    compiled kernel, without Triton's binding of arguments, which costs more than the launch itself."""

    def __init__(self, kernel: Any, grid: tuple[int, int, int], statics: tuple[Any, ...], warps: int, stages: int):
        self.kernel = kernel
        self.grid = grid
        self.statics = statics
        self.options = {"num_warps": warps, "num_stages": stages}
        self.run: Any = None

    def __call__(self, *tensors: Any) -> None:
        """Launch on ``tensors`` that are alike from call to call: None at the same places, equally aligned."""
        if self.run is not None:
            self.run(*tensors, *self.statics)
            return
        compiled = self.kernel[self.grid](*tensors, *self.statics, **self.options)
        if compiled is not None:  # Triton's interpreter compiles nothing.
            self.run = compiled[self.grid]
