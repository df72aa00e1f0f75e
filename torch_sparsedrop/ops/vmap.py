"""vmap: one call per example, since a mask belongs to the rows of one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .schema import library


def _example(batch: Tensor, dim: int, i: int, count: int) -> Tensor:
    return batch.select(dim, i) if count else batch.sum(dim, dtype=batch.dtype)


def _loop(op: Callable[..., Any]) -> Callable[..., Any]:
    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        count = info.batch_size

        def call(i: int) -> Any:
            pairs = zip(args, in_dims, strict=True)
            return op(*(_example(arg, dim, i, count) if isinstance(dim, int) else arg for arg, dim in pairs))

        # Of no examples, one of zeros still tells the shapes.
        results = [call(i) for i in range(count or 1)]
        if isinstance(results[0], Tensor):
            return torch.stack(results)[:count], 0
        return tuple(torch.stack(part)[:count] for part in zip(*results, strict=True)), (0,) * len(results[0])

    return rule


for _name in ("plan", "draw", "linear", "weight_grad", "activate", "activate_grad"):
    torch.library.register_vmap(f"sparsedrop::{_name}", _loop(getattr(torch.ops.sparsedrop, _name)), lib=library)
