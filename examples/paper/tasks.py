"""The paper's four experiments as numbers, and the selections of runs called tiers."""

from __future__ import annotations

from dataclasses import dataclass, replace

Block = tuple[int, int]


class UserError(Exception):
    """What the user has to change, told without a traceback."""


@dataclass(frozen=True)
class Task:
    """One experiment. Sizes are the paper's; README.md lists where it contradicts itself."""

    name: str
    title: str
    data: str
    model: str
    monitor: str  # what early stopping watches: "accuracy" or "loss"
    batch: int
    epochs: int
    eval_every: int
    patience: int
    lr: float
    train: int
    validation: int
    test: int
    weight_decay: float = 0.0
    eval_batch: int = 512
    width: int = 1024
    heads: int = 8
    layers: int = 2

    @property
    def steps(self) -> int:
        return self.epochs * (self.train // self.batch)

    def better(self, new: float, old: float) -> bool:
        return new > old if self.monitor == "accuracy" else new < old

    def smoke(self) -> Task:
        """The same path through the code, in seconds on a CPU."""
        small = replace(self, train=64, validation=32, test=32, batch=32, epochs=4, eval_every=2, eval_batch=16)
        return replace(small, width=64, heads=2, layers=1, lr=1e-3)


_image = {"monitor": "accuracy", "train": 16384, "validation": 4096, "test": 10000}
_vit = _image | {"model": "vit", "batch": 64, "epochs": 50, "eval_every": 200, "lr": 1e-4}

TASKS = {
    task.name: task
    for task in (
        Task(
            "mlp", "MLP, MNIST", "mnist", "mlp", **_image, batch=1024, epochs=100, eval_every=50, patience=5, lr=1e-3,
            eval_batch=4096,
        ),
        Task("fashion", "ViT, Fashion-MNIST", "fashion_mnist", **_vit, patience=5),
        Task("cifar10", "ViT, CIFAR-10", "cifar10", **_vit, patience=10),
        Task(
            "gpt", "GPT, Shakespeare", "shakespeare", "gpt", "loss", batch=32, epochs=100, eval_every=200, patience=5,
            lr=3e-4, weight_decay=0.1, train=4096, validation=1024, test=1024, layers=4,
        ),
    )
}  # fmt: skip

P = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
"""The paper's grid. Its p = 0 is the method "dense" here."""
SOME_P = (0.1, 0.3, 0.5)
SEEDS = (0, 1, 2)
BLOCK = (128, 128)
SMALLER = ((64, 64), (128, 32), (32, 32))
METHODS = {
    "dense": "Dense",
    "dropout": "Dropout + dense",
    "bernoulli": "SparseDrop, Bernoulli",
    "balanced": "SparseDrop, balanced",
}
OURS = ("bernoulli", "balanced")


@dataclass(frozen=True)
class Selection:
    """Which runs of one task to make."""

    methods: tuple[str, ...] = tuple(METHODS)
    p: tuple[float, ...] = P
    seeds: tuple[int, ...] = (0,)
    blocks: tuple[Block, ...] = (BLOCK,)

    def runs(self) -> list[tuple[int, str, Block | None, float]]:
        """(seed, method, block, p), all of one seed before the next, so that an early end leaves whole seeds."""
        found: list[tuple[int, str, Block | None, float]] = []
        for seed in self.seeds:
            for method in self.methods:
                blocks = self.blocks if method in OURS else (None,)
                ps = (0.0,) if method == "dense" else self.p
                found += [(seed, method, block, p) for block in blocks for p in ps]
        return found


TIERS: dict[int, dict[str, Selection]] = {
    1: {
        "mlp": Selection(seeds=SEEDS),
        "gpt": Selection(p=SOME_P, seeds=SEEDS),
        "cifar10": Selection(p=SOME_P, seeds=SEEDS),
    },
    2: {name: Selection(seeds=SEEDS) for name in TASKS},
    3: {name: Selection(methods=OURS, p=SOME_P, seeds=SEEDS, blocks=SMALLER) for name in TASKS},
}
