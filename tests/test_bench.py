"""``python -m torch_sparsedrop bench``: what it times, how it compares, what it writes."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from vision import import_timm

from torch_sparsedrop import BlockMask, providers
from torch_sparsedrop.__main__ import main, parser
from torch_sparsedrop.bench import command, plot, readme, report
from torch_sparsedrop.bench.models import MODELS, loss_of
from torch_sparsedrop.bench.models.apart import Apart
from torch_sparsedrop.bench.models.entrant import Entrant, Which
from torch_sparsedrop.bench.record import Record
from torch_sparsedrop.bench.rows import Row, efficiency, timed_rows
from torch_sparsedrop.bench.settings import Settings, Shape
from torch_sparsedrop.bench.timing import HostTimer, Quartiles, Sample, Side, Turn, interleave, same, timer_for
from torch_sparsedrop.bench.workloads import WORKLOADS, layer, memory, mlp, peers
from torch_sparsedrop.bench.workloads.bound import quantisation_bound
from torch_sparsedrop.bench.workloads.job import TimedJob
from torch_sparsedrop.bench.workloads.operands import Masks, Operands

SHAPE = Shape(64, 48, 80)


def settings(**changes: object) -> Settings:
    fields: dict[str, object] = {
        "what": ("layer",), "shapes": (SHAPE,), "p": (0.0, 0.5), "dtypes": ("float32",), "mask": ("in",),
        "block": (16, 16), "masks": 3, "warmup": 1, "threads": 1, "device": "cpu",
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
    side = layer.sides(at, SHAPE, "float32", mask, "forward")[-1]
    assert (side.name, side.p) == ("sparsedrop", 0.5)
    on = Operands.make(SHAPE, "float32", "cpu")
    for turn in range(3):
        call, kept, _ = side.prepare(turn)
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
    for side in layer.sides(settings(), SHAPE, "float32", "in", "forward+backward"):
        grads = side.prepare(0).call()
        assert [tuple(grad.shape) for grad in grads] == [(64, 80), (48, 80), (48,)]  # type: ignore[attr-defined]


def test_json_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    pytest.importorskip("matplotlib")
    sizes = ["--shape", "64,48,80", "--p", "0", "0.5", "--block", "16", "--masks", "3", "--mask", "in"]
    what = ["--what", "gemm", "layer", "draw", "overhead"]
    assert main(["bench", *sizes, *what, "--json", str(tmp_path / "a.json"), "--png", str(tmp_path / "a.png")]) == 0
    shown = capsys.readouterr().out
    written = json.loads((tmp_path / "a.json").read_text())
    assert set(written) == {"schema", "runs"}
    (found,) = written["runs"]
    assert set(found) == {"environment", "settings", "load", "left", "rows"}
    assert {"versions", "cpu", "gpus", "serving"} <= set(found["environment"])
    assert found["settings"]["shapes"] == [[64, 48, 80]]
    # gemm: 3 products × (dense, 2 p); layer: 2 phases × (dense, dropout, 2 p); draw: 2; overhead: 2 phases × 3 sides
    assert [row["what"] for row in found["rows"]] == ["gemm"] * 9 + ["layer"] * 8 + ["draw"] * 2 + ["overhead"] * 6
    for row in found["rows"]:
        times = row["seconds"]
        assert 0 < times["low"] <= times["median"] <= times["high"]
        assert ("p" in row) == (row["side"] in ("sparsedrop", "dropout"))
        assert row.get("kept") == (None if row["side"] == "draw" else 1) or row["side"] == "sparsedrop"
        bases = {"dense", "dropout"} if row["what"] in ("layer", "overhead") else {"dense"}
        if row["side"] == "dense":
            bases = set()
        elif row.get("p") == 0 or row["side"] == "dropout":
            bases = {"dense"}
        assert set(row.get("relative", ())) == bases
    assert "64×48×80, float32, mask in, forward+backward" in shown
    assert "kept-work efficiency, 64×48×80" in shown
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (again,) = Record.load_from(tmp_path / "a.json")
    assert [row.to_json() for row in again.rows] == found["rows"]
    assert again.settings.p == (0.0, 0.5)


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    command.measure(Record.begin(settings(threads=before + 1, p=(0.5,))))
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
        (["--device", "gpu"], "--device must be one of"),
        (["--json", "/no/such/folder/a.json"], "there is no folder"),
        (["--append"], "--append needs --json"),
        (["--device", "cpu", "--graph"], "for CUDA devices"),
        (["--device", "cpu", "--tune"], "for CUDA devices"),
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


def test_bound_of_whole_tiles() -> None:
    shape = Shape(512, 512, 512)  # 4 rows of 2 tiles

    def masks(keep_in: list[list[int]] | None, keep_out: list[list[int]] | None) -> Masks:
        def one(keep: list[list[int]] | None) -> BlockMask | None:
            return None if keep is None else BlockMask.from_keep(torch.tensor(keep) > 0, 512, 512, block=(128, 128))

        return Masks(one(keep_in), one(keep_out))

    kept = masks([[1] * 4] * 4, None)
    assert quantisation_bound("forward", shape, kept, 8) == 1
    assert quantisation_bound("forward", shape, kept, 6) == pytest.approx(8 / 12)
    # One row of blocks is four times as long as the others: its two tiles outlast the rest.
    long = masks([[1] * 4] + [[1, 0, 0, 0]] * 3, None)
    assert quantisation_bound("forward", shape, long, 4) == pytest.approx((8 + 6) / 4 / 4)
    assert quantisation_bound("dw", shape, long, 4) == pytest.approx((8 + 6) / 4 / 4)
    # Of C 4, 2, 1 and 0 blocks are kept: two tiles, one, and half a one, each as long.
    out = masks(None, [[1] * 4, [1, 1, 0, 0], [1, 0, 0, 0], [0] * 4])
    assert quantisation_bound("forward", shape, out, 2) == pytest.approx(3.5 / 2 / 2)
    assert quantisation_bound("dx", shape, Masks(out.drop_out, None), 2) == pytest.approx(3.5 / 2 / 2)
    assert quantisation_bound("forward", shape, masks(None, [[0] * 4] * 4), 2) is None
    assert quantisation_bound("dw", shape, Masks(long.drop_in, out.drop_out), 2) is None


def test_bounds_are_shown_beside_what_stays_below() -> None:
    clock = Clock()
    ours = Side("sparsedrop", lambda turn: Turn(clock.takes(5.0), 0.5, bound=0.9))
    samples = interleave([same("dense", clock.takes(8.0)), ours], HostTimer(clock), rounds=4)
    rows = timed_rows(samples, what="gemm", subject="8×8×8", dtype="d", phase="forward")
    assert Row.from_json(rows[1].to_json()).bound == pytest.approx(0.9)
    assert "0.80 [0.80–0.80] of 0.90" in report.gemm(rows)[0]


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


def test_peers_drop_what_they_say() -> None:
    at = settings(peers=("block mask", "bsr"), p=(0.5,))
    on = Operands.make(SHAPE, "float32", "cpu")
    made = peers.layers(at, layer.layers(at, SHAPE, "in", 0.5), SHAPE, "in", "forward")
    torch.manual_seed(3)
    y = made["block mask"](on.x, on.weight, on.bias)
    torch.manual_seed(3)
    mask = torch.rand(4, 5).ge(0.5).repeat_interleave(16, 0).repeat_interleave(16, 1)
    torch.testing.assert_close(y, (on.x * mask * 2) @ on.weight.t() + on.bias)
    torch.manual_seed(3)
    y = peers.layers(at, {}, SHAPE, "in", "forward")["bsr"](on.x, on.weight, on.bias)
    torch.manual_seed(3)
    drop = Masks.draw(at, SHAPE, "in", 0.5).drop_in
    assert drop is not None
    torch.testing.assert_close(y, (on.x * drop.dense() * 2) @ on.weight.t() + on.bias)


def test_a_peer_that_fails_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise NotImplementedError("no such kernel")

    assert peers.tried("bsr", lambda: fails) is None
    assert "bsr is left out: no such kernel" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(mlp.BLOCKS))
def test_blocks_are_fused_whole_and_narrowed_to_the_kept_work(name: str) -> None:
    at = settings(inner="eager", p=(0.0, 0.5))
    sides = mlp.sides(at, "float32", Shape(64, 128, 64), name)
    assert [(side.name, side.p) for side in sides] == [
        ("none", None), ("converted", 0.5), ("dropout", 0.5), ("narrowed", 0.5),
    ]  # fmt: skip
    grads = {side.name: side.prepare(0).call() for side in sides}
    assert all(torch.isfinite(grad).all() for own in grads.values() for grad in own)  # type: ignore[attr-defined]
    widths = {label: {tuple(grad.shape) for grad in own} for label, own in grads.items()}  # type: ignore[attr-defined]
    assert (128, 64) in widths["converted"] == widths["none"]
    assert (64, 64) in widths["narrowed"]
    assert sides[-1].prepare(0).kept == 0.5


def test_a_block_that_is_not_fused_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="not fused"):
        mlp._converted(settings(inner="eager"), torch.nn.Sequential(torch.nn.Dropout(0.5)), torch.ones(2, 64), 0.5,
                       "bernoulli")  # fmt: skip


def test_a_model_is_timed_in_all_its_variants() -> None:
    at = settings(what=("model",), models=("nanogpt",), small=True, inner="eager", p=(0.1,), masks=2, optimizer=True)
    (job,) = WORKLOADS["model"](at)
    ticks: list[int] = []
    rows = {row.side: row for row in job.run(HostTimer(), lambda: ticks.append(1))}
    assert list(rows) == ["none", "dropout", "elsewhere", "converted"]
    assert len(ticks) == job.ticks
    assert {row.subject for row in rows.values()} == {"nanogpt, small, 2 × 64"}
    assert set(rows["converted"].relative) == {"none", "dropout", "elsewhere"}
    assert rows["elsewhere"].note.startswith("4 of 7 dropouts fused")


def test_elsewhere_keeps_the_dropout_that_is_not_fused() -> None:
    at = settings(small=True, inner="eager")
    model = Entrant(at, Which("nanogpt", "elsewhere", "float32", 0.1, "")).model
    p = {name: module.p for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert p == {
        "dropout": 0.1, "blocks.0.dropout1": 0.0, "blocks.0.dropout2": 0.0, "blocks.1.dropout1": 0.0,
        "blocks.1.dropout2": 0.0,
    }  # fmt: skip
    assert model.blocks[0].p == 0.1  # type: ignore[union-attr, index]


@pytest.mark.parametrize("name", MODELS)
def test_models_train(name: str) -> None:
    import_timm()
    for library in ("transformers", "peft"):
        pytest.importorskip(library)
    model, torch_model = MODELS[name], MODELS[name].build(0.1, True)
    loss = loss_of(torch_model(**model.batch(*model.small_size, True)))
    loss.backward()
    assert torch.isfinite(loss)


def test_an_entrant_in_a_process_of_its_own() -> None:
    at = settings(small=True, inner="eager")
    good = Apart(at, Which("nanogpt", "dropout", "float32", 0.1, ""), None)
    bad = Apart(at, Which("nanogpt", "dropout", "float32", 2.0, ""), None)
    late = Apart(at, Which("nanogpt", "none", "float32", 0.0, ""), 0.0)
    try:
        with pytest.raises(TimeoutError, match="had not compiled"):
            late.ready()
        assert good.ready().note == ""
        assert good.turn() > 0
        with pytest.raises(RuntimeError, match="dropout probability has to be between 0 and 1"):
            bad.ready()
    finally:
        for runner in (good, bad, late):
            runner.close()
    assert not good.process.is_alive()


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("phase", layer.PHASES)
def test_captured_layers_draw_fresh_masks_and_know_them(phase: str) -> None:
    at, shape = settings(device="cuda"), Shape(256, 192, 320)
    side = layer.sides(at, shape, "float32", "in", phase + layer.GRAPH)[-1]
    gc.collect()
    poison = [torch.full((size,), torch.nan, device="cuda") for size in (1, 16, 2**12, 2**16, 2**20) for _ in range(64)]
    on = Operands.make(shape, "float32", "cuda")
    kept = []
    for turn in range(4):
        call, share, _ = side.prepare(turn)
        y = call()
        torch.manual_seed(turn)
        drop = Masks.draw(at, shape, "in", torch.tensor(0.5, device="cuda")).drop_in
        assert drop is not None
        if phase == "forward":
            torch.testing.assert_close(y, (on.x * drop.dense() * 2) @ on.weight.t() + on.bias, rtol=1e-4, atol=1e-3)
        else:
            expected = (on.grad @ on.weight) * drop.dense() * 2
            torch.testing.assert_close(y[0], expected, rtol=1e-4, atol=1e-3)  # type: ignore[index]
        kept.append(share)
    assert len(set(kept)) > 1
    del poison


@pytest.mark.gpu
@needs_gpu
def test_clocks_of_a_gpu() -> None:
    timer = timer_for("cuda")

    def call() -> None:
        torch.cuda._sleep(20_000_000)

    timed = {clock: timer.seconds(call, 2, clock) for clock in ("device", "step", "host")}
    assert timed["device"] == pytest.approx(timed["step"], rel=0.2)
    assert 0.008 < timed["device"] < 0.06
    assert timed["host"] < 0.002


@pytest.mark.gpu
@needs_gpu
def test_memory_of_a_gpu() -> None:
    at = settings(device="cuda", block=(128, 128), p=(0.5,))
    job = memory.MemoryJob(at, "float32", Shape(2048, 2048, 2048), "in")
    peak = {row.side: row.peak_bytes or 0 for row in job.run(HostTimer(), lambda: None)}
    assert peak["sparsedrop"] < peak["dense"] + 2**20 < peak["dropout"]
