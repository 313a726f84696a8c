"""Plain sparse layers in the place of dense ones, which then hold k values and k positions."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_sparse.layers.conversion import replace_layers_
from lightning_sparse.layers.convertible import Convertible, copies_of
from lightning_sparse.layers.offsets import NoOffset

__all__ = ["store_compactly_"]


def store_compactly_(
    module: nn.Module,
    layers: Mapping[str, Convertible],
    supports: Mapping[str, Tensor],
    draws: torch.Generator,
    exclude: Sequence[str] = (),
) -> None:
    """Replace layers by compact ones that keep some entries of the weight; the others are zero for good.

    Frozen copies, as in the target net of a momentum method, keep their own entries at the same positions.

    Args:
        module: Holds the layers.
        layers: Those to replace, by the name of their weight.
        supports: Flat positions of the entries that stay, by the same names.
        draws: For biases and values of layers on the meta device.
        exclude: Patterns of copies that stay dense.

    Warns:
        UserWarning: If there are such copies.
    """
    copies = copies_of(module, layers, list(layers), exclude)
    replace_layers_(
        module,
        layers,
        supports,
        draws,
        copies=copies,
        offset=NoOffset(),
        alpha_requires_grad=False,
        backend="auto",
    )
