"""What the experiments read: the usual files, archives, and errors that say what is missing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiments import folder, idx, paper

__all__ = ["folder", "paper"]

CPU = torch.device("cpu")


def test_idx_files_and_archives_hold_the_same(paper: Any, folder: Path, tmp_path: Path) -> None:
    plain = paper.data.load("fashion_mnist", folder, CPU)
    assert plain.inputs.shape == (160, 1, 32, 32)
    assert (plain.trainable, plain.classes, plain.inputs.max().item()) == (120, 10, 1.0)
    for part, file in (("train", "train"), ("test", "t10k")):
        inside = folder / "fashion_mnist"
        images = paper.data._read_idx(inside / f"{file}-images-idx3-ubyte", 3)
        labels = paper.data._read_idx(inside / f"{file}-labels-idx1-ubyte", 1)
        np.savez(tmp_path / f"fashion_mnist_{part}.npz", images=images, labels=labels)
    archive = paper.data.load("fashion_mnist", tmp_path, CPU)
    assert torch.equal(archive.inputs, plain.inputs)
    assert torch.equal(archive.targets, plain.targets)
    assert archive.digest == plain.digest != paper.data.load("mnist", folder, CPU).digest


def test_binary_cifar(paper: Any, folder: Path) -> None:
    data = paper.data.load("cifar10", folder, CPU)
    assert (data.inputs.shape, data.trainable) == ((160, 3, 32, 32), 120)
    record = np.fromfile(folder / "cifar-10-batches-bin" / "data_batch_2.bin", np.uint8)[:3073]
    assert data.targets[24] == record[0]
    pixels = torch.from_numpy(record[1:].reshape(3, 32, 32)).float() / 255
    torch.testing.assert_close(data.inputs[24], pixels)


def test_jpeg_archives(paper: Any, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for part in ("train", "test"):
        files = []
        for shade in (10, 200):
            buffer = io.BytesIO()
            image.new("RGB", (32, 32), (shade, 0, 0)).save(buffer, "jpeg", quality=95)
            files.append(buffer.getvalue())
        offsets = np.cumsum([0, *map(len, files)])
        content = np.frombuffer(b"".join(files), np.uint8)
        np.savez(tmp_path / f"cifar10_{part}.npz", jpeg=content, offsets=offsets, labels=np.array([1, 2], np.uint8))
    data = paper.data.load("cifar10", tmp_path, CPU)
    assert data.targets.tolist() == [1, 2, 1, 2]
    reds = data.inputs[:, 0].mean((1, 2)) * 255
    torch.testing.assert_close(reds, torch.tensor([10.0, 200.0, 10.0, 200.0]), atol=3, rtol=0)
    assert data.inputs[:, 1:].max() < 0.02


def test_splits_do_not_overlap_and_differ_by_seed(paper: Any, folder: Path) -> None:
    for name, task in (("mnist", "mlp"), ("shakespeare", "gpt")):
        data = paper.data.load(name, folder, CPU)
        task = paper.tasks.TASKS[task].smoke()
        parts = data.split(task, 0)
        assert [len(part) for part in parts] == [task.train, task.validation, task.test]
        assert len(torch.cat(parts).unique()) == task.train + task.validation + task.test
        assert torch.equal(parts[0], data.split(task, 0)[0])
        assert not torch.equal(parts[0], data.split(task, 1)[0])
        if name == "mnist":
            assert parts[2].min() >= data.trainable


def test_text_is_cut_into_chunks(paper: Any, folder: Path) -> None:
    data = paper.data.load("shakespeare", folder, CPU)
    text = (folder / "tinyshakespeare.txt").read_text()
    letters = sorted(set(text))
    assert data.classes == len(letters)
    assert "".join(letters[i] for i in data.inputs[:2].flatten()) == text[:256]
    assert torch.equal(data.targets, data.inputs[:, 1:])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mnist", "no mnist in .*train-images-idx3-ubyte.gz.*into .*mnist"),
        ("fashion_mnist", "t10k-labels-idx1-ubyte.gz.*FashionMNIST/raw"),
        ("cifar10", r"data_batch_1.bin … data_batch_5.bin and test_batch.bin \(the binary version\)"),
        ("shakespeare", r"tinyshakespeare.txt \(1,115,394 characters\)"),
    ],
)
def test_missing_files_are_named(paper: Any, tmp_path: Path, name: str, expected: str) -> None:
    with pytest.raises(paper.tasks.UserError, match=expected):
        paper.data.load(name, tmp_path, CPU)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"<html>not found</html>", "not an IDX file of bytes in 3 dimensions"),
        (idx(np.zeros((4, 28, 28), np.uint8))[:-1], "promises 4 × 28 × 28 bytes and holds 3135"),
        (idx(np.zeros(4, np.uint8)), "not an IDX file"),
    ],
)
def test_broken_files_are_named(paper: Any, tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "mnist").mkdir()
    for pair in paper.data.IDX.values():
        for file in pair:
            (tmp_path / "mnist" / file).write_bytes(content)
    with pytest.raises(paper.tasks.UserError, match=expected):
        paper.data.load("mnist", tmp_path, CPU)


def test_too_few_examples(paper: Any, folder: Path) -> None:
    data = paper.data.load("mnist", folder, CPU)
    with pytest.raises(paper.tasks.UserError, match=r"has 120 examples to train on and 40 left.*needs 20480 and 10000"):
        data.split(paper.tasks.TASKS["mlp"], 0)
