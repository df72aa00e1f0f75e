"""Kernels that begin while the one before them in the stream ends, which hides a part of what a start costs."""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.language.target_info import cuda_capability_geq

_COMPILED = tl.constexpr(not triton.knobs.runtime.interpret)
OLDEST = (9, 0)
"""The compute capability from which on GPUs can do that."""


@triton.jit
def wait_for_kernels_before():
    """Until they have ended and what they wrote is there. First in every kernel: only those who call it may be started
    early."""
    if _COMPILED and cuda_capability_geq(9, 0):
        gdc_wait()


@triton.jit
def let_next_kernel_begin():
    """While this one works. Behind the wait, so that the next one can rely on all kernels before this one.

    Good for short kernels. Where products let the next one begin, small layers became up to a tenth slower on an H200.
    """
    if _COMPILED and cuda_capability_geq(9, 0):
        gdc_launch_dependents()
