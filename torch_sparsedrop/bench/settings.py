"""What the user asked to be measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from ..masks import Kind


class Shape(NamedTuple):
    """A linear layer from K to N features, on M rows."""

    m: int
    n: int
    k: int

    def __str__(self) -> str:
        return "×".join(str(size) for size in self)


PRESETS = {
    "cube": (Shape(1024, 1024, 1024),),
    "mlp": (Shape(2048, 4096, 1024), Shape(2048, 1024, 4096)),
    "readme": (Shape(1024, 1024, 1024), Shape(2048, 1024, 4096)),
}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}
SIDES = ("in", "out", "both")


@dataclass(frozen=True)
class Settings:
    what: tuple[str, ...]
    shapes: tuple[Shape, ...]
    p: tuple[float, ...]
    dtypes: tuple[str, ...]
    mask: tuple[str, ...]
    block: tuple[int, int]
    kind: Kind
    masks: int
    warmup: int
    threads: int
    device: str

    def masks_or(self, *default: str) -> tuple[str, ...]:
        """Where the masks are: as asked for, or as the workload has it."""
        return self.mask or default

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"shapes": [list(shape) for shape in self.shapes]}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Settings:
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        values["shapes"] = tuple(Shape(*shape) for shape in fields["shapes"])
        return Settings(**values)
