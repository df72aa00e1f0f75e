"""The examples run, and fuse what they promise."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from vision import import_timm

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(path: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    file = EXAMPLES / path
    monkeypatch.syspath_prepend(str(file.parent))
    spec = importlib.util.spec_from_file_location(f"example_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    torch._dynamo.reset()
    return module


def test_quickstart(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = load("quickstart.py", monkeypatch).main(width=512, rows=128, steps=12, inner="aot_eager")
    assert "2 of 2 dropouts fused" in capsys.readouterr().out
    assert min(found.values()) > 0.3
    assert found["reloaded"] == found["sparsedrop"]


def test_custom_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load("custom_layer.py", monkeypatch).main(64, 32, 128, block=16, repeats=1) < 1e-4


def test_huggingface(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = load("huggingface.py", monkeypatch).main(width=64, length=32, steps=40, inner="aot_eager")
    # At this size the last one is too small.
    assert "5 of 8 dropouts fused" in capsys.readouterr().out
    assert found["after"] > found["before"]
    assert found["reloaded"] == found["after"]


def test_lora(monkeypatch: pytest.MonkeyPatch) -> None:
    report, losses = load("lora.py", monkeypatch).main(rows=32, steps=6, inner="aot_eager")
    assert report.totals["fused"] == 8
    assert losses[-1] < losses[0]


FUSED = {"bert": 5, "gpt2": 4, "t5": 16, "bart": 16, "vit": 4, "lora": 10, "llama": 14, "timm": 6, "torch": 6}
ALWAYS = ("bert", "llama", "torch")


@pytest.mark.parametrize(
    "name", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.full) for name in FUSED]
)
def test_families(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import_timm()
    report = load("families.py", monkeypatch).main(name, steps=1, inner="aot_eager")
    assert report.totals["fused"] == FUSED[name]
    assert "step 0: loss" in capsys.readouterr().out


def test_nanogpt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 60)
    train = load("nanogpt/train.py", monkeypatch)
    small = (
        "--steps 60 --every 30 --batch 8 --context 32 --layers 2 --heads 2 --width 64 --block 16 16 --inner aot_eager"
    )
    assert train.main([str(text), *small.split(), "--rate", "3e-3"]) < 2.0


def test_the_picture_is_what_its_script_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = load("results/picture.py", monkeypatch).svg()
    assert (EXAMPLES / "results" / "picture.svg").read_text(encoding="utf-8") == drawn
