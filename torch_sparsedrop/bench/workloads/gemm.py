"""The kernels alone: forward, dX and dW with a ready plan, against the dense products.

"Narrowed" is the dense product of matrices that have (1 - p) of the masked side: what the library behind `F.linear`
makes of the kept work, were it not scattered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from ...masks import Kind
from ...ops.schema import REVISION
from ..settings import PRESETS, SIDES, Settings, Shape
from ..timing import Side, Turn, same
from .bound import quantisation_bound
from .job import Job, TimedJob
from .operands import Masks, Operands, narrower


def _forward(on: Operands, masks: Masks | None) -> Tensor:
    if masks is None:
        return F.linear(on.x, on.weight)
    return torch.ops.sparsedrop.linear(on.x, on.weight, None, *masks.arguments(), REVISION)


def _dx(on: Operands, masks: Masks | None) -> Tensor:
    if masks is None:
        return on.grad @ on.weight
    return torch.ops.sparsedrop.linear(on.grad, on.weight.t(), None, *masks.exchanged().arguments(), REVISION)


def _dw(on: Operands, masks: Masks | None) -> Tensor:
    if masks is None:
        return on.grad.t() @ on.x
    return torch.ops.sparsedrop.weight_grad(on.grad, on.x, *masks.arguments(), REVISION)


SIDES_OF = {"in": ("in",), "out": ("out",), "both": ("in", "out")}
PRODUCTS: dict[str, Callable[[Operands, Masks | None], Tensor]] = {"forward": _forward, "dx": _dx, "dw": _dw}


def narrowed(on: Operands, phase: str, mask: str, p: float) -> tuple[Operands, float]:
    """Operands whose dense product is about the kept work, and its share of the whole one's."""
    (m, k), (n, _) = on.x.shape, on.weight.shape
    if phase == "dw":
        rows = narrower(m, 1 - (1 - p) ** len(SIDES_OF[mask]))
        return on._replace(x=on.x[:rows], grad=on.grad[:rows]), rows / m
    inputs, outputs = (narrower(size, p) if side in SIDES_OF[mask] else size for side, size in (("in", k), ("out", n)))
    x, grad = on.x[:, :inputs].contiguous(), on.grad[:, :outputs].contiguous()
    return Operands(x, on.weight[:outputs, :inputs].contiguous(), None, grad), inputs * outputs / (k * n)


def jobs(settings: Settings) -> list[Job]:
    cases = product(settings.dtypes, settings.shapes_or(*PRESETS["cube"]), settings.masks_or(*SIDES), PRODUCTS)
    return [_job(settings, *case) for case in cases]


def _job(settings: Settings, dtype: str, shape: Shape, mask: str, phase: str) -> Job:
    multiply = PRODUCTS[phase]
    device = torch.device(settings.device)
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0

    def build() -> Sequence[Side]:
        on = Operands.make(shape, dtype, settings.device)

        def masked(turn: int, p: float, kind: Kind) -> Turn:
            torch.manual_seed(turn)
            masks = Masks.draw(settings, shape, mask, p, kind)
            bound = quantisation_bound(phase, shape, masks, multiprocessors) if multiprocessors else None
            return Turn(lambda: multiply(on, masks), masks.kept(shape), bound)

        def narrow(p: float) -> Side:
            operands, share = narrowed(on, phase, mask, p)
            return same("narrowed", partial(multiply, operands, None), share, p)

        return [
            same("dense", partial(multiply, on, None)),
            *(narrow(p) for p in settings.p if p > 0),
            *(
                Side("sparsedrop", partial(masked, p=p, kind=kind), p, kind)
                for p, kind in product(settings.p, settings.kind)
            ),
        ]

    key = {"what": "gemm", "subject": str(shape), "dtype": dtype, "phase": phase, "mask": mask}
    return TimedJob(key, build, settings.masks, settings.warmup, grad=False)
