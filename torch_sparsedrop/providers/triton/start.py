"""Starting a kernel at little cost to the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..cuda.ready import NATIVE, host, tell
from .overlap import OLDEST

# As the driver's tensor maps name them.
_MAP_TYPES = {torch.float16: 6, torch.float32: 7, torch.bfloat16: 9}
# Launches outlive those who made them, and Triton unloads a kernel that nobody holds.
_loaded: dict[int, Any] = {}


class Start:
    """A kernel, a grid and the arguments that do not change. The first call compiles; later ones go straight to the
    compiled kernel, without Triton's binding of arguments, which costs more than the launch itself.

    ``launch`` is, after the first call, the same for the native part, which reads tensors' addresses from ``slots``;
    None where it cannot start the kernel.
    """

    def __init__(
        self,
        kernel: Any,
        grid: tuple[int, int, int],
        statics: tuple[Any, ...],
        warps: int,
        stages: int,
        slots: Sequence[int] = (),
    ) -> None:
        self.kernel = kernel
        self.grid = grid
        self.statics = statics
        self.options = {"num_warps": warps, "num_stages": stages}
        self.slots = slots
        self.run: Any = None
        self.launch: Any = None

    def __call__(self, *tensors: Any) -> None:
        """Launch on ``tensors`` that are alike from call to call: None at the same places, equally aligned."""
        if self.run is not None:
            self.run(*tensors, *self.statics)
            return
        compiled = self.kernel[self.grid](*tensors, *self.statics, **self.options)
        if compiled is not None:  # Triton's interpreter compiles nothing.
            self.run = compiled[self.grid]
            if NATIVE and self.slots:
                self.launch = native(compiled, self.grid, (*tensors, *self.statics), self.slots)


def native(compiled: Any, grid: tuple[int, int, int], arguments: tuple[Any, ...], slots: Sequence[int]) -> Any:
    """A compiled kernel as the native part starts it, or None. The first arguments are tensors, found at ``slots``."""
    try:
        meta = compiled.metadata
        plain = meta.num_ctas == 1 and not (meta.launch_pdl or meta.launch_cooperative_grid)
        if not plain or meta.global_scratch_size or meta.profile_scratch_size:
            return None
        listed = parameters(compiled.src.signature.values(), arguments, slots, meta.tensordesc_meta)
        device, threads = torch.cuda.current_device(), 32 * meta.num_warps
        overlaps = torch.cuda.get_device_capability(device) >= OLDEST
        launch = host().Launch.of_triton(device, compiled.function, grid, threads, meta.shared, listed, overlaps)
    except Exception as error:  # Another Triton may describe or call its kernels otherwise, and must start them itself.
        tell(f"Triton starts its kernels itself, which costs the host more, for the native part cannot: {error!r}")
        return None
    _loaded[compiled.function] = compiled
    return launch


def parameters(
    signature: Any, arguments: tuple[Any, ...], slots: Sequence[int], boxes: Sequence[Any] | None
) -> list[tuple[Any, ...]]:
    """The compiled kernel's parameters: what Triton did not compile in, then two addresses of its own, here unused.

    A descriptor goes in as a tensor map, its sizes and its strides.
    """
    listed: list[tuple[Any, ...]] = []
    left = iter(boxes or ())
    for i, (kind, argument) in enumerate(zip(signature, arguments, strict=True)):
        if kind.startswith("tensordesc"):
            box, shape, strides, dtype = next(left), argument.shape, argument.strides, argument.base.dtype
            lengths = shape[1], shape[0], strides[0] * dtype.itemsize
            sides = box["block_size"][1], box["block_size"][0]
            listed.append(("map", slots[i], (*lengths, *sides), _MAP_TYPES[dtype], box["swizzle"]))
            listed += [("i32", size) for size in shape] + [("i64", stride) for stride in strides]
        elif kind.startswith("*"):
            listed.append(("address", slots[i]))
        elif kind == "fp32":
            listed.append(("number", slots[i]))
        elif kind != "constexpr":
            listed.append((kind, argument))
    return [*listed, ("i64", 0), ("i64", 0)]
