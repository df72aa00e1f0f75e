"""One side of a model's comparison: the model, compiled, and its training step."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._functorch import config as functorch

from ...convert import convert
from ...explain import explain
from ..settings import DTYPES, Settings
from ..timing import Timer, timer_for
from .zoo import MODELS, loss_of

CALLS = 2
"""Steps timed in one turn."""


class Which(NamedTuple):
    """``side``: "none", "dropout", "elsewhere" (dropout only where SparseDrop does not fuse it) or "converted"."""

    model: str
    side: str
    dtype: str
    p: float
    kind: str


class Ready(NamedTuple):
    peak_bytes: int | None
    note: str


class Entrant:
    def __init__(self, settings: Settings, which: Which) -> None:
        self.settings = settings
        self.which = which
        self.device = torch.device(settings.device)
        self.timer: Timer = timer_for(settings.device)
        torch.set_num_threads(settings.threads)
        # Or the backward would be compiled with the forward's activations in memory, and others compile beside it.
        functorch.force_non_lazy_backward_lowering = True
        known = MODELS[which.model]
        batch, length = known.small_size if settings.small else known.size
        torch.manual_seed(0)
        with self.device:  # a large model's numbers are drawn faster there
            model = known.build(0.0 if which.side == "none" else which.p, settings.small)
        self.model = model.to(self.device).train()
        made = known.batch(settings.batch or batch, settings.length or length, settings.small)
        self.batch = {name: tensor.to(self.device) for name, tensor in made.items()}
        self.note = self._take_side()
        self.optimizer: Any = None
        if settings.optimizer:
            trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            self.optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def _take_side(self) -> str:
        at, side = self.settings, self.which.side
        options: dict[str, Any] = {"select": at.select, "block": at.block, "kind": self.which.kind or at.kind[0]}
        note = self._silence_fused(options) if side == "elsewhere" else ""
        mode = "reduce-overhead" if at.graph else None
        if side != "converted":
            self.model.compile(backend=at.inner, mode=mode)
        elif at.graph:
            self.model.compile(backend="sparsedrop", options={"inner": at.inner, "mode": mode, **options})
        else:
            convert(self.model, inner=at.inner, **options)
        return note

    def _silence_fused(self, options: dict[str, Any]) -> str:
        with self._autocast():
            found = explain(self.model, options=options, **self.batch)
        modules = dict(self.model.named_modules())
        fused = [row for row in found.sites if row["decision"] == "fused"]
        for row in fused:
            dropout = modules.get(row["module"])
            if not isinstance(dropout, nn.Dropout):
                raise RuntimeError(
                    f"{row['module']} of {self.which.model} is fused, but is no nn.Dropout to be set to 0"
                )
            dropout.p = 0.0
        totals = found.totals
        return (
            f"{totals['fused']} of {totals['sites']} dropouts fused, {totals['flops_share']:.0%} of FLOPs beside them"
        )

    def _autocast(self) -> Any:
        dtype = DTYPES[self.which.dtype]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def step(self) -> None:
        if self.settings.graph:
            torch.compiler.cudagraph_mark_step_begin()
        with self._autocast():
            loss = loss_of(self.model(**self.batch))
        loss.backward()
        if self.optimizer is not None:
            self.optimizer.step()
        self.model.zero_grad(set_to_none=True)

    def ready(self) -> Ready:
        """After compiling: what a step's peak is."""
        with self._autocast():
            loss = loss_of(self.model(**self.batch))
        if not torch.isfinite(loss):
            raise RuntimeError(f"{self.which.model}, {self.which.side}: the loss is {loss.item()}")
        loss.backward()
        self.step()
        peak = None
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            self.step()
            peak = torch.cuda.max_memory_allocated(self.device) - before
        self.rest()
        return Ready(peak, self.note)

    def turn(self) -> float:
        """Seconds of one step."""
        seconds = self.timer.seconds(self.step, CALLS, "step")
        self.rest()
        return seconds

    def profile(self) -> str:
        """The kernels of one step, costliest first."""
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])]
        self.step()
        with profile(activities=activities) as found:
            self.step()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        own = "self_device_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        self.rest()
        return found.key_averages().table(sort_by=own, row_limit=40, max_name_column_width=90)

    def rest(self) -> None:
        """Leaves the device's memory to others."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()


def patient(work: Callable[[], Any], attempts: int = 40) -> Any:
    """``work``, again while others hold the device's memory."""
    for _ in range(attempts):
        try:
            return work()
        except torch.OutOfMemoryError as error:
            last = str(error)
        gc.collect()
        torch.cuda.empty_cache()
        time.sleep(2)
    raise RuntimeError(f"out of memory: {last}")
