"""The demo, in small: it trains, measures and writes what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

DEMO = Path(__file__).parents[1] / "examples" / "demo"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("demo")
    text = out / "text.txt"
    text.write_text("to be, or not to be, that is the question: " * 40)
    sizes = ["--steps=6", "--batch=256", "--width=256", "--embedding=16", "--context=8", "--validate-every=2"]
    command = [sys.executable, str(DEMO / "train.py"), f"--out={out}", f"--text={text}", "--device=cpu", *sizes]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout, out


def test_it_trains_three_ways(finished: tuple[str, Path]) -> None:
    losses = json.loads((finished[1] / "demo.json").read_text())["losses"]
    assert list(losses) == ["no dropout", "F.dropout", "SparseDrop"]
    for way in losses.values():
        steps, values = zip(*way, strict=True)
        assert steps == (0, 2, 4, 6)
        assert values[-1] < values[0]
    # The same weights to begin with.
    assert len({way[0][1] for way in losses.values()}) == 1


def test_the_table_has_the_density_that_was_used(finished: tuple[str, Path]) -> None:
    stdout, out = finished
    head, *rows = json.loads((out / "demo.json").read_text())["table"]
    computed = [row[head.index("blocks computed")] for row in rows]
    # Balanced masks with two blocks in a row: p = 0.5 keeps exactly one.
    assert computed == ["1.000", "1.000", "0.500"]
    assert all(cell in stdout for row in rows for cell in row)


def test_it_draws(finished: tuple[str, Path]) -> None:
    assert (finished[1] / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_the_bundled_text_is_small() -> None:
    assert 100_000 < (DEMO / "shakespeare.txt").stat().st_size < 250_000
