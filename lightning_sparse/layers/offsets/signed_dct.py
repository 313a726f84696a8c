"""Random signs, then the DCT: a randomised transform, of which nothing but a seed is stored."""

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from lightning_sparse.checks import check_choice, check_count
from lightning_sparse.functional.dct import shared
from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.offsets.base import LinearMap, Offset, OffsetOptions, register_offset
from lightning_sparse.layers.offsets.dct import DCTOffset, PatchOrder, dct_transform
from lightning_sparse.layers.offsets.signs import SignedMap, random_signs

__all__ = ["SignedDCTOffset"]

# What signs add to a forward and backward pass, in the unit of the other estimates, for each row and input.
# Layers with and without them were timed in turn, linear and 1 x 1 of 256 to 4096 inputs and 3 x 3 kernels:
# it is a few percent at most, and nothing for each call.
SIGNS_PER_INPUT = 5e-4


@register_offset
@dataclass(frozen=True)
class SignedDCTOffset(Offset):
    """The DCT of `DCTOffset` after a random sign on every input: ``C = DCT diag(signs)``.

    Without signs, the first rows of C are means and slow waves, and outputs for images are nearly alike. With
    them every row is a random mixture of all inputs, and C acts like a dense random matrix. For a kernel, an
    input's sign is that of its channel times that of its place in the kernel: so the fast form stays.

    Args:
        seed: Of the signs; weights of different shapes have independent signs.
        patch_order: How a convolution's patch is flattened for the DCT, as in `DCTOffset`.

    Source:
        Avron, Maymounkov and Toledo, "Blendenpik: Supercharging LAPACK's least-squares solver", SIAM J. Sci.
        Comput. 32(3), 2010, section 3.2 (random signs, then a DCT or another fast orthonormal transform);
        after Ailon and Chazelle, "The fast Johnson-Lindenstrauss transform and approximate nearest
        neighbors", SIAM J. Comput. 39(1), 2009.
    """

    name = "signed_dct"

    seed: int = 0
    patch_order: PatchOrder = "hwc"

    def __post_init__(self) -> None:
        check_count("seed", self.seed, 0)
        check_choice("patch_order", self.patch_order, get_args(PatchOrder))

    def options(self, shape: torch.Size) -> OffsetOptions:
        """Return the seed and, for kernels, the order of patches."""
        return {"seed": self.seed, **self._unsigned.options(shape)}

    def matrix(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the cropped DCT times the signs, in the shape of the weight."""

        def signed() -> Tensor:
            matrix = self._unsigned.matrix(shape, dtype, device) * self._of_channels(shape, dtype, device)
            places = self._of_places(shape)
            return matrix if places is None else matrix.mul_(places.to(device, dtype))

        return shared(("signed", shape, self, dtype, device), signed)

    def transform(
        self, shape: torch.Size, geometry: Convolution | None, dtype: torch.dtype, device: torch.device
    ) -> LinearMap | None:
        """Return the fast form of the DCT behind the signs of inputs; places have theirs in its kernels."""
        places = self._of_places(shape)
        dct = dct_transform(shape, geometry, self.patch_order, dtype, device, places)
        if dct is None:
            return None
        groups = 1 if geometry is None else geometry.groups
        signs = self._of_channels(shape, dtype, device)
        return SignedMap(dct, signs if groups == 1 else torch.cat([signs] * groups, 1))

    def transform_time(self, shape: torch.Size, rows: int, threads: int) -> float:
        """Return the time of the DCT and of multiplications by signs, forward and backward."""
        return self._unsigned.transform_time(shape, rows, threads) + SIGNS_PER_INPUT * rows * shape[1]

    def norm(self, shape: torch.Size) -> float:
        """Return that of the DCT: signs change no norm."""
        return self._unsigned.norm(shape)

    @property
    def _unsigned(self) -> DCTOffset:
        return DCTOffset(self.patch_order)

    def _of_channels(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return a sign for each input, or channel of a group: ``(1, in / groups, 1, ...)``."""
        signs = random_signs(shape[1], self.seed, "channels", shape, dtype, device)
        return signs.view(1, -1, *[1] * len(shape[2:]))

    def _of_places(self, shape: torch.Size) -> Tensor | None:
        """Return a sign for each place in the kernel, on the CPU: ``(1, 1, height, width)``; None for one."""
        if (count := shape[2:].numel()) == 1:
            return None
        return random_signs(count, self.seed, "places", shape).view(1, 1, *shape[2:])
