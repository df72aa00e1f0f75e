"""The paper's data sets, read from files that the user has, as tensors on the device."""

from __future__ import annotations

import gzip
import hashlib
import io
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tasks import Task, UserError
from torch import Tensor
from torch.nn import functional as F

IDX = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
FOLDERS = {
    "mnist": ("mnist", "MNIST/raw"),
    "fashion_mnist": ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw"),
    "cifar10": ("cifar10", "cifar-10-batches-bin"),
}
TEXTS = ("tinyshakespeare.txt", "shakespeare/input.txt", "input.txt")
CHARACTERS = 128


@dataclass
class Data:
    """All examples; the first ``trainable`` are the training split. ``digest`` tells one set of files from another."""

    inputs: Tensor
    targets: Tensor
    trainable: int
    classes: int
    digest: str

    def split(self, task: Task, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Indices for training, validation and test.

        Training and validation are drawn from the training split, as in the paper. Test examples are the test split,
        or, for text, which has none, chunks that the other two do not use.
        """
        needed = task.train + task.validation
        order = torch.randperm(self.trainable, generator=torch.Generator().manual_seed(seed))
        rest = torch.arange(self.trainable, len(self.inputs)) if self.trainable < len(self.inputs) else order[needed:]
        if self.trainable < needed or len(rest) < task.test:
            raise UserError(
                f"{task.data} has {self.trainable} examples to train on and {len(rest)} left for the test; "
                f"{task.name} needs {needed} and {task.test}"
            )
        parts = order[: task.train], order[task.train : needed], rest[: task.test]
        train, validation, test = (part.to(self.inputs.device) for part in parts)
        return train, validation, test


def load(name: str, folder: Path, device: torch.device) -> Data:
    if name == "shakespeare":
        return _text(folder, device)
    read = _cifar if name == "cifar10" else _idx
    parts = [_archive(folder / f"{name}_{part}.npz") or read(name, folder, part) for part in ("train", "test")]
    if any(part is None for part in parts):
        raise UserError(_missing(name, folder))
    (train, train_labels), (test, test_labels) = parts
    pixels, labels = np.concatenate([train, test]), np.concatenate([train_labels, test_labels])
    if len(pixels) != len(labels) or labels.max() > 9:
        raise UserError(f"{name} in {folder}: {len(pixels)} images, {len(labels)} labels up to {labels.max()}")
    images = torch.from_numpy(pixels).to(device).float() / 255
    # The paper resizes everything to 32 × 32.
    images = F.interpolate(images, (32, 32), mode="bilinear", antialias=True)
    return Data(images, torch.from_numpy(labels).long().to(device), len(train), 10, _digest(pixels, labels))


def _idx(name: str, folder: Path, part: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The usual four files, compressed or not."""
    for inside in FOLDERS[name]:
        found = [_either(folder / inside / file) for file in IDX[part]]
        if found[0] and found[1]:
            return _read_idx(found[0], 3)[:, None], _read_idx(found[1], 1)
    return None


def _either(path: Path) -> Path | None:
    return next((p for p in (path, path.with_name(f"{path.name}.gz")) if p.exists()), None)


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Two zero bytes, the type (8: bytes), the number of dimensions, then the sizes as big-endian 32-bit numbers."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < start:
        raise UserError(f"{path} is not an IDX file of bytes in {dimensions} dimensions")
    shape = np.frombuffer(content, ">u4", dimensions, 4).astype(int)
    if len(content) != start + shape.prod():
        raise UserError(f"{path} promises {' × '.join(map(str, shape))} bytes and holds {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _cifar(name: str, folder: Path, part: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The binary version: a byte of label, then 3 × 32 × 32 bytes of pixels."""
    files = [f"data_batch_{i}.bin" for i in range(1, 6)] if part == "train" else ["test_batch.bin"]
    for inside in FOLDERS[name]:
        paths = [folder / inside / file for file in files]
        if all(path.exists() for path in paths):
            rows = [np.fromfile(path, np.uint8) for path in paths]
            for path, row in zip(paths, rows, strict=True):
                if len(row) % 3073:
                    raise UserError(f"{path} has {len(row)} bytes, which are no whole records of 3073")
            records = np.concatenate(rows).reshape(-1, 3073)
            return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]
    return None


def _archive(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """A NumPy archive of ``labels`` and either ``images`` (n, h, w) or ``jpeg``: files end to end, from ``offsets``."""
    if not path.exists():
        return None
    with np.load(path) as arrays:
        if "images" in arrays:
            return arrays["images"][:, None], arrays["labels"]
        content, offsets, labels = arrays["jpeg"].tobytes(), arrays["offsets"], arrays["labels"]
    from PIL import Image

    images = [np.asarray(Image.open(io.BytesIO(content[a:b]))) for a, b in pairwise(offsets)]
    return np.stack(images).transpose(0, 3, 1, 2), labels


def _text(folder: Path, device: torch.device) -> Data:
    """Chunks of 128 characters that do not overlap; an incomplete one at the end is left."""
    path = next((folder / name for name in TEXTS if (folder / name).exists()), None)
    if path is None:
        raise UserError(_missing("shakespeare", folder))
    text = path.read_text(encoding="utf-8")
    letters = sorted(set(text))
    number = {letter: i for i, letter in enumerate(letters)}
    codes = np.array([number[letter] for letter in text[: len(text) // CHARACTERS * CHARACTERS]])
    chunks = torch.from_numpy(codes).view(-1, CHARACTERS).to(device)
    return Data(chunks, chunks[:, 1:], len(chunks), len(letters), _digest(codes.astype(np.uint8)))


def _missing(name: str, folder: Path) -> str:
    """What is needed, by the names that such files usually have."""
    if name == "shakespeare":
        return f"no text in {folder}: put the tiny Shakespeare text there as {TEXTS[0]} (1,115,394 characters)"
    files = (
        "data_batch_1.bin … data_batch_5.bin and test_batch.bin (the binary version)"
        if name == "cifar10"
        else f"{', '.join(f'{file}.gz' for pair in IDX.values() for file in pair)} (compressed or not)"
    )
    folders = " or ".join(str(folder / inside) for inside in FOLDERS[name])
    return f"no {name} in {folder}: put {files} into {folders}"


def _digest(*arrays: Any) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]
