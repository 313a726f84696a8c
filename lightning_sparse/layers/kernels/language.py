"""Triton, the only module that imports it, or nothing where it is not installed."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # it comes with the CUDA builds of PyTorch for Linux
    triton, tl = None, SimpleNamespace(constexpr=None)  # what definitions of kernels need, and no more

__all__ = ["jit", "runs_on", "tl"]


def jit(function: Callable[..., Any]) -> Any:
    """Return a kernel; the function as it is where Triton is missing."""
    return function if triton is None else triton.jit(function)


@jit
def _nothing() -> None:
    pass


INTERPRETED = triton is not None and not isinstance(_nothing, triton.JITFunction)
"""Whether kernels run in Triton's interpreter, on tensors of any device."""


def runs_on(device: torch.device) -> bool:
    """Return whether kernels can be launched for tensors of that device."""
    return triton is not None and (device.type == "cuda" or (INTERPRETED and device.type == "cpu"))
