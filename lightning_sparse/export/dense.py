"""The net as if it had never been sparse: an ordinary state dict."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lightning_sparse.export.base import ExportFormat, register_format
from lightning_sparse.layers.dense_state import dense_state_dict

__all__ = ["Dense"]


@register_format
@dataclass(frozen=True)
class Dense(ExportFormat):
    """A state dict that the untouched module class loads with ``strict=True``.

    Masked weights are written with their zeros, Dense-plus-Sparse layers as the weight ``alpha C + S``. While
    the file is written, the weights of all such layers are held densely beside the net: 4 bytes per weight in
    float32.
    """

    name = "dense"
    suffix = ".pt"
    calls_net = False
    loading = "net.load_state_dict(torch.load({path!r}))"

    def write(self, module: nn.Module, path: Path) -> None:
        """Write the state dict with ``torch.save``; ``torch.load(weights_only=True)`` reads it."""
        torch.save(dense_state_dict(module), path)
