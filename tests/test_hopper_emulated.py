"""The Hopper kernel without a GPU: its own sources as C++, with the instructions of tests/emulator in the place of the
GPU's. What it does not see: the instructions' own words, fences between ways to memory, and speed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from torch_sparsedrop.providers.hopper import kernel

HERE = Path(__file__).parent


class Emulator:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        driver = [str(HERE / "emulator" / "driver.cpp"), "-o", str(folder / "libcuda.so.1")]
        subprocess.run(["g++", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", *driver], check=True)

    def run(
        self, seeds: Sequence[int], blocks: int, pair: int, sizes: tuple[int, int], order: int, replays: int = 0,
        change: tuple[str, str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Compares random problems with the reference. ``pair``: thread blocks side by side; ``sizes``: up to the
        first, one of them about the second; ``order`` draws what happens when; ``replays``: of each launch; ``change``:
        in a source file, a text in the place of another."""
        with self.lock:
            sources = self._sources(change)
        environment = os.environ | {
            "LD_LIBRARY_PATH": str(self.folder),
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            "EMULATOR_SEED": str(order),
            "EMULATOR_REPLAYS": str(replays),
            "OMP_NUM_THREADS": "1",
        }
        numbers = map(str, (blocks, pair, *sizes, *seeds))
        command = [sys.executable, str(sources / "run.py"), str(sources), *numbers]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def _sources(self, change: tuple[str, str, str] | None) -> Path:
        sources = self.folder / f"{abs(hash(change))}"
        if not sources.exists():
            shutil.copytree(HERE / "emulator", sources)
            main, headers = kernel.sources()
            for name, text in {"masked_matmul.cu": main, **headers}.items():
                if change is not None and name == change[0]:
                    assert change[1] in text
                    text = text.replace(change[1], change[2], 1)
                if not (sources / name).exists():
                    (sources / name).write_text(text)
        return sources


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """What the chosen tests wait for, as many at a time as there are processors."""
    emulator = Emulator(tmp_path_factory.mktemp("emulator"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {
            item.name: pool.submit(emulator.run, **arguments(**item.callspec.params))
            for item in request.session.items
            if isinstance(item, pytest.Function) and item.module is request.module
        }
        pool.shutdown(cancel_futures=True)


def arguments(
    change: tuple[str, str, str] | None = None, seeds: Sequence[int] | None = None, **rest: Any
) -> dict[str, Any]:
    """From a test's parameters to those of a run."""
    if seeds is None:
        seeds = (50,) if rest["sizes"] == WHOLE_FIRST else range(3)
    if change is not None:
        rest["replays"] = int(change[0] == "walker.cuh")
    return {"change": change, "seeds": seeds, "order": seeds[0], **rest}


DIVIDED = 264, 4000
"""Sizes of sums so long that several thread blocks share a tile."""
WHOLE_FIRST = 700, 4000
"""At seed 50, with some tiles that are whole before those."""


@pytest.mark.parametrize(
    ("seeds", "blocks", "pair", "sizes", "replays"),
    [
        (range(4), 5, 1, (700, 0), 1),
        (range(10, 14), 12, 1, (700, 0), 0),
        (range(20, 24), 1, 1, (500, 0), 0),
        ((31, 32, 34, 36), 6, 1, DIVIDED, 0),
        ((50,), 4, 1, WHOLE_FIRST, 1),
        ((0, 2, 6), 6, 2, (700, 0), 1),
        ((10, 15), 2, 2, (1100, 0), 0),
        ((34, 36, 39), 6, 2, DIVIDED, 0),
        ((50,), 8, 2, WHOLE_FIRST, 1),
    ],
    ids=str,
)
def test_random_problems(request, runs, seeds, blocks, pair, sizes, replays):
    done = runs[request.node.name].result()
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("change", "sizes", "blocks", "pair"),
    [
        # Loads into what is being read, and reads what is not there yet.
        (("producer.cuh", "wait(shared.empty[stage.slot()], stage.parity() ^ 1);", ""), (700, 0), 5, 1),
        (("consumer.cuh", "wait(shared.full[stage.slot()], stage.parity());", ""), (700, 0), 5, 1),
        # Gives back what is being read: by a multiplication, by a store.
        (("consumer.cuh", "wgmma_wait<1>();", ""), (500, 0), 5, 1),
        (("epilogue.cuh", "      wait_stores_read();\n      meet(2 + group(), 128);\n", ""), (700, 0), 1, 1),
        # Describes a tile before the last one has left.
        (("scout.cuh", "wait(shared.tile_empty[slot.slot()], slot.parity() ^ 1);", ""), (500, 0), 1, 1),
        # Never gives it back.
        (("consumer.cuh", "    arrive_at_all(shared.empty[before]);\n", ""), (500, 0), 5, 1),
        # Parts that nobody hears of, or that nobody takes.
        (("parts.cuh", "set_flag(args.flags + share_of(shared.gives), args.ticket);", ""), DIVIDED, 5, 1),
        (("consumer.cuh", "if (tile.peers() > 0) take_parts(args, c, told.stretch, tile.peers());", ""), DIVIDED, 5, 1),
        # Reads what kernels before it have not written yet.
        (("masked_matmul.cu", "  wait_for_kernels_before();\n", ""), (500, 0), 5, 1),
        # Counts on from what lay there.
        (("walker.cuh", "args.flags[gridDim.x + 1] = 0;", ""), (700, 0), 3, 1),
        # Counts before the count begins.
        (
            ("walker.cuh", "if (taken_ == 1) wait_flag(args_.flags + gridDim.x, args_.ticket);", ""),
            WHOLE_FIRST,
            4,
            1,
        ),
        # Loads what the scout has not told yet, and tells it where it is being read.
        (("producer.cuh", "wait(shared.batch_full[now.slot()], now.parity());", ""), (500, 0), 5, 1),
        (("scout.cuh", "wait(shared.batch_empty[next.slot()], next.parity() ^ 1);", ""), DIVIDED, 1, 1),
        # Loads what another thread block beside it is still reading; ends while another one still arrives at it.
        (
            ("pair.cuh", "if (lane < kPair) arrive_at(barrier, lane);", "if (lane < kPair) arrive(barrier);"),
            (700, 0),
            6,
            2,
        ),
        (("masked_matmul.cu", "here.\n  arrive_all();\n  wait_all();\n", "\n"), (500, 0), 6, 2),
    ],
    ids=lambda it: it[1].strip()[:30] if isinstance(it, tuple) and len(it) == 3 else "",
)
def test_emulator_notices(request, runs, change, sizes, blocks, pair):
    """A kernel that does not wait, or waits for ever, fails in some order of events."""
    done = runs[request.node.name].result()
    assert done.returncode != 0
    assert "AssertionError" in done.stderr or "hangs" in done.stderr, done.stderr
