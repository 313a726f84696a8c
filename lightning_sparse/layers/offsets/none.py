"""No offset: the layer is sparse, and nothing else."""

from dataclasses import dataclass

import torch

from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.offsets.base import Offset, OffsetOptions, register_offset

__all__ = ["NoOffset"]


@register_offset
@dataclass(frozen=True)
class NoOffset(Offset):
    """Nothing: a plain sparse layer, stored compactly. It has no alpha."""

    name = "none"
    is_zero = True

    def options(self, shape: torch.Size) -> OffsetOptions:  # noqa: ARG002
        """Return nothing."""
        return {}

    def matrix(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
        """Return ``None``."""

    def transform(
        self,
        shape: torch.Size,
        geometry: Convolution | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Return ``None``."""

    def transform_time(self, shape: torch.Size, rows: int, threads: int) -> float:  # noqa: ARG002
        """Return 0: there is nothing to multiply by."""
        return 0.0

    def norm(self, shape: torch.Size) -> float:  # noqa: ARG002
        """Return 0."""
        return 0.0
