"""Random signs that a seed gives back, the same on every machine and with every version of PyTorch."""

from dataclasses import dataclass
from hashlib import shake_256

import torch
from torch import Tensor

from lightning_sparse.functional.dct import shared
from lightning_sparse.layers.offsets.base import LinearMap

__all__ = ["SignedMap", "random_signs"]


def random_signs(
    count: int,
    seed: int,
    what: str,
    shape: torch.Size,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return as many independent fair signs, +1 and -1, as a seed and a name give.

    They are bits of SHAKE-256, not draws of PyTorch's generator: a checkpoint holds the seed only, and has to
    mean the same matrix with a later release, whose generator may draw otherwise.

    Args:
        count: Number of signs.
        seed: Any integer.
        what: What the signs are for: others get independent ones.
        shape: Shape of the weight; weights of other shapes get independent signs.
        dtype: Of the result.
        device: Where it lies.

    Returns:
        A vector, shared by all who ask for it: do not write to it.

    Examples:
        >>> random_signs(6, seed=0, what="inputs", shape=torch.Size((4, 6))).tolist()
        [-1.0, 1.0, 1.0, -1.0, -1.0, -1.0]
    """
    key = ("signs", count, seed, what, shape, dtype, torch.device(device))
    return shared(key, lambda: _signs(count, f"{seed}/{what}/{tuple(shape)}").to(device, dtype))


def _signs(count: int, text: str) -> Tensor:
    """Return them on the CPU, whatever the default device is."""
    stream = list(shake_256(text.encode()).digest((count + 7) // 8))
    numbers = torch.tensor(stream, dtype=torch.uint8, device="cpu")
    bits = (numbers[:, None] >> torch.arange(8, dtype=torch.uint8, device="cpu")) & 1
    return 1 - 2 * bits.flatten()[:count].to(torch.float64)


@dataclass(frozen=True)
class SignedMap(LinearMap):
    """A map of inputs that have been multiplied by signs.

    Args:
        inner: The map.
        signs: A sign for each input, to be broadcast against inputs.
    """

    inner: LinearMap
    signs: Tensor

    @property
    def takes_half(self) -> bool:  # type: ignore[override]
        """Whether the map does."""
        return self.inner.takes_half

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the signs, then the map."""
        return self.inner(x * self.signs.to(x.dtype))

    def adjoint(self, grad: Tensor, input_size: torch.Size) -> Tensor:
        """Apply the adjoint, then the signs."""
        return self.inner.adjoint(grad, input_size) * self.signs.to(grad.dtype)
