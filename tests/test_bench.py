"""``python -m torch_sparsedrop bench``: what it times, how it compares, what it writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from torch_sparsedrop import providers
from torch_sparsedrop.__main__ import main, parser
from torch_sparsedrop.bench import command, readme
from torch_sparsedrop.bench.record import Record
from torch_sparsedrop.bench.rows import Row, efficiency, timed_rows
from torch_sparsedrop.bench.settings import Settings, Shape
from torch_sparsedrop.bench.timing import HostTimer, Quartiles, Sample, Side, Turn, interleave
from torch_sparsedrop.bench.workloads import WORKLOADS, layer, memory
from torch_sparsedrop.bench.workloads.job import TimedJob
from torch_sparsedrop.bench.workloads.operands import Masks, Operands

SHAPE = Shape(64, 48, 80)


def settings(**changes: object) -> Settings:
    fields: dict[str, object] = {
        "what": ("layer",), "shapes": (SHAPE,), "p": (0.0, 0.5), "dtypes": ("float32",), "mask": ("in",),
        "block": (16, 16), "kind": "bernoulli", "masks": 3, "warmup": 1, "threads": 1, "device": "cpu",
    }  # fmt: skip
    return Settings(**fields | changes)  # type: ignore[arg-type]


class Clock:
    """A clock that moves only when something says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def takes(self, seconds: float) -> Callable[[], None]:
        def work() -> None:
            self.now += seconds

        return work


def test_sides_take_turns_in_every_round() -> None:
    seen: list[str] = []
    sides = [Side(name, lambda turn, name=name: Turn(lambda: seen.append(name))) for name in "abc"]
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

    samples = interleave([Side("dense", prepare)], HostTimer(clock), rounds=3, calls=5)
    assert samples["dense"] == [Sample(2.0, 0.25)] * 3


def test_efficiency_is_dense_time_times_kept_over_own_time() -> None:
    clock = Clock()
    sides = [
        Side("dense", lambda turn: Turn(clock.takes(8.0))),
        Side("sparsedrop", lambda turn: Turn(clock.takes(5.0), kept=0.5)),
    ]
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
    rows = timed_rows({"dense": dense, "sparsedrop": ours}, what="gemm", subject="s", dtype="d", phase="f")
    assert rows[1].relative["dense"] == Quartiles(0.5, 0.5, 0.5)


@pytest.mark.parametrize("mask", ["in", "out", "both"])
def test_kept_is_what_the_masks_keep(mask: str) -> None:
    torch.manual_seed(0)
    masks = Masks.draw(settings(), SHAPE, mask, 0.5)
    left = masks.drop_in.dense() if masks.drop_in else torch.ones(SHAPE.m, SHAPE.k, dtype=torch.bool)
    right = masks.drop_out.dense() if masks.drop_out else torch.ones(SHAPE.m, SHAPE.n, dtype=torch.bool)
    kept = (left.sum(1) * right.sum(1)).sum() / (SHAPE.m * SHAPE.n * SHAPE.k)
    assert masks.kept(SHAPE) == pytest.approx(kept.item())
    assert 0 < masks.kept(SHAPE) < 1


@pytest.mark.parametrize("mask", ["in", "out", "both"])
def test_layer_rounds_draw_fresh_masks_and_know_them(mask: str) -> None:
    at = settings()
    side = layer.sides(at, SHAPE, "float32", mask, 0.5, "forward")[-1]
    on = Operands.make(SHAPE, "float32", "cpu")
    for turn in range(3):
        call, kept = side.prepare(turn)
        y = call()
        torch.manual_seed(turn)
        masks = Masks.draw(at, SHAPE, mask, torch.tensor(0.5))
        x = on.x if masks.drop_in is None else torch.where(masks.drop_in.dense(), on.x, 0) * 2
        expected = x @ on.weight.t() + on.bias
        if masks.drop_out is not None:
            expected = torch.where(masks.drop_out.dense(), expected, 0) * 2
        torch.testing.assert_close(y, expected)
        assert kept == masks.kept(SHAPE)
    assert len({side.prepare(turn).kept for turn in range(8)}) > 1


def test_all_sides_want_the_same_gradients() -> None:
    for side in layer.sides(settings(), SHAPE, "float32", "in", 0.5, "forward+backward"):
        grads = side.prepare(0).call()
        assert [tuple(grad.shape) for grad in grads] == [(64, 80), (48, 80), (48,)]  # type: ignore[attr-defined]


def test_json_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    pytest.importorskip("matplotlib")
    sizes = ["--shape", "64,48,80", "--p", "0", "0.5", "--block", "16", "--masks", "3", "--mask", "in"]
    what = ["--what", "gemm", "layer", "overhead"]
    assert main(["bench", *sizes, *what, "--json", str(tmp_path / "a.json"), "--png", str(tmp_path / "a.png")]) == 0
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "a.json").read_text())
    assert set(found) == {"schema", "environment", "settings", "load", "rows"}
    assert {"versions", "cpu", "gpus", "serving"} <= set(found["environment"])
    assert found["settings"]["shapes"] == [[64, 48, 80]]
    # gemm: 3 products × 2 p × 2 sides; layer: 2 phases × 2 p × 3 sides; overhead: 2 phases × 3 sides
    assert [row["what"] for row in found["rows"]] == ["gemm"] * 12 + ["layer"] * 12 + ["overhead"] * 6
    for row in found["rows"]:
        times = row["seconds"]
        assert 0 < times["low"] <= times["median"] <= times["high"]
        assert row["side"] in ("dense", "dropout", "sparsedrop")
        assert row["kept"] == 1 or row["side"] == "sparsedrop"
        bases = {"dense"} if row["what"] == "gemm" else {"dense", "dropout"}
        assert set(row.get("relative", ())) == bases - {row["side"]}
    assert "64×48×80, float32, mask in, forward+backward" in shown
    assert "kept-work efficiency, 64×48×80" in shown
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    again = Record.load_from(tmp_path / "a.json")
    assert [row.to_json() for row in again.rows] == found["rows"]


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    command.measure(settings(threads=before + 1, p=(0.5,)))
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_sees_what_a_step_allocates() -> None:
    shape = Shape(2048, 2048, 2048)
    job = memory.MemoryJob(settings(block=(128, 128), p=(0.5,)), "float32", shape, "in")
    peak = {row.side: row.peak_bytes for row in job.run(HostTimer(), lambda: None)}
    result = 4 * 2048**2
    # y, dX and dW live at once; dropout keeps at least the dropped input beside them.
    assert peak["dense"] is not None
    assert peak["dropout"] is not None
    assert peak["dense"] > 2.5 * result
    assert peak["dropout"] > peak["dense"] + 0.9 * result
    if providers.cpu.missing is None:
        assert peak["sparsedrop"] is not None
        assert peak["sparsedrop"] < peak["dropout"]


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
        (["--json", "/no/such/folder/a.json"], "there is no folder"),
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


def test_gemm_measures_all_places_of_the_mask_unless_told() -> None:
    def masks(*arguments: str) -> dict[str, set[str]]:
        chosen = command.settings_of(parser().parse_args(["bench", "--what", "gemm", "layer", *arguments]))
        jobs = [job for what in chosen.what for job in WORKLOADS[what](chosen)]
        found: dict[str, set[str]] = {}
        for job in jobs:
            assert isinstance(job, TimedJob)
            found.setdefault(job.key["what"], set()).add(job.key["mask"])
        return found

    assert masks() == {"gemm": {"in", "out", "both"}, "layer": {"in"}}
    assert masks("--mask", "out") == {"gemm": {"out"}, "layer": {"out"}}


def test_readme_sections_come_from_the_results(tmp_path: Path) -> None:
    def row(side: str, p: float, milliseconds: float, **more: object) -> Row:
        third = Quartiles(milliseconds / 1e3, milliseconds / 1e3, milliseconds / 1e3)
        ratio = {"dense": Quartiles(milliseconds / 10, milliseconds / 10, milliseconds / 10)}
        return Row("layer", "8×8×8", "float32", "forward+backward", side, "in", p, 1.0, third, ratio)

    rows = []
    for p in readme.SHOWN_P:
        rows += [row("dense", p, 10), row("dropout", p, 12), row("sparsedrop", p, 10 * (1 - p))]
    record = Record.begin(settings())
    record.rows.extend(rows)
    record.save(tmp_path / "cpu.json")
    text = "before\n<!-- results: layer -->\nstale\n<!-- end -->\nafter\n"
    filled = readme.fill(text, tmp_path)
    assert (
        "| 8×8×8 | float32 | 10.0 ms | 1.20 | 1.00 | **0.90** | **0.80** | **0.70** | **0.50** | **0.30** |" in filled
    )
    assert "stale" not in filled
    assert filled.startswith("before\n")
    assert filled.endswith("after\n")
    assert readme.fill(filled, tmp_path) == filled


def test_the_readme_is_up_to_date() -> None:
    root = Path(__file__).parents[1]
    results = root / "examples" / "results"
    text = (root / "README.md").read_text()
    assert readme.fill(text, results) == text, "run `python -m torch_sparsedrop.bench.readme`"
