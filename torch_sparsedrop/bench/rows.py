"""One measured result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .timing import Quartiles, Sample, Samples, Side

BASES = ("dense", "dropout", "dropout compiled", "none", "elsewhere", "narrowed")
"""The sides that others are compared with."""


@dataclass(frozen=True)
class Row:
    """One side of one case.

    Attributes:
        what: the workload; ``subject``: what it ran on, a shape or a model; ``phase``: which part of its work.
        mask: where SparseDrop's masks are: "in", "out" or "both".
        side: "dense", "dropout", "sparsedrop", a peer, or a variant of a model.
        p: None for sides that do not depend on it; ``kind``: of the mask's distribution.
        kept: share of the dense multiply-adds that was done, from the masks used.
        seconds: of one call.
        relative: time over the time of other sides, in the same round.
        efficiency: kept-work efficiency, t(dense)·kept / t(this), in the same round.
        bound: the greatest efficiency that whole tiles allow on the GPU's multiprocessors, the masks' mean.
        peak_bytes: memory beyond the inputs; for a model, beyond its parameters and the batch.
        note: what a reader must know besides.
    """

    what: str
    subject: str
    dtype: str
    phase: str
    side: str
    mask: str = ""
    p: float | None = None
    kind: str = ""
    kept: float | None = None
    seconds: Quartiles | None = None
    relative: Mapping[str, Quartiles] = field(default_factory=dict)
    efficiency: Quartiles | None = None
    bound: float | None = None
    peak_bytes: int | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Without what was not measured."""
        return {name: _plain(value) for name, value in asdict(self).items() if value not in (None, "", {})}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Row:
        values = dict(fields)
        for name in ("seconds", "efficiency"):
            if name in values:
                values[name] = Quartiles(**values[name])
        values["relative"] = {side: Quartiles(**ratio) for side, ratio in values.get("relative", {}).items()}
        return Row(**values)


def timed_rows(samples: Samples, **key: Any) -> list[Row]:
    """The rows of one case; ``samples`` as `interleave` gives them."""
    rows = []
    for side, own in samples.items():
        bases = {base.name: samples[base] for base in samples if base is not side and _comparable(side, base)}
        kept = [sample.kept for sample in own if sample.kept is not None]
        bounds = [sample.bound for sample in own if sample.bound is not None]
        relative = {name: _quartiles(lambda a, b: a.seconds / b.seconds, own, them) for name, them in bases.items()}
        rows.append(
            Row(
                side=side.name,
                p=side.p,
                kind=side.kind,
                kept=sum(kept) / len(kept) if kept else None,
                seconds=Quartiles.of([sample.seconds for sample in own]),
                relative=relative,
                efficiency=_quartiles(efficiency, own, bases["dense"]) if "dense" in bases and kept else None,
                bound=sum(bounds) / len(bounds) if bounds else None,
                **key,
            )
        )
    return rows


def _comparable(side: Side, base: Side) -> bool:
    return base.name in BASES and base.name != side.name and base.p in (None, side.p)


def efficiency(own: Sample, dense: Sample) -> float:
    """How much of what the mask promises is reached: 1 where time falls as much as work does."""
    assert own.kept is not None
    return dense.seconds * own.kept / own.seconds


def _quartiles(ratio: Any, own: Sequence[Sample], other: Sequence[Sample]) -> Quartiles:
    return Quartiles.of([ratio(a, b) for a, b in zip(own, other, strict=True)])


def _plain(value: Any) -> Any:
    if isinstance(value, Quartiles):
        return value._asdict()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
