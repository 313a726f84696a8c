"""A dense Gaussian matrix as an offset: the yardstick for those that store nothing but a seed."""

import math
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor

from lightning_sparse.functional.dct import shared
from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.offsets import LinearMap, Offset, OffsetOptions


@dataclass(frozen=True)
class GaussianOffset(Offset):
    """Independent normal entries of variance ``1 / max(out, patch)``, scaled to the norm of the DCT.

    It has no fast form, and what a release of PyTorch draws from a seed may be another matrix: good for
    experiments in one process only.
    """

    name = "gaussian"

    seed: int = 0

    def options(self, shape: torch.Size) -> OffsetOptions:  # noqa: ARG002
        """Return the seed."""
        return {"seed": self.seed}

    def matrix(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the matrix in the shape of the weight."""

        def drawn() -> Tensor:
            digest = sha256(f"{self.seed}/{tuple(shape)}".encode()).digest()
            draws = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            entries = torch.randn(shape, generator=draws, dtype=torch.float64)
            return (entries * (self.norm(shape) / entries.norm())).to(device, dtype)

        return shared(("gaussian", shape, self, dtype, device), drawn)

    def transform(
        self, shape: torch.Size, geometry: Convolution | None, dtype: torch.dtype, device: torch.device
    ) -> LinearMap | None:
        """Return ``None``: there is no fast way."""

    def transform_time(self, shape: torch.Size, rows: int, threads: int) -> float:  # noqa: ARG002
        """Return infinity."""
        return math.inf

    def norm(self, shape: torch.Size) -> float:
        """Return the square root of ``min(out, patch)``, as the DCT has it."""
        return math.sqrt(min(shape[0], math.prod(shape[1:])))
