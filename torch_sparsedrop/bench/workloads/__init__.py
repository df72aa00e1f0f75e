"""What can be measured. A workload turns the settings into jobs; each job gives its rows."""

from __future__ import annotations

from collections.abc import Callable

from ..settings import Settings
from . import draw, gemm, layer, memory, mlp, model, overhead
from .job import Job

WORKLOADS: dict[str, Callable[[Settings], list[Job]]] = {
    "gemm": gemm.jobs,
    "layer": layer.jobs,
    "memory": memory.jobs,
    "overhead": overhead.jobs,
    "draw": draw.jobs,
    "mlp": mlp.jobs,
    "model": model.jobs,
}

__all__ = ["WORKLOADS", "Job"]
