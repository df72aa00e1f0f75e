"""One run: train, evaluate, stop early, test the best checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from logs import Log
from torch import Tensor
from training import Score, Stopwatch, Trainer

Progress = Callable[[int, "Score | None"], object]


class Interrupted(Exception):
    """Time is over; the run's checkpoint is written."""


class Run:
    """The state of a run besides the trainer's: where it stands, and its best checkpoint."""

    def __init__(self, trainer: Trainer, log: Log, seed: int, p: float) -> None:
        self.trainer, self.log, self.task = trainer, log, trainer.task
        self.seed = seed
        self.train, self.validation, self.test = trainer.data.split(self.task, seed)
        self.done, self.waited, self.best_step = 0, 0, 0
        self.best_score: Score | None = None
        self.best: list[Tensor] = []
        trainer.start(seed, p)
        self.watch = Stopwatch(trainer.device)
        state = log.begin(trainer.device)
        if state:
            self._restore(state)

    def finish(self, progress: Progress, deadline: float = math.inf, save_every: float = 300.0) -> dict[str, Any]:
        """To the end, or to ``deadline`` (of `time.monotonic`); a checkpoint every ``save_every`` seconds."""
        task, saved = self.task, time.monotonic()
        reason = "steps" if self.done == task.steps else None
        while reason is None:
            reason = self._interval(progress)
            now = time.monotonic()
            if reason is None and (now > deadline or now - saved > save_every):
                self._save()
                saved = now
                if now > deadline:
                    raise Interrupted
        return self._end(reason)

    def _interval(self, progress: Progress) -> str | None:
        """The steps to the next evaluation, and it. Returns why to stop, if so."""
        trainer, task = self.trainer, self.task
        end = min(self.done - self.done % task.eval_every + task.eval_every, task.steps)
        steps = end - self.done
        self.watch.start()
        for step in range(self.done, end):
            trainer.step(self._batch(step))
            progress(1, None)
        self.watch.stop()
        self.done = end
        train_loss, score = trainer.mean_loss(steps), trainer.evaluate(self.validation)
        progress(0, score)
        self.log.write(
            {"step": end, "seconds": round(self.watch.seconds, 4), "train_loss": _plain(train_loss), **_dict(score)}
        )
        if not math.isfinite(score.loss):
            return "diverged"
        monitored = getattr(score, task.monitor)
        if self.best_score is None or task.better(monitored, getattr(self.best_score, task.monitor)):
            self.best_score, self.best_step, self.waited = score, end, 0
            self.best = [p.detach().clone() for p in trainer.model.parameters()]
        else:
            self.waited += 1
        if self.waited >= task.patience:
            return "patience"
        return "steps" if end == task.steps else None

    def _batch(self, step: int) -> Tensor:
        """Every epoch has its own order, which only the seed and the epoch decide."""
        epoch, place = divmod(step, len(self.train) // self.task.batch)
        if place == 0 or not hasattr(self, "order"):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self.order = self.train[torch.randperm(len(self.train), generator=generator).to(self.train.device)]
        return self.order[place * self.task.batch : (place + 1) * self.task.batch]

    @torch.no_grad()
    def _end(self, reason: str) -> dict[str, Any]:
        test = None
        if self.best:
            for parameter, best in zip(self.trainer.model.parameters(), self.best, strict=True):
                parameter.copy_(best)
            test = _dict(self.trainer.evaluate(self.test))
        end = {
            "end": reason,
            "steps": self.done,
            "seconds": round(self.watch.seconds, 4),
            "best_step": self.best_step,
            "validation": self.best_score and _dict(self.best_score),
            "test": test,
        }
        self.log.write(end)
        return end

    def _save(self) -> None:
        cuda = self.trainer.device.type == "cuda"
        self.log.save(
            {
                "tensors": self.trainer.tensors(),
                "random": torch.cuda.get_rng_state() if cuda else torch.get_rng_state(),
                "best": self.best,
                "best_score": self.best_score and tuple(self.best_score),
                "place": (self.done, self.waited, self.best_step),
                "seconds": self.watch.seconds,
            }
        )

    @torch.no_grad()
    def _restore(self, state: dict[str, Any]) -> None:
        for own, saved in zip(self.trainer.tensors(), state["tensors"], strict=True):
            own.copy_(saved)
        random = state["random"].cpu()
        if self.trainer.device.type == "cuda":
            torch.cuda.set_rng_state(random)
        else:
            torch.set_rng_state(random)
        self.best = state["best"]
        self.best_score = state["best_score"] and Score(*state["best_score"])
        self.done, self.waited, self.best_step = state["place"]
        self.watch.seconds = state["seconds"]


def _dict(score: Score) -> dict[str, float | None]:
    return {"loss": _plain(score.loss), "accuracy": _plain(score.accuracy)}


def _plain(number: float) -> float | None:
    """JSON has no NaN."""
    return round(number, 6) if math.isfinite(number) else None
