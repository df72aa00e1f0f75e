"""A model that is built, compiled and captured once, then trained many times: weights, moments and p are refilled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from data import Data
from layers import MakeLinear, linear_for, set_p
from models import MODELS, compile_parts, initialise
from tasks import Block, Task
from torch import Tensor, nn
from torch.nn import functional as F


class Score(NamedTuple):
    loss: float
    accuracy: float


def cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Of logits (..., classes) and targets (...), in float32."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), reduction=reduction)


class Trainer:
    """Trains one method on one task. On a GPU a whole step, mask draws and optimiser included, is one CUDA graph."""

    def __init__(
        self,
        task: Task,
        method: str,
        block: Block | None,
        data: Data,
        precision: str = "bf16",
        graph: bool = True,
        compiled: bool = True,
    ) -> None:
        self.task, self.data = task, data
        self.device = data.inputs.device
        cuda = self.device.type == "cuda"
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, precision == "bf16", cache_enabled=False)
        self.model = self._build(linear_for(method, block))
        # Without dropout all methods are one model, whose evaluation is compiled once.
        self.plain = self._build(linear_for("dense", None)).eval()
        decayed = [p for p in self.model.parameters() if p.dim() >= 2]
        others = [p for p in self.model.parameters() if p.dim() < 2]
        groups = [{"params": decayed, "weight_decay": task.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=task.lr, fused=True, capturable=cuda)
        self.index = torch.zeros(task.batch, dtype=torch.long, device=self.device)
        self.total = torch.zeros((), device=self.device)
        # A layer may skip its dropout while p is 0; what is captured must have it.
        set_p(self.model, 0.5)
        self._loss = cross_entropy
        if cuda and compiled:
            compile_parts(self.model)
            compile_parts(self.plain)
            self._loss = torch.compile(cross_entropy, dynamic=False)
        self._step()
        self._run = self._capture() if cuda and graph else self._step

    def start(self, seed: int, p: float) -> None:
        """Fresh weights, empty moments, and a generator that only ``seed`` decides."""
        for state in self.optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()
        self.total.zero_()
        set_p(self.model, p)
        initialise(self.model, seed)

    def step(self, index: Tensor) -> None:
        self.index.copy_(index)
        self._run()

    def mean_loss(self, steps: int) -> float:
        """Of the steps since the last call, which were ``steps``."""
        mean = self.total.item() / steps
        self.total.zero_()
        return mean

    @torch.no_grad()
    def evaluate(self, index: Tensor) -> Score:
        """Means over all predictions, without dropout."""
        loss, right, count = torch.zeros((), device=self.device), torch.zeros((), device=self.device), 0
        torch._foreach_copy_(list(self.plain.parameters()), list(self.model.parameters()))
        for part in index.split(self.task.eval_batch):
            # A last part of another size would be compiled again.
            filled = F.pad(part, (0, self.task.eval_batch - len(part)))
            with self.autocast:
                logits, targets = (found[: len(part)] for found in self._predict(self.plain, filled))
            loss += cross_entropy(logits, targets, reduction="sum")
            right += (logits.argmax(-1) == targets).sum()
            count += targets.numel()
        return Score(loss.item() / count, right.item() / count)

    def tensors(self) -> list[Tensor]:
        """All that a step changes, except for the generators."""
        moments = [tensor for state in self.optimizer.state.values() for tensor in state.values()]
        return [*self.model.parameters(), *moments, self.total]

    def _build(self, linear: MakeLinear) -> nn.Module:
        with self.device:
            return MODELS[self.task.model](self.task, self.data.inputs.shape[1:], self.data.classes, linear)

    def _predict(self, model: nn.Module, index: Tensor) -> tuple[Tensor, Tensor]:
        return model(self.data.inputs[index]), self.data.targets[index]

    def forward_backward(self) -> Tensor:
        """New gradients, and the loss."""
        self.optimizer.zero_grad()
        with self.autocast:
            logits, targets = self._predict(self.model, self.index)
        loss = self._loss(logits, targets)
        loss.backward()
        return loss.detach()

    def _step(self) -> None:
        loss = self.forward_backward()
        self.optimizer.step()
        self.total += loss

    def _capture(self) -> Callable[[], None]:
        """The step as a CUDA graph. Its random numbers still come from PyTorch's generator, new at every replay."""
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(beside)
        # Gradients must be allocated by the capture, whose memory stays.
        self.optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph.replay


class Stopwatch:
    """Seconds spent in training, evaluations left out."""

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self.device, self.seconds = device, seconds
        self.start()

    def start(self) -> None:
        self._began = self._now()

    def stop(self) -> None:
        self.seconds += self._now() - self._began

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
