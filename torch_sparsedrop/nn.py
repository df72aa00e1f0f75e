"""`torch.nn.Linear` with block dropout: the same parameters under the same keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .functional import dropout_linear, linear_dropout
from .masks import Block, Kind, check_kind, check_p
from .ops.checks import check_block


class _BlockDropout(nn.Linear):
    """A linear layer that holds a probability, as a buffer, so that changing it does not recompile."""

    _p: Tensor
    _p_on_host: list[float]  # of one number: a shallow copy shares it, as it shares the buffer
    _apply_dropout: Callable[..., Tensor]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        p: float = 0.5,
        *,
        block: Block = (128, 128),
        kind: Kind = "bernoulli",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        check_kind(kind)
        self.block = check_block(block)
        self.kind = kind
        with torch.inference_mode(False):
            self.register_buffer("_p", torch.zeros((), dtype=torch.float32, device=device), persistent=False)
        self._p_on_host = [0.0]
        self.p = p

    @property
    def p(self) -> float:
        """The probability that a block is dropped. Assigning it takes effect at once, compiled or not."""
        return self._p_on_host[0]

    @p.setter
    def p(self, value: float) -> None:
        if isinstance(value, Tensor):
            raise TypeError("p must be a float in [0, 1]; pass a tensor to the functions of torch_sparsedrop instead")
        check_p(value)
        self._p.fill_(value)
        self._p_on_host[0] = float(value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "p":  # Module would register a Parameter instead of asking the property.
            object.__setattr__(self, name, value)
        elif name == "_p":  # Who loads a model built on "meta" puts a tensor without a value here.
            with torch.inference_mode(False):  # There too, moving a model must not end that p can be set.
                super().__setattr__(name, torch.full_like(value, self.p, dtype=torch.float32))
        else:
            super().__setattr__(name, value)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        # Casting the module must not round p, and to_empty() leaves the buffer without a value.
        self._p = self._p
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self._p.device != self.weight.device:  # load_state_dict(assign=True) after "meta"
            self._p = torch.empty_like(self._p, device=self.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        # Compiled code does not look at the number: that would specialise on it.
        if not self.training or (not torch.compiler.is_compiling() and self._p_on_host[0] == 0):
            return F.linear(x, self.weight, self.bias)
        return type(self)._apply_dropout(x, self.weight, self.bias, self._p, block=self.block, kind=self.kind)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}, block={self.block}, kind={self.kind!r}"


class DropoutLinear(_BlockDropout):
    """Block dropout, then a linear layer: (..., in_features) gives (..., out_features)."""

    _apply_dropout = staticmethod(dropout_linear)


class LinearDropout(_BlockDropout):
    """A linear layer, then block dropout: (..., in_features) gives (..., out_features)."""

    _apply_dropout = staticmethod(linear_dropout)
