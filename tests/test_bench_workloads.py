"""``python -m torch_sparsedrop bench``: what it runs."""

from __future__ import annotations

import gc
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_cases import SHAPE, settings
from torch.nn import functional as F
from vision import import_timm

from torch_sparsedrop import providers
from torch_sparsedrop.bench import command
from torch_sparsedrop.bench.models import MODELS, loss_of
from torch_sparsedrop.bench.models.apart import Apart
from torch_sparsedrop.bench.models.entrant import Entrant, Which
from torch_sparsedrop.bench.record import Record
from torch_sparsedrop.bench.settings import Shape
from torch_sparsedrop.bench.timing import GRAPH, HostTimer, timer_for
from torch_sparsedrop.bench.workloads import WORKLOADS, layer, memory, mlp, peers
from torch_sparsedrop.bench.workloads.operands import Masks, Operands
from torch_sparsedrop.options import Options


@pytest.mark.parametrize("mask", ["in", "out", "both"])
def test_kept_is_what_the_masks_keep(mask: str) -> None:
    torch.manual_seed(0)
    masks = Masks.draw(settings(), SHAPE, mask, 0.5)
    left = masks.drop_in.dense() if masks.drop_in else torch.ones(SHAPE.m, SHAPE.k, dtype=torch.bool)
    right = masks.drop_out.dense() if masks.drop_out else torch.ones(SHAPE.m, SHAPE.n, dtype=torch.bool)
    kept = (left.sum(1) * right.sum(1)).sum() / (SHAPE.m * SHAPE.n * SHAPE.k)
    assert masks.kept(SHAPE) == pytest.approx(kept.item())
    assert 0 < masks.kept(SHAPE) < 1


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mask", ["in", "out", "both"])
def test_layer_rounds_draw_fresh_masks_and_know_them(mask: str, bias: bool) -> None:
    at = settings(bias=bias)
    side = layer.sides(at, SHAPE, "float32", mask, "forward")[-1]
    assert (side.name, side.p) == ("sparsedrop", 0.5)
    on = Operands.make(SHAPE, "float32", "cpu", bias=bias)
    assert (on.bias is not None) == bias
    for turn in range(3):
        call, kept, _ = side.prepare(turn)
        y = call()
        torch.manual_seed(turn)
        masks = Masks.draw(at, SHAPE, mask, torch.tensor(0.5))
        x = on.x if masks.drop_in is None else torch.where(masks.drop_in.dense(), on.x, 0) * 2
        expected = F.linear(x, on.weight, on.bias)
        if masks.drop_out is not None:
            expected = torch.where(masks.drop_out.dense(), expected, 0) * 2
        torch.testing.assert_close(y, expected)
        assert kept == masks.kept(SHAPE)
    assert len({side.prepare(turn).kept for turn in range(8)}) > 1


def test_all_sides_want_the_same_gradients() -> None:
    for side in layer.sides(settings(), SHAPE, "float32", "in", "forward+backward"):
        grads = side.prepare(0).call()
        assert [tuple(grad.shape) for grad in grads] == [(64, 80), (48, 80), (48,)]  # type: ignore[attr-defined]


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


def test_a_model_is_timed_in_all_its_variants(tmp_path: Path) -> None:
    at = settings(what=("model",), models=("nanogpt",), small=True, inner="eager", p=(0.1,), masks=2, optimizer=True,
                  profile=str(tmp_path))  # fmt: skip
    (job,) = WORKLOADS["model"](at)
    ticks: list[int] = []
    rows = {row.side: row for row in job.run(HostTimer(), lambda: ticks.append(1))}
    assert list(rows) == ["none", "dropout", "elsewhere", "converted"]
    assert len(ticks) == job.ticks
    assert {row.subject for row in rows.values()} == {"nanogpt, small, 2 × 64"}
    assert set(rows["converted"].relative) == {"none", "dropout", "elsewhere"}
    assert rows["elsewhere"].note.startswith("4 of 7 dropouts fused")
    profiles = {path.stem: path.read_text() for path in tmp_path.iterdir()}
    assert sorted(profiles) == [f"nanogpt-float32-{of}" for of in (
        "converted-0.1-bernoulli", "dropout-0.1", "elsewhere-0.1", "none-0"
    )]  # fmt: skip
    assert "sparsedrop::" in profiles["nanogpt-float32-converted-0.1-bernoulli"]
    assert "sparsedrop::" not in profiles["nanogpt-float32-dropout-0.1"]


def test_elsewhere_keeps_the_dropout_that_is_not_fused() -> None:
    at = settings(small=True, inner="eager")
    model = Entrant(at, Which("nanogpt", "elsewhere", "float32", 0.1, "")).model
    p = {name: module.p for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert p == {
        "dropout": 0.1, "blocks.0.dropout1": 0.0, "blocks.0.dropout2": 0.0, "blocks.1.dropout1": 0.0,
        "blocks.1.dropout2": 0.0,
    }  # fmt: skip
    assert model.blocks[0].p == 0.1  # type: ignore[union-attr, index]


def test_models_in_cuda_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every side is compiled in the mode that makes them; here no GPU takes part."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: found.append(how))
    for side in ("dropout", "converted"):
        Entrant(settings(small=True, graph=True, select="all"), Which("nanogpt", side, "float32", 0.1, "balanced"))
    options = {"inner": "inductor", "mode": "reduce-overhead", "select": "all", "block": (16, 16), "kind": "balanced"}
    assert found == [
        {"backend": "inductor", "mode": "reduce-overhead"},
        {"backend": "sparsedrop", "options": options},
    ]
    Options.parse(options)


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
    side = layer.sides(at, shape, "float32", "in", phase + GRAPH)[-1]
    gc.collect()
    poison = [torch.full((size,), torch.nan, device="cuda") for size in (1, 16, 2**12, 2**16, 2**20) for _ in range(64)]
    on = Operands.make(shape, "float32", "cuda")
    kept = []
    for turn in range(4):
        call, share, _ = side.prepare(turn)
        y = call()
        torch.manual_seed(turn)
        drawn = [Masks.draw(at, shape, "in", torch.tensor(0.5, device="cuda")) for _ in range(layer.STEPS)]
        assert share == pytest.approx(statistics.fmean(masks.kept(shape) for masks in drawn))
        drop = drawn[-1].drop_in
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
