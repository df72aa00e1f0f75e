"""The oracle: what the fused ops mean, in plain PyTorch, without plans or skipping.

    Y = s_out · M_out ⊙ ( s_in · (M_in ⊙ X) Wᵀ + b )            X: (..., K)   W: (N, K)   Y: (..., N)

⊙ selects: a dropped element is +0 whatever it held. 16-bit operands are multiplied and scaled in float32.
Derivatives are PyTorch's own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .functional import check_call
from .masks import BlockMask


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    drop_in: BlockMask | None = None,
    drop_out: BlockMask | None = None,
) -> Tensor:
    """The same as `torch_sparsedrop.linear`, densely: (..., K) and (N, K) give (..., N)."""
    check_call(x, weight, bias, drop_in, drop_out)
    into = None if drop_in is None else drop_in.dense().reshape(x.shape)
    out = None if drop_out is None else drop_out.dense().reshape(*x.shape[:-1], weight.shape[0])
    scale_in = None if drop_in is None else drop_in.scale
    scale_out = None if drop_out is None else drop_out.scale
    return masked_linear(x, weight, bias, into, scale_in, out, scale_out)


def masked_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    into: Tensor | None,
    scale_in: Tensor | None,
    out: Tensor | None,
    scale_out: Tensor | None,
) -> Tensor:
    """The formula on dense bool masks, each of its operand's shape."""
    dtype = _accumulator(x.dtype)
    y = F.linear(select(into, x).to(dtype), weight.to(dtype))
    if scale_in is not None:
        y = y * scale_in
    if bias is not None:
        y = y + bias.to(dtype)
    if scale_out is not None:
        y = y * scale_out
    return select(out, y).to(x.dtype)


def masked_weight_grad(
    grad: Tensor,
    x: Tensor,
    into: Tensor | None,
    scale_in: Tensor | None,
    out: Tensor | None,
    scale_out: Tensor | None,
) -> Tensor:
    """dW = s_in · s_out · (M_out ⊙ dY)ᵀ (M_in ⊙ X), (N, K), on dense bool masks."""
    dtype = _accumulator(x.dtype)
    rows = math.prod(x.shape[:-1])
    dy = select(out, grad).to(dtype).reshape(rows, grad.shape[-1])
    dw = dy.t() @ select(into, x).to(dtype).reshape(rows, x.shape[-1])
    for scale in (scale_in, scale_out):
        if scale is not None:
            dw = dw * scale
    return dw.to(x.dtype)


def select(mask: Tensor | None, tensor: Tensor) -> Tensor:
    """``tensor`` where ``mask`` keeps it, +0 elsewhere."""
    return tensor if mask is None else torch.where(mask, tensor, 0)


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32
