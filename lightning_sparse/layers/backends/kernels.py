"""The weight is never built: a fast transform for C, Triton kernels for S."""

import math
from dataclasses import replace
from importlib.util import find_spec

from lightning_sparse.checks import SparsityError
from lightning_sparse.layers.adapted import Adapted
from lightning_sparse.layers.backends.base import BACKEND_ROWS, BackendRow, LayerParts, Work, register_backend
from lightning_sparse.layers.offsets import NoOffset
from lightning_sparse.layers.products import Product

__all__ = ["Kernels"]


@register_backend
class Kernels(BackendRow):
    """Multiply by C with its fast transform, where it has one, and by S with kernels for GPUs.

    For linear layers, and for convolutions whose kernels have one place, without stride and padding. Tensors
    of float64, and those on a CPU, are multiplied as by ``"transform"``.
    """

    name = "kernels"

    def available(self, work: Work) -> bool:
        """Return whether it can do the work."""
        can = math.prod(work.shape[2:]) == 1 and work.groups == 1 and work.rows > 0
        return can and work.device.type == "cuda" and _has_triton()

    def time(self, work: Work) -> float:  # noqa: ARG002
        """Return infinity: no time has been fitted to it."""
        return math.inf

    def build(self, parts: LayerParts) -> Product | None:
        """Return the product; ``None`` for larger kernels, without a fast transform, or on the meta device.

        Raises:
            SparsityError: If Triton is not installed.
        """
        if parts.indices.device.type == "meta":
            return None
        if not _has_triton():
            raise SparsityError(
                "`backend` must be 'auto', 'transform' or 'materialize' without Triton, got 'kernels'. "
                "Triton comes with the builds of PyTorch for CUDA on Linux: install one, or take another."
            )
        if parts.base is not None:
            alone = self.build(replace(parts, base=None, offset=NoOffset()))
            return None if alone is None else Adapted(parts.base.detach(), alone)
        geometry, plain = parts.geometry, BACKEND_ROWS["transform"]().build(parts)
        if plain is None or (geometry is not None and not _is_pointwise(parts)):
            return None
        # Imported here, as this imports Triton.
        from lightning_sparse.layers.kernels.product import LinearByKernels, PointwiseByKernels

        kind = LinearByKernels if geometry is None else PointwiseByKernels
        transform = parts.offset.transform(parts.shape, geometry, parts.dtype, parts.indices.device)
        return kind(parts.shape, geometry, parts.indices, transform, plain)


def _is_pointwise(parts: LayerParts) -> bool:
    assert parts.geometry is not None
    is_alone = math.prod(parts.shape[2:]) == 1 and not any(parts.geometry.padding)
    return is_alone and set(parts.geometry.stride) == {1}


def _has_triton() -> bool:
    return find_spec("triton") is not None
