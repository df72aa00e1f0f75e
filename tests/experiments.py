"""The paper's experiments as tests see them: their modules, generated data under the real files' names, a command."""

from __future__ import annotations

import gzip
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tqdm")

PAPER = Path(__file__).parents[1] / "examples" / "paper"
MODULES = [path.stem for path in PAPER.glob("*.py")]


@pytest.fixture(scope="module")
def paper() -> Iterator[Any]:
    """The experiment's modules by name. They are scripts that import each other, so they leave with their folder."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(PAPER))
    for name in MODULES:
        patch.delitem(sys.modules, name, raising=False)
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    patch.undo()
    for name in MODULES:
        sys.modules.pop(name, None)


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated files under the names of the real ones: squares whose place is their class, and a text."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)

    def images(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(0, 10, count).astype(np.uint8)
        pixels = random.integers(0, 60, (count, size, size)).astype(np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[label * 2 : label * 2 + 8, label * 2 : label * 2 + 8] = 255
        return pixels, labels

    for name, write in (("mnist", lambda p, b: p.with_name(p.name + ".gz").write_bytes(gzip.compress(b))),
                        ("fashion_mnist", lambda p, b: p.write_bytes(b))):  # fmt: skip
        (folder / name).mkdir()
        for part, count in (("train", 120), ("t10k", 40)):
            pixels, labels = images(count, 28)
            write(folder / name / f"{part}-images-idx3-ubyte", idx(pixels))
            write(folder / name / f"{part}-labels-idx1-ubyte", idx(labels))
    inside = folder / "cifar-10-batches-bin"
    inside.mkdir()
    for file, count in [(f"data_batch_{i}", 24) for i in range(1, 6)] + [("test_batch", 40)]:
        pixels, labels = images(count, 32)
        records = np.concatenate(
            [labels[:, None], np.repeat(pixels.reshape(count, -1), 3, axis=0).reshape(count, -1)], 1
        )
        records.astype(np.uint8).tofile(inside / f"{file}.bin")
    words = random.choice(["to be ", "or not ", "that is ", "the question "], 3000)
    (folder / "tinyshakespeare.txt").write_text("".join(words))
    return folder


def command(folder: Path, out: Path, *more: str) -> list[str]:
    given = ["--data", str(folder), "--out", str(out), "--device", "cpu", "--smoke", "--block", "16x16", "--p", "0.3"]
    return [*more, *given]
