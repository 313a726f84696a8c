"""The ordinary layers that have a compact counterpart."""

from typing import TypeAlias, TypeGuard

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

__all__ = ["CONVERTIBLE", "CONV_OPTIONS", "Convertible", "OrdinaryConv", "is_convertible"]

OrdinaryConv: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
Convertible: TypeAlias = nn.Linear | OrdinaryConv
"""An ordinary layer that has a Dense-plus-Sparse counterpart."""

CONVERTIBLE = "linear and convolutional layers (Linear, Conv1d, Conv2d, Conv3d)"
"""What messages call them."""

CONV_OPTIONS = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
"""Attributes of convolutions, and arguments of their counterparts."""

_TYPES = (nn.Linear, NonDynamicallyQuantizableLinear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def is_convertible(layer: nn.Module) -> TypeGuard[Convertible]:
    """Tell whether a layer is of exactly such a type: what a child does beside may be anything.

    >>> is_convertible(nn.Conv1d(2, 2, 3)), is_convertible(nn.ConvTranspose1d(2, 2, 3))
    (True, False)
    """
    return type(layer) in _TYPES
