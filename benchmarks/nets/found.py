"""What is sparse in a module."""

from typing import Any

from torch import Tensor, nn

from lightning_sparse import masks_of


def masked(module: nn.Module) -> dict[str, Tensor]:
    """Return the masks of ordinary weights by name, those of converted layers left out."""
    weights = dict(module.named_parameters())
    return {name: mask for name, mask in masks_of(module).items() if name in weights}


def compact(module: nn.Module) -> dict[str, Any]:
    """Return the converted layers by name."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if "indices" in dict(layer.named_buffers(recurse=False))
    }
