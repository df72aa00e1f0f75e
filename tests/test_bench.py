"""``python -m torch_sparsedrop bench``: how it times and compares, and what it writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from bench_cases import Clock, settings

from torch_sparsedrop.__main__ import main
from torch_sparsedrop.bench import command, plot, readme, report
from torch_sparsedrop.bench.record import Record
from torch_sparsedrop.bench.rows import Row, efficiency, timed_rows
from torch_sparsedrop.bench.timing import HostTimer, Quartiles, Sample, Side, Turn, interleave, same
from torch_sparsedrop.bench.workloads import WORKLOADS


def test_sides_take_turns_in_every_round() -> None:
    seen: list[str] = []
    sides = [same(name, lambda name=name: seen.append(name)) for name in "abc"]
    samples = interleave(sides, HostTimer(), rounds=6, warmup=2)
    rounds = [seen[i : i + 3] for i in range(0, len(seen), 3)]
    assert len(rounds) == 8
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1, "the order must change"
    assert {len(own) for own in samples.values()} == {6}


def test_preparation_is_not_timed_and_calls_are_averaged() -> None:
    clock = Clock()

    def prepare(turn: int) -> Turn:
        clock.now += 100
        return Turn(clock.takes(2.0), kept=0.25)

    side = Side("dense", prepare)
    samples = interleave([side], HostTimer(clock), rounds=3, calls=5)
    assert samples[side] == [Sample(2.0, 0.25)] * 3


def test_efficiency_is_dense_time_times_kept_over_own_time() -> None:
    clock = Clock()
    sides = [same("dense", clock.takes(8.0)), same("sparsedrop", clock.takes(5.0), 0.5)]
    dense, ours = timed_rows(
        interleave(sides, HostTimer(clock), rounds=4), what="gemm", subject="s", dtype="d", phase="f"
    )
    assert ours.efficiency == Quartiles(0.8, 0.8, 0.8)
    assert ours.relative["dense"].median == pytest.approx(5 / 8)
    assert (dense.seconds, dense.kept, ours.kept) == (Quartiles(8, 8, 8), 1.0, 0.5)


def test_ratios_are_taken_within_rounds() -> None:
    # The machine slows down by ten after the first round: medians alone would mix the rounds.
    dense = [Sample(1.0, 1.0), Sample(10.0, 1.0), Sample(10.0, 1.0)]
    ours = [Sample(0.5, 0.5), Sample(5.0, 0.5), Sample(5.0, 0.5)]
    assert [efficiency(*pair) for pair in zip(ours, dense, strict=True)] == [1.0, 1.0, 1.0]
    samples = {same("dense", int): dense, same("sparsedrop", int): ours}
    rows = timed_rows(samples, what="gemm", subject="s", dtype="d", phase="f")
    assert rows[1].relative["dense"] == Quartiles(0.5, 0.5, 0.5)


def test_json_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    pytest.importorskip("matplotlib")
    sizes = ["--shape", "64,48,80", "--p", "0", "0.5", "--block", "16", "--masks", "3", "--mask", "in"]
    what = ["--what", "gemm", "layer", "draw", "overhead"]
    files = ["--json", str(tmp_path / "a.json"), "--png", str(tmp_path / "a.png")]
    assert main(["bench", "--device", "cpu", *sizes, *what, *files]) == 0
    shown = capsys.readouterr().out
    written = json.loads((tmp_path / "a.json").read_text())
    assert set(written) == {"schema", "runs"}
    (found,) = written["runs"]
    assert set(found) == {"environment", "settings", "load", "left", "rows"}
    assert {"versions", "cpu", "gpus", "serving"} <= set(found["environment"])
    assert found["settings"]["shapes"] == [[64, 48, 80]]
    # gemm: 3 products × (dense, narrowed, 2 p); layer: 2 phases × (dense, dropout, 2 p); draw: 2;
    # overhead: 2 phases × 3 sides
    assert [row["what"] for row in found["rows"]] == ["gemm"] * 12 + ["layer"] * 8 + ["draw"] * 2 + ["overhead"] * 6
    for row in found["rows"]:
        times = row["seconds"]
        assert 0 < times["low"] <= times["median"] <= times["high"]
        assert ("p" in row) == (row["side"] in ("sparsedrop", "narrowed", "dropout"))
        assert row.get("kept") == (None if row["side"] == "draw" else 1) or row["side"] in ("sparsedrop", "narrowed")
        bases = {"dense", "dropout"} if row["what"] in ("layer", "overhead") else {"dense"}
        if row["side"] == "dense":
            bases = set()
        elif row.get("p") == 0 or row["side"] in ("dropout", "narrowed"):
            bases = {"dense"}
        elif row["what"] == "gemm":
            bases = {"dense", "narrowed"}
        assert set(row.get("relative", ())) == bases
    assert "64×48×80, float32, mask in, forward+backward" in shown
    assert "kept-work efficiency, 64×48×80" in shown
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (again,) = Record.load_from(tmp_path / "a.json")
    assert [row.to_json() for row in again.rows] == found["rows"]
    assert again.settings.p == (0.0, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--p", "1"], "a probability from 0 to below 1"),
        (["--p", "nan"], "a probability from 0 to below 1"),
        (["--shape", "64,64"], "M,N,K"),
        (["--shape", "64,0,64"], "M,N,K"),
        (["--block", "8"], "at least 16"),
        (["--dtype", "int8"], "invalid choice"),
        (["--masks", "0"], "positive whole number"),
        (["--what", "gem"], "invalid choice"),
        (["--shape", "64,64,64", "--preset", "cube"], "exclude each other"),
        (["--device", "meta"], "--device must be one of"),
        (["--device", "gpu"], "--device must be one of"),
        (["--json", "/no/such/folder/a.json"], "there is no folder"),
        (["--profile", __file__], "cannot make the folder"),
        (["--append"], "--append needs --json"),
        (["--device", "cpu", "--graph"], "for CUDA devices"),
        (["--device", "cpu", "--tune"], "for CUDA devices"),
        (["--device", "cuda", "--graph", "--what", "model", "--inner", "eager"], "--inner inductor"),
        (["--what", "model", "--models", "bert-large"], "invalid choice"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    try:
        status = main(["bench", *arguments])
    except SystemExit as stop:
        status = stop.code  # type: ignore[assignment]
    assert status == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["tqdm", "matplotlib"])
def test_a_missing_extra_names_its_cure(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["bench", "--png", str(tmp_path / "a.png")]) == 2
    error = capsys.readouterr().err
    assert missing in error
    assert "pip install 'torch_sparsedrop[bench]'" in error


def test_bounds_are_shown_beside_what_stays_below() -> None:
    clock = Clock()
    ours = Side("sparsedrop", lambda turn: Turn(clock.takes(5.0), 0.5, bound=0.9))
    samples = interleave([same("dense", clock.takes(8.0)), ours], HostTimer(clock), rounds=4)
    rows = timed_rows(samples, what="gemm", subject="8×8×8", dtype="d", phase="forward")
    assert Row.from_json(rows[1].to_json()).bound == pytest.approx(0.9)
    assert "0.80 [0.80–0.80] of 0.90" in report.gemm(rows)[0]


def test_readme_sections_come_from_the_results(tmp_path: Path) -> None:
    def row(side: str, p: float | None, milliseconds: float) -> Row:
        time = Quartiles(milliseconds / 1e3, milliseconds / 1e3, milliseconds / 1e3)
        ratio = {"dense": Quartiles(milliseconds / 10, milliseconds / 10, milliseconds / 10)}
        return Row("layer", "8×8×8", "float32", "forward+backward", side, "in", p, "", 1.0, time, ratio)

    rows = [row("dense", None, 10), row("dropout", 0.1, 11), row("dropout", 0.5, 12)]
    record = Record.begin(settings())
    record.rows.extend([*rows, *(row("sparsedrop", p, 10 * (1 - p)) for p in readme.SHOWN_P)])
    record.save(tmp_path / "mine.json")
    text = "before\n<!-- results: layer mine -->\nstale\n<!-- end -->\nafter\n"
    filled = readme.fill(text, tmp_path)
    assert "| 8×8×8 | float32 | 10 ms | 1.20 | 1.00 | **0.90** | **0.80** | **0.70** | **0.50** | **0.30** |" in filled
    assert "stale" not in filled
    assert filled.startswith("before\n")
    assert filled.endswith("after\n")
    assert readme.fill(filled, tmp_path) == filled


def test_readme_tables_name_what_they_show(tmp_path: Path) -> None:
    """The runs whose rows they show, and the kinds of masks."""
    for name, phase, kind in (("first", "forward+backward", "bernoulli"), ("second", "in a graph", "balanced")):
        record = Record.begin(settings())
        record.environment["versions"]["torch"] = name
        for what, p in (("layer", 0.5), ("gemm", 0.5), ("gemm", 0.1)):
            sides = [same("dense", int), same("dropout", int), same("sparsedrop", int, 1.0, p, kind)]
            samples = {side: [Sample(1.0, 1.0)] for side in sides}
            samples[same("narrowed", int, 0.5, p)] = [Sample(0.625, 0.5)]
            record.rows.extend(timed_rows(samples, what=what, subject="s", dtype="d", phase=phase, mask="in"))
        before = Record.load_from(tmp_path / "a.json") if (tmp_path / "a.json").exists() else []
        record.save(tmp_path / "a.json", before)
    assert "first" in readme.layer(tmp_path / "a.json")
    assert "second" not in readme.layer(tmp_path / "a.json")
    lead = "Lowest to highest median over bernoulli masks at p = 0.1, 0.5; balanced masks at p = 0.1, 0.5, and"
    assert readme.gemm(tmp_path / "a.json").startswith(lead)
    assert "| 1.00–1.00 (0.80–0.80) |" in readme.gemm(tmp_path / "a.json")


def test_block_and_model_rows_make_tables_and_panels(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    seconds = {"dropout": 0.008, "none": 0.006, "elsewhere": 0.007, "narrowed": 0.004, "converted": 0.005}
    record = Record.begin(settings())
    for what in ("mlp", "model"):
        samples = {
            same(name, int, None, None if name == "none" else 0.1): [Sample(time, None)]
            for name, time in seconds.items()
        }  # fmt: skip
        rows = timed_rows(samples, what=what, subject="subject", dtype="bfloat16", phase="forward+backward")
        record.rows.extend(replace(row, peak_bytes=2**21) for row in rows)
    record.save(tmp_path / "a.json")
    assert "**0.83** | **0.62** | 1.25 |" in readme.mlp(tmp_path / "a.json")
    assert "| 8 ms | 6 ms | 7 ms | 5 ms | **0.62** | 2 MiB → 2 MiB |" in readme.model(tmp_path / "a.json")
    assert "of elsewhere" in report.text(record)
    plot.save([record], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_readme_is_up_to_date() -> None:
    root = Path(__file__).parents[1]
    results = root / "examples" / "results"
    text = (root / "README.md").read_text()
    assert readme.fill(text, results) == text, "run `python -m torch_sparsedrop.bench.readme`"


def test_runs_are_appended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    file = str(tmp_path / "a.json")
    sizes = ["--shape", "64,48,80", "--p", "0.5", "--block", "16", "--masks", "1", "--device", "cpu"]
    for what in ("gemm", "draw"):
        assert main(["bench", *sizes, "--what", what, "--json", file, "--append"]) == 0
    assert [record.settings.what for record in Record.load_from(tmp_path / "a.json")] == [("gemm",), ("draw",)]


def test_a_spent_budget_and_a_failing_job_leave_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()

    class Fake:
        ticks = 1

        def __init__(self, title: str) -> None:
            self.title = title

        def run(self, timer: object, tick: Callable[[], object]) -> list[Row]:
            clock.now += 4
            if self.title == "second":
                raise RuntimeError("broken")
            return [Row("fake", self.title, "float32", "forward", "dense")]

    monkeypatch.setitem(WORKLOADS, "fake", lambda at: [Fake(name) for name in ("first", "second", "third", "fourth")])
    record = Record.begin(settings(what=("fake",), budget=10))
    kept: list[int] = []
    command.measure(record, now=clock, keep=lambda: kept.append(len(record.rows)))
    assert [row.subject for row in record.rows] == ["first", "third"]
    assert record.left == ["second: RuntimeError: broken", "fourth: the budget of 10 s was spent"]
    assert kept[:2] == [1, 1], "rows are kept as they come"
