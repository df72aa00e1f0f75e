"""The paper's experiments in small: they run, stop early, go on where they were cut, and never overwrite."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from experiments import command, folder, paper
from torch.nn import functional as F

__all__ = ["folder", "paper"]


def logs(out: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in out.rglob("*.jsonl")}


def untimed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key not in ("seconds", "machine")} for record in records]


@pytest.mark.parametrize("task", ["mlp", "fashion", "cifar10", "gpt"])
def test_each_experiment_runs(paper: Any, folder: Path, tmp_path: Path, task: str) -> None:
    assert paper.train.main(command(folder, tmp_path, task)) == 0
    found = logs(tmp_path)
    sparse = {f"{kind}-16x16-p0.3-seed0" for kind in ("bernoulli", "balanced")}
    assert set(found) == {"dense-p0-seed0", "dropout-p0.3-seed0"} | sparse
    for head, *evaluations, end in found.values():
        assert head["config"]["name"] == task
        assert [record["step"] for record in evaluations] == list(range(2, end["steps"] + 1, 2))
        assert evaluations[-1]["train_loss"] < evaluations[0]["train_loss"]
        best = next(record for record in evaluations if record["step"] == end["best_step"])
        assert end["validation"] == {"loss": best["loss"], "accuracy": best["accuracy"]}
        assert math.isfinite(end["test"]["loss"])
    # The same first weights and batches, and yet every method is another one.
    assert len({records[1]["train_loss"] for records in found.values()}) == 4


def test_finished_runs_stay_and_other_configurations_are_refused(
    paper: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = command(folder, tmp_path, "mlp", "--method", "balanced")
    assert paper.train.main(given) == 0
    (log,) = tmp_path.rglob("*.jsonl")
    before = log.read_bytes()
    assert paper.train.main(given) == 0
    assert "1 runs, 1 of them finished before" in capsys.readouterr().out
    assert paper.train.main([*given, "--precision", "bf16"]) == 2
    assert "precision was 'fp32', now 'bf16'" in capsys.readouterr().err
    assert log.read_bytes() == before
    with pytest.raises(paper.tasks.UserError, match="finished"):
        paper.logs.Log(log, json.loads(before.splitlines()[0])["config"]).begin(torch.device("cpu"))


@pytest.mark.parametrize("method", ["dropout", "bernoulli"])
def test_a_run_cut_at_every_evaluation_equals_a_whole_one(
    paper: Any, folder: Path, tmp_path: Path, method: str
) -> None:
    task = paper.tasks.TASKS["mlp"].smoke()
    data = paper.data.load("mnist", folder, torch.device("cpu"))

    def train(name: str, trainer: Any, deadline: float) -> list[dict[str, Any]] | None:
        log = paper.logs.Log(tmp_path / name, {"some": "config"})
        try:
            paper.runs.Run(trainer, log, 3, 0.3).finish(lambda *_: None, deadline)
        except paper.runs.Interrupted:
            return None
        return untimed(log.records)

    def trainer() -> Any:
        return paper.training.Trainer(task, method, (16, 16), data, "fp32")

    whole = train("whole.jsonl", trainer(), math.inf)
    parts, cut = 0, None
    while cut is None:
        cut = train("cut.jsonl", trainer(), 0.0)
        parts += 1
    assert whole is not None
    assert (parts, cut) == (4, whole)
    assert not list(tmp_path.glob("*.pt"))
    # A trainer that has trained before starts as fresh as a new one.
    used = trainer()
    train("other.jsonl", used, math.inf)
    assert train("again.jsonl", used, math.inf) == whole


def test_methods_start_from_the_same_weights(paper: Any, folder: Path) -> None:
    data, task = paper.data.load("cifar10", folder, torch.device("cpu")), paper.tasks.TASKS["cifar10"].smoke()
    firsts, scores = [], set()
    for method in paper.tasks.METHODS:
        trainer = paper.training.Trainer(task, method, (16, 16), data, "fp32")
        trainer.start(7, 0.3)
        firsts.append([p.detach().clone() for p in trainer.model.parameters()])
        # Nothing is left of the step that made the optimiser's moments.
        assert not any(moment.any() for moment in trainer.tensors()[len(firsts[-1]) :])
        scores.add(trainer.evaluate(torch.arange(16)))
    for other in firsts[1:]:
        assert all(map(torch.equal, firsts[0], other))
    # Evaluation drops nothing: equal weights score equally.
    assert len(scores) == 1


@pytest.mark.parametrize("task", ["mlp", "cifar10", "gpt"])
@pytest.mark.parametrize("method", ["dropout", "balanced"])
def test_evaluation_is_of_the_trained_model_without_dropout(paper: Any, folder: Path, task: str, method: str) -> None:
    task = paper.tasks.TASKS[task].smoke()
    data = paper.data.load(task.data, folder, torch.device("cpu"))
    trainer = paper.training.Trainer(task, method, (16, 16), data, "fp32")
    trainer.start(0, 0.5)
    for i in range(3):
        trainer.step(torch.arange(32 * i, 32 * i + 32))
    # Two whole batches of 16 and a part of one.
    index = torch.arange(10, 10 + 39)
    score = trainer.evaluate(index)
    with torch.no_grad():
        logits = trainer.model.eval()(data.inputs[index]).flatten(0, -2)
    targets = data.targets[index].flatten()
    assert score.loss == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-5)
    assert score.accuracy == pytest.approx((logits.argmax(-1) == targets).float().mean().item())


def test_every_epoch_has_an_order_of_its_own(paper: Any, folder: Path, tmp_path: Path) -> None:
    task = paper.tasks.TASKS["mlp"].smoke()
    trainer = paper.training.Trainer(task, "dense", None, paper.data.load("mnist", folder, torch.device("cpu")), "fp32")
    run = paper.runs.Run(trainer, paper.logs.Log(tmp_path / "log.jsonl", {}), 0, 0.0)
    first, second = (torch.cat([run._batch(step), run._batch(step + 1)]) for step in (0, 2))
    assert torch.equal(first.sort().values, run.train.sort().values)
    assert torch.equal(second.sort().values, run.train.sort().values)
    assert not torch.equal(first, second)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("method", ["dropout", "bernoulli", "balanced"])
def test_a_captured_step_draws_new_masks_by_the_p_of_now(paper: Any, folder: Path, method: str) -> None:
    data = paper.data.load("mnist", folder, torch.device("cuda"))
    task = replace(paper.tasks.TASKS["mlp"].smoke(), lr=0.0)
    trainer = paper.training.Trainer(task, method, (16, 16), data)
    index = torch.arange(task.batch, device="cuda")

    def losses(p: float, steps: int = 6, evaluated: bool = False) -> list[float]:
        found = []
        trainer.start(0, p)
        for step in range(steps):
            trainer.step(index)
            found.append(trainer.mean_loss(1))
            if evaluated and step == 2:
                trainer.evaluate(index)
        return found

    # The first evaluation compiles, which takes no random numbers from the steps after it.
    random = losses(0.5, evaluated=True)
    assert len(set(random)) == 6
    assert losses(0.5) == random
    assert len(set(losses(0.0))) == 1
    assert losses(0.0)[0] == pytest.approx(trainer.evaluate(index).loss, rel=1e-2)


def test_early_stopping(paper: Any, tmp_path: Path) -> None:
    """By a trainer that plays back scores and whose only weight is the number of steps done."""

    class Playback:
        device = torch.device("cpu")
        data = SimpleNamespace(split=lambda task, seed: (torch.arange(8), torch.arange(4), torch.arange(2)))

        def __init__(self, monitor: str, values: list[float]) -> None:
            small = {"epochs": 2, "train": 8, "batch": 2, "eval_every": 1, "patience": 2}
            self.task = replace(paper.tasks.TASKS["gpt"], monitor=monitor, **small)
            self.values = values
            self.weight = torch.zeros(())
            self.model = SimpleNamespace(parameters=lambda: [self.weight])

        def start(self, seed: int, p: float) -> None:
            self.weight.zero_()

        def tensors(self) -> list[torch.Tensor]:
            return [self.weight]

        def step(self, index: torch.Tensor) -> None:
            self.weight += 1

        def mean_loss(self, steps: int) -> float:
            return 1.0

        def evaluate(self, index: torch.Tensor) -> Any:
            if len(index) == 2:
                return paper.training.Score(self.weight.item(), 0.5)
            value = self.values[int(self.weight) - 1]
            return paper.training.Score(value, -value)

    def finish(name: str, monitor: str, values: list[float]) -> dict[str, Any]:
        """The end of the run, whole and cut after every evaluation."""
        playback = Playback(monitor, values)
        whole = paper.runs.Run(playback, paper.logs.Log(tmp_path / name, {}), 0, 0.0).finish(lambda *_: None)
        while True:
            cut = paper.logs.Log(tmp_path / f"cut-{name}", {})
            with contextlib.suppress(paper.runs.Interrupted):
                assert untimed([paper.runs.Run(playback, cut, 0, 0.0).finish(lambda *_: None, 0.0)]) == untimed([whole])
                return whole

    end = finish("loss.jsonl", "loss", [3.0, 2.0, 2.0, 2.5, 1.0])
    assert (end["end"], end["best_step"], end["steps"]) == ("patience", 2, 4)
    # The test is of the best weights, not of the last.
    assert end["test"]["loss"] == 2.0
    end = finish("accuracy.jsonl", "accuracy", [3.0, 4.0, 2.0, 4.0, 5.0])
    assert (end["end"], end["best_step"], end["steps"]) == ("patience", 3, 5)
    end = finish("steps.jsonl", "loss", [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    assert (end["end"], end["best_step"], end["steps"]) == ("steps", 8, 8)
    end = finish("nan.jsonl", "loss", [float("nan")])
    assert (end["end"], end["validation"], end["test"]) == ("diverged", None, None)


def test_sizes_are_the_papers(paper: Any) -> None:
    sizes = {}
    for task, shape, classes in (("mlp", (1, 32, 32), 10), ("fashion", (1, 32, 32), 10), ("cifar10", (3, 32, 32), 10),
                                 ("gpt", (128,), 65)):  # fmt: skip
        task = paper.tasks.TASKS[task]
        with torch.device("meta"):
            model = paper.models.MODELS[task.model](
                task, torch.Size(shape), classes, paper.layers.linear_for("dense", None)
            )
        sizes[task.name] = sum(p.numel() for p in model.parameters())
    assert sizes["mlp"] == 3_276_800
    assert round(sizes["fashion"] / 1e6, 2) == 25.45
    assert round(sizes["gpt"] / 1e6, 1) == 50.6
    assert {name: task.steps for name, task in paper.tasks.TASKS.items()} == {
        "mlp": 1600, "fashion": 12800, "cifar10": 12800, "gpt": 12800
    }  # fmt: skip


def test_every_layer_of_the_paper_is_substituted(paper: Any) -> None:
    count = {}
    for name, shape in (("mlp", (1, 32, 32)), ("cifar10", (3, 32, 32)), ("gpt", (128,))):
        task = paper.tasks.TASKS[name].smoke()
        linear = paper.layers.linear_for("balanced", (16, 16))
        model = paper.models.MODELS[task.model](task, torch.Size(shape), 10, linear)
        paper.layers.set_p(model, 0.25)
        layers = [m for m in model.modules() if hasattr(m, "kind")]
        assert all(layer.p == 0.25 and layer.bias is None and layer.kind == "balanced" for layer in layers)
        count[name] = len(layers)
    # One layer each: q, k, v, out, up, down of the GPT; qkv, out, up, down of the ViT; first, hidden, last of the MLP.
    assert count == {"mlp": 3, "cifar10": 4, "gpt": 6}


def test_a_block_of_rows_is_half_an_image(paper: Any) -> None:
    rows = torch.arange(32.0)
    image = torch.stack([rows[:, None].expand(32, 32), rows.expand(32, 32)])[None]
    tokens = paper.models.patches(image)[0]
    assert tokens.shape == (256, 8)
    vertical, horizontal = tokens[:, 0], tokens[:, 1]
    assert vertical[:128].max() == 14
    # 64 tokens: an 8 × 8 square of patches; then the square beside it.
    assert horizontal[:64].max() == 14
    assert horizontal[64:128].min() == 16


@pytest.mark.parametrize("compiled", [False, True])
def test_dropout_drops_and_scales(paper: Any, fresh_compiler: None, compiled: bool) -> None:
    layer = paper.layers.linear_for("dropout", None)(64, 64)
    torch.nn.init.eye_(layer.weight)
    if compiled:
        layer.compile(backend="aot_eager", dynamic=False)
    for p in (0.3, 0.6):
        paper.layers.set_p(layer, p)
        y = layer(torch.ones(2000, 64))
        torch.testing.assert_close(y.unique(), torch.tensor([0.0, 1 / (1 - p)]))
        assert y.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(layer.eval()(torch.ones(1, 64)), torch.ones(1, 64))
    # Training and evaluation, but not each p.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2 * compiled
