"""What the tests of `bench` share."""

from __future__ import annotations

from collections.abc import Callable

from torch_sparsedrop.bench.settings import Settings, Shape

SHAPE = Shape(64, 48, 80)


def settings(**changes: object) -> Settings:
    fields: dict[str, object] = {
        "what": ("layer",), "shapes": (SHAPE,), "p": (0.0, 0.5), "dtypes": ("float32",), "mask": ("in",),
        "block": (16, 16), "masks": 3, "warmup": 1, "threads": 1, "device": "cpu",
    }  # fmt: skip
    return Settings(**fields | changes)  # type: ignore[arg-type]


class Clock:
    """A clock that moves only when something says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def takes(self, seconds: float) -> Callable[[], None]:
        def work() -> None:
            self.now += seconds

        return work
