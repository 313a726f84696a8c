"""The layer's own weight as an offset: what is trained is a sparse change of it."""

import math
from dataclasses import dataclass

import torch

from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.offsets.base import Offset, OffsetOptions, register_offset

__all__ = ["PretrainedOffset"]

# Of two products by the whole weight, as explained in ``lightning_sparse/layers/backends``: for each call,
# each entry, and each row and entry; of linear layers, kernels of one place and larger ones.
LINEAR, POINTWISE, SPATIAL = (58, 0.00063, 5.1e-05), (0, 0.003, 4.7e-05), (520, 0.0013, 3.4e-05)


@register_offset
@dataclass(frozen=True)
class PretrainedOffset(Offset):
    """The weight W0 that the layer had, frozen: the layer computes ``(W0 + S) x``, and trains S.

    The layer keeps W0 itself, in its dtype, as the parameter ``base``; there is no alpha. A step makes no
    gradient of the whole weight: two products of the size of W0 instead of three.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655), equation 2, with D
        the pretrained weight.
    """

    name = "pretrained"
    is_stored = True

    def options(self, shape: torch.Size) -> OffsetOptions:  # noqa: ARG002
        """Return nothing: the weight itself is in the state dict, as ``base``."""
        return {}

    def matrix(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
        """Return ``None``: the layer has it."""

    def transform(
        self,
        shape: torch.Size,
        geometry: Convolution | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Return ``None``: an ordinary product by ``base`` is all there is."""

    def transform_time(self, shape: torch.Size, rows: int, threads: int) -> float:
        """Return what two products by the whole weight take, which threads share."""
        places = math.prod(shape[2:])
        per_call, per_entry, per_product = (
            LINEAR if len(shape) == 2 else POINTWISE if places == 1 else SPATIAL
        )
        return per_call + (per_entry + per_product * rows / threads) * math.prod(shape)

    def norm(self, shape: torch.Size) -> float:  # noqa: ARG002
        """Return NaN: it is not known from the shape."""
        return math.nan
