"""The report: means, intervals and the best p from logs whose numbers are known; tables from results alone."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from experiments import PAPER, command, folder, paper

__all__ = ["folder", "paper"]


def write_log(
    paper: Any,
    out: Path,
    method: str,
    p: float,
    seed: int,
    loss: float,
    step: int = 400,
    size: list[int] | None = None,
    **more: Any,
) -> Path:
    """A finished run of the GPT, of full size."""
    block = (size or [128, 128]) if method in ("bernoulli", "balanced") else None
    config = asdict(paper.tasks.TASKS["gpt"]) | {"method": method, "block": block, "p": p, "seed": seed}
    config |= {"precision": "bf16", "device": "cpu", "files": "0"} | more
    score = {"loss": loss, "accuracy": 0.5}
    tested = {"loss": loss + 0.1, "accuracy": 0.4}
    # Every 200 steps, falling to the best, then as bad as at first.
    path_down = [loss + 0.01 * (step // 200 - i) for i in range(1, step // 200 + 1)]
    records = [
        {"config": config, "machine": paper.logs.machine.describe()},
        *(
            {"step": 200 * i, "seconds": 1.0, "train_loss": 2.0, "loss": round(value, 6), "accuracy": 0.5}
            for i, value in enumerate([*path_down, *[loss + 1.0] * 5], 1)
        ),
        {
            "end": "patience",
            "steps": step + 1000,
            "seconds": 2.0,
            "best_step": step,
            "validation": score,
            "test": tested,
        },
    ]
    path = out / "gpt" / f"{paper.logs.name_of(method, block, p, seed)}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def report(paper: Any, tmp_path: Path) -> Any:
    readme = tmp_path / "README.md"
    sections = [*paper.tables.SECTIONS, *paper.report.SPEED, "runs", "figures"]
    readme.write_text("".join(f"<!-- results: {name} -->\nold\n<!-- end -->\n" for name in sections))

    def run(*more: str) -> dict[str, list[list[str]]]:
        given = ["--logs", str(tmp_path / "logs"), "--results", str(tmp_path / "results"), "--readme", str(readme)]
        assert paper.report.main([*given, *more]) == 0
        text = readme.read_text()
        found = {}
        for match in paper.report.SECTION.finditer(text):
            lines = match[0].splitlines()[1:-1]
            found[match[2]] = [line.strip("| ").split(" | ") for line in lines]
        return found

    return run


def test_table_1_chooses_p_by_validation_and_reports_that_checkpoint(paper: Any, report: Any, tmp_path: Path) -> None:
    for seed, noise in enumerate((-0.01, 0.0, 0.01)):
        write_log(paper, tmp_path / "logs", "dense", 0.0, seed, 1.6 + noise, 200)
        for p, loss in ((0.1, 1.55), (0.3, 1.5), (0.5, 1.52)):
            write_log(paper, tmp_path / "logs", "dropout", p, seed, loss + noise, 1000)
            write_log(paper, tmp_path / "logs", "bernoulli", p, seed, loss + noise - 0.02 * p, 2000)
    # One lucky seed is no better p.
    write_log(paper, tmp_path / "logs", "dropout", 0.7, 0, 1.0)
    found = report()
    head, _, dense, dropout, bernoulli = found["table1"]
    assert dense[:4] == ["GPT, Shakespeare", "Dense", "–", "3"]
    assert dense[head.index("val loss")] == "1.600 ± 0.025"
    assert dropout[2:8] == ["0.3", "3", "–", "1.500 ± 0.025", "–", "1.600 ± 0.025"]
    assert bernoulli[5:] == ["1.494 ± 0.025", "–", "1.594 ± 0.025", "1.494 ± 0.025", "0.5", "–", "1.430"]
    head, _, row = found["against_dropout"]
    assert row[1:6] == ["SparseDrop, Bernoulli", "0.3 − 0.3", "3", "-0.006 ± 0.000", "-0.006 ± 0.000"]
    assert row[-1] == "+1000 ± 0"
    head, _, dense, dropout, bernoulli = found["steps"]
    assert [row[head.index("of dropout's")] for row in (dense, dropout, bernoulli)] == ["0.20", "1.00", "2.00"]
    assert bernoulli[head.index("steps to the stop")] == "3000 ± 0"
    # On its way down by 0.01 an evaluation, to 0.006 below dropout's best.
    assert bernoulli[head.index("steps to dropout's best")] == "2000 ± 0"
    assert dense[head.index("steps to dropout's best")] == "0 of 3 seeds get there"
    assert dropout[head.index("steps to dropout's best")] == "1000 ± 0"


def test_smaller_blocks_have_a_table_of_their_own(paper: Any, report: Any, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_log(paper, tmp_path / "logs", "dropout", 0.3, seed, 1.6)
        write_log(paper, tmp_path / "logs", "bernoulli", 0.3, seed, 1.4)
        write_log(paper, tmp_path / "logs", "bernoulli", 0.1, seed, 1.3)
    write_log(paper, tmp_path / "logs", "bernoulli", 0.3, 0, 1.5, size=[32, 32])
    found = report()
    assert [row[1] for row in found["table1"][2:]] == ["Dropout + dense", "SparseDrop, Bernoulli"]
    head, _, bernoulli, balanced = found["blocks"]
    assert head == ["task", "kind", "p", "128 × 128", "32 × 32", "dropout"]
    assert bernoulli[1:] == ["bernoulli", "0.3", "1.400 ± 0.000", "1.500 (1 of 2 seeds)", "1.600 ± 0.000"]
    assert balanced[3:5] == ["–", "–"]


def test_step_times_of_smaller_blocks(paper: Any, report: Any, tmp_path: Path) -> None:
    write_log(paper, tmp_path / "logs", "dense", 0.0, 0, 1.6)
    rows = [
        {"method": "dense", "block": None, "p": 0.0, "median": 2.0},
        {"method": "dropout", "block": None, "p": 0.5, "median": 3.0},
        *({"method": "bernoulli", "block": [128, 128], "p": p, "median": 2 - p} for p in (0.1, 0.3, 0.5)),
        *({"method": "bernoulli", "block": [32, 32], "p": p, "median": 4 - p} for p in (0.1, 0.3)),
        {"method": "balanced", "block": [64, 64], "p": 0.3, "median": 2.5},
    ]
    (tmp_path / "logs" / "gpt" / "times.json").write_text(json.dumps({"rows": rows}))
    head, _, *found = report()["block_times"]
    assert head == ["task", "kind", "p", "128 × 128", "64 × 64", "32 × 32", "dropout", "dense"]
    assert [row[1:] for row in found] == [
        ["bernoulli", "0.1", "1.900", "–", "3.900", "3.000", "2.000"],
        ["bernoulli", "0.3", "1.700", "–", "3.700", "3.000", "2.000"],
        ["balanced", "0.1", "–", "–", "–", "3.000", "2.000"],
        ["balanced", "0.3", "–", "2.500", "–", "3.000", "2.000"],
    ]


def test_pairs_compare_the_same_seed_only(paper: Any, report: Any, tmp_path: Path) -> None:
    for seed, loss in enumerate((1.5, 1.7, 1.9)):
        write_log(paper, tmp_path / "logs", "bernoulli", 0.3, seed, loss)
    for seed, loss in ((1, 1.69), (2, 1.88), (5, 9.0)):
        write_log(paper, tmp_path / "logs", "balanced", 0.3, seed, loss)
    _, _, row = report()["kinds"]
    assert row[:3] == ["GPT, Shakespeare", "0.3", "2"]
    assert row[3].startswith("-0.015 ± ")


def test_unfinished_runs_do_not_count_and_mixed_ones_are_refused(
    paper: Any, report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(paper, tmp_path / "logs", "dense", 0.0, 0, 1.6)
    cut = write_log(paper, tmp_path / "logs", "dense", 0.0, 1, 0.1)
    cut.write_text("\n".join(cut.read_text().splitlines()[:-1]) + '\n{"end": "pat')
    assert report()["table1"][2][3:6] == ["1", "–", "1.600"]
    write_log(paper, tmp_path / "logs", "dense", 0.0, 2, 1.6, lr=1.0)
    with pytest.raises(AssertionError):
        report()
    assert "differs from the other logs in lr" in capsys.readouterr().err


def test_new_runs_join_the_results_there_are(
    paper: Any, report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, logs = tmp_path / "first", tmp_path / "logs"
    for seed in (0, 1):
        write_log(paper, first, "dense", 0.0, seed, 1.6)
        write_log(paper, first, "dropout", 0.3, seed, 1.5)
        write_log(paper, first, "balanced", 0.3, seed, 1.5)
        write_log(paper, logs, "dropout", 0.6, seed, 1.4)
        write_log(paper, logs, "balanced", 0.3, seed, 1.3)
    (first / "gpt" / "walls.json").write_text('[{"tier": 1, "runs": 6, "seconds": 60.0}]')
    (logs / "gpt" / "walls.json").write_text('[{"tier": null, "runs": 4, "seconds": 120.0}]')
    report("--logs", str(first))
    # Twice: what was collected is not collected again.
    for _ in range(2):
        found = report("--keep")
    _, _, dense, dropout, balanced = found["table1"]
    assert [row[2:6] for row in (dense, dropout, balanced)] == [
        ["–", "2", "–", "1.600 ± 0.000"],
        ["0.6", "2", "–", "1.400 ± 0.000"],
        ["0.3", "2", "–", "1.300 ± 0.000"],
    ]
    assert "tier 1 in all 1.0 minutes for 6 runs, others in all 2.0 minutes for 4 runs" in found["runs"][0][0]
    curves = json.loads((tmp_path / "results" / "gpt.json").read_text())["curves"]
    assert {name: (curve["p"], min(row[3] for row in curve["rows"])) for name, curve in curves.items()} == {
        "Dense": (0.0, 1.6), "Dropout + dense": (0.6, 1.4), "SparseDrop, balanced": (0.3, 1.3)
    }  # fmt: skip
    # Step times may come alone.
    times = tmp_path / "times" / "gpt" / "times.json"
    times.parent.mkdir(parents=True)
    times.write_text('{"rows": [{"method": "dense", "block": null, "p": 0.0, "median": 2.0}]}')
    found = report("--keep", "--logs", str(tmp_path / "times"))
    assert [row[3] for row in found["table1"][2:]] == ["2"] * 3
    assert found["steps"][2][3] == "2.000"
    # Without the word the logs are all there is.
    assert [row[1] for row in report()["table1"][2:]] == ["Dropout + dense", "SparseDrop, balanced"]
    for path in (logs / "gpt").glob("*.jsonl"):
        path.write_text(path.read_text().replace('"batch": 32', '"batch": 64'))
    with pytest.raises(AssertionError):
        report("--keep")
    assert "differs from the results to keep in batch" in capsys.readouterr().err


def test_from_runs_to_pictures(paper: Any, report: Any, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    given = command(folder, tmp_path / "logs", "mlp")
    assert paper.train.main(given) == 0
    assert paper.steptime.main([*given, "--rounds", "2", "--steps", "1"]) == 0
    speed = ["--out", str(tmp_path / "logs"), "--device", "cpu", "--smoke", "--rounds", "2", "--p", "0.1", "0.5"]
    assert paper.speed.main(["layers", *speed]) == 0
    found = report()
    head, _, *rows = found["steps"]
    assert [row[1] for row in rows] == [
        "Dense", "Dropout + dense", "SparseDrop, Bernoulli, 16 × 16", "SparseDrop, balanced, 16 × 16"
    ]  # fmt: skip
    assert all(float(row[head.index("ms a step")]) > 0 for row in rows)
    # Tiny runs cannot pass for the experiment.
    assert "; tiny sizes." in found["layers"][-3][0]
    assert "Not the experiment as described: batch = 32 for 1024" in found["runs"][0][0]
    assert re.search(r"others in all \d+\.\d minutes for 4 runs", found["runs"][0][0])
    for name in ("mlp", "layers"):
        assert (tmp_path / "results" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    again = [str(tmp_path / "results"), "--readme", str(tmp_path / "README.md"), "--check"]
    assert paper.report.main(["--results", *again]) == 0


def test_the_committed_readme_is_what_its_results_say(paper: Any) -> None:
    assert paper.report.main(["--check"]) == 0
    text = (PAPER / "README.md").read_text()
    assert {match[2] for match in paper.report.SECTION.finditer(text)} == {
        *paper.tables.SECTIONS, *paper.report.SPEED, "runs", "figures"
    }  # fmt: skip
    for tier, selections in paper.tasks.TIERS.items():
        assert f"| {tier} | {sum(len(chosen.runs()) for chosen in selections.values())} |" in text


def test_wrong_selections(paper: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--data", str(folder), "--out", str(tmp_path), "--smoke"]
    assert paper.train.main(["fashion", *base, "--tier", "1"]) == 2
    assert "tier 1 has no fashion; it has mlp, gpt, cifar10" in capsys.readouterr().err
    assert paper.train.main(["mlp", *base, "--tier", "1", "--p", "0.3"]) == 2
    assert "--tier names the runs itself" in capsys.readouterr().err
    assert paper.train.main(["mlp", *base, "--p", "0"]) == 2
    assert "p = 0 is the method dense" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        paper.train.main(["mlp", *base, "--method", "dropconnect"])
    assert "invalid choice: 'dropconnect'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_sparsity_from_which_it_is_faster(paper: Any) -> None:
    def row(side: str, ms: float, kept: float = 1.0, **more: Any) -> dict[str, Any]:
        return {"subject": "layer", "phase": "eager", "side": side, "kept": kept, "seconds": {"median": ms}, **more}

    def case(*ours: tuple[float, float]) -> Any:
        rows = [row("dense", 1.0), row("dropout", 2.0)]
        return paper.sparsity.Case([*rows, *(row("sparsedrop", ms, 1 - x, kind="bernoulli", p=x) for x, ms in ours)])

    # In any order; noise below the line does not count while a later point is above it.
    found = case((0.5, 0.5), (0.1, 0.9), (0.3, 1.1), (0.0, 1.5))
    assert found.faster_from("bernoulli", "dense") == f"{0.3 + 0.2 * 0.1 / 0.6:.2f}"
    assert found.faster_from("bernoulli", "dropout") == "0.00"
    assert case((0.1, 1.5), (0.9, 1.2)).faster_from("bernoulli", "dense") == "–"
    assert found.share("bernoulli", 0.5) == "0.50"


def test_speed_measures_what_was_dropped(paper: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--out", str(tmp_path), "--device", "cpu", "--smoke", "--rounds", "3", "--p", "0.5"]
    assert paper.speed.main(["models", *small]) == 0
    found = json.loads((tmp_path / "models.json").read_text())["rows"]
    ours = [row for row in found if row["side"] == "sparsedrop"]
    assert len(found) == 3 * 4
    # Few blocks: near to half, and hardly ever half.
    assert all(0.3 < row["kept"] < 0.7 for row in ours)
    assert len({row["kept"] for row in ours}) > 3
    assert paper.speed.main(["layer", *small]) == 2
    assert "layers and models can be measured, got layer" in capsys.readouterr().err
