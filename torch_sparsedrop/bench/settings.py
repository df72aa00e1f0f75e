"""What the user asked to be measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import torch

from ..masks import Kind


class Shape(NamedTuple):
    """A linear layer from K to N features, on M rows; in an MLP, the first of its two."""

    m: int
    n: int
    k: int

    def __str__(self) -> str:
        return "×".join(str(size) for size in self)


PRESETS = {
    "cube": (Shape(1024, 1024, 1024),),
    "mlp": (Shape(2048, 4096, 1024), Shape(2048, 1024, 4096)),
    "readme": (Shape(1024, 1024, 1024), Shape(2048, 1024, 4096)),
    "hopper": (
        Shape(4096, 4096, 4096), Shape(8192, 8192, 8192), Shape(16384, 1024, 4096), Shape(16384, 4096, 1024),
        Shape(8192, 4096, 4096), Shape(16384, 3072, 768), Shape(8192, 16384, 4096),
    ),
}  # fmt: skip
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}
SIDES = ("in", "out", "both")


@dataclass(frozen=True)
class Settings:
    what: tuple[str, ...]
    p: tuple[float, ...]
    dtypes: tuple[str, ...]
    block: tuple[int, int]
    masks: int
    warmup: int
    threads: int
    device: str
    shapes: tuple[Shape, ...] = ()
    mask: tuple[str, ...] = ()
    kind: tuple[Kind, ...] = ("bernoulli",)
    graph: bool = False
    bias: bool = True
    peers: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    batch: int | None = None
    length: int | None = None
    small: bool = False
    optimizer: bool = False
    select: str = "profitable"
    inner: str = "inductor"
    budget: float | None = None
    profile: str | None = None

    def masks_or(self, *default: str) -> tuple[str, ...]:
        """Where the masks are: as asked for, or as the workload has it."""
        return self.mask or default

    def shapes_or(self, *default: Shape) -> tuple[Shape, ...]:
        return self.shapes or default

    @property
    def gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    @property
    def middle_p(self) -> float:
        """For what does not change with p: one of those asked for, but not 0."""
        positive = [p for p in self.p if p > 0] or [0.5]
        return positive[len(positive) // 2]

    def to_json(self) -> dict[str, Any]:
        """Without what was left as it is."""
        found = asdict(self) | {"shapes": [list(shape) for shape in self.shapes]}
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in found.items() if value not in (defaults[name], [], ())}

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Settings:
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in found.items()
        }
        values["shapes"] = tuple(Shape(*shape) for shape in found.get("shapes", ()))
        if isinstance(values.get("kind"), str):
            values["kind"] = (values["kind"],)
        return Settings(**values)
