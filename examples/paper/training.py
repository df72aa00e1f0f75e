"""A model that is built, compiled and captured once, then trained many times: weights, moments and p are refilled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from data import Data
from layers import linear_for, set_p
from models import MODELS, compile_parts, initialise
from tasks import Block, Task
from torch import Tensor
from torch.nn import functional as F


class Score(NamedTuple):
    loss: float
    accuracy: float


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
        linear = linear_for(method, block)
        self.model = MODELS[task.model](task, data.inputs.shape[1:], data.classes, linear).to(self.device)
        decayed = [p for p in self.model.parameters() if p.dim() >= 2]
        others = [p for p in self.model.parameters() if p.dim() < 2]
        groups = [{"params": decayed, "weight_decay": task.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=task.lr, fused=True, capturable=cuda)
        self.index = torch.zeros(task.batch, dtype=torch.long, device=self.device)
        self.total = torch.zeros((), device=self.device)
        # A layer may skip its dropout while p is 0; what is captured must have it.
        set_p(self.model, 0.5)
        if cuda and compiled:
            compile_parts(self.model)
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
        self.model.eval()
        # Compiling this too would take longer than it saves.
        with torch.compiler.set_stance("force_eager"), self.autocast:
            for part in index.split(self.task.eval_batch):
                logits, targets = self._predict(part)
                loss += F.cross_entropy(logits, targets, reduction="sum")
                right += (logits.argmax(-1) == targets).sum()
                count += len(targets)
        self.model.train()
        return Score(loss.item() / count, right.item() / count)

    def tensors(self) -> list[Tensor]:
        """All that a step changes, except for the generators."""
        moments = [tensor for state in self.optimizer.state.values() for tensor in state.values()]
        return [*self.model.parameters(), *moments, self.total]

    def _predict(self, index: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(self.data.inputs[index])
        return logits.flatten(0, -2).float(), self.data.targets[index].flatten()

    def forward_backward(self) -> Tensor:
        """New gradients, and the loss."""
        self.optimizer.zero_grad()
        with self.autocast:
            logits, targets = self._predict(self.index)
        loss = F.cross_entropy(logits, targets)
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
