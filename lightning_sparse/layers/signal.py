"""How much larger an offset makes the signal than the weight that it replaces."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_sparse.layers.alphas import Alpha
from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.offsets import Offset
from lightning_sparse.selection import layer_name, matches

__all__ = ["ABOUT_SIGNAL", "advice_on_signal", "signal_gain"]

ABOUT_SIGNAL = "`alpha` .* makes the output of"
"""How the advice starts, for whoever loads trained weights right after a conversion."""

MEAN, VARIANCE = 1 / math.sqrt(2 * math.pi), 0.5 - 1 / (2 * math.pi)
"""Mean and variance of a standard normal variable behind a ReLU."""

LOUD = 9.0
"""Gain from which on the first losses are far from those of the dense net.

LeNets, VGGs, ResNet-18 and wide ResNets with PyTorch's own start have layers of 2 to 8; the last layer of a
diffusion model's U-Net has 9.5 with 32 channels and 22 with 128, where the first loss is 22 instead of 1.1.
"""


def signal_gain(weight: Tensor, alpha: float, offset: Offset) -> float:
    """Return the size of ``alpha C x`` over that of ``W x``, for inputs x as a ReLU gives them.

    Entries of x are independent, of mean m and variance v: ``E |W x|^2 = v |W|^2 + m^2 |W 1|^2``. The DCT's
    first row is constant, so that it adds up the means of all inputs.

    Args:
        weight: W, not all zeros.
        alpha: Scale of C.
        offset: C.

    Examples:
        >>> from lightning_sparse.layers.offsets import DCTOffset
        >>> round(signal_gain(torch.eye(4), 2.0, DCTOffset()), 3)
        2.0
    """
    rows = weight.detach().flatten(1).float()
    before = VARIANCE * rows.square().sum() + MEAN**2 * rows.sum(1).square().sum()
    after = (
        VARIANCE * offset.norm(weight.shape) ** 2 + MEAN**2 * _row_sums(offset, weight.shape).square().sum()
    )
    return abs(alpha) * math.sqrt(float(after) / float(before))


def advice_on_signal(
    weights: Mapping[str, Tensor], alpha: Alpha | Mapping[str, Alpha], offset: Offset
) -> str | None:
    """Return what to say of layers whose output would be many times what it was before; mostly nothing.

    Args:
        weights: Of the layers to be converted, by name; those on the meta device tell nothing.
        alpha: Scale of the offset: whoever names a layer in it, or matches norms, has thought of it.
        offset: C.
    """
    if not offset.has_alpha:
        return None
    patterns = list(alpha) if isinstance(alpha, Mapping) else ["*"] if isinstance(alpha, str) else []
    unnamed = {n: w for n, w in weights.items() if not any(matches(n, pattern) for pattern in patterns)}
    scale = 1.0 if isinstance(alpha, Mapping | str) else float(alpha)
    gains = {n: signal_gain(w, scale, offset) for n, w in unnamed.items() if not w.is_meta and w.any()}
    loud = sorted((name for name in gains if gains[name] >= LOUD), key=lambda name: -gains[name])
    if not loud:
        return None
    gain, layer = gains[loud[0]], layer_name(loud[0])
    return (
        f"`alpha` {scale:g} makes the output of {layer!r} about {gain:.0f} times what it was before the "
        f"conversion ({len(loud)} such layers), for inputs of positive mean: first losses will be high. "
        f'Try `alpha="match_norm"`, or less for this layer, `alpha={{{layer!r}: {scale / gain:.1g}}}`.'
    )


def _row_sums(offset: Offset, shape: torch.Size) -> Tensor:
    """Return C times a vector of ones, through the fast form where there is one."""
    device = torch.device("cpu")
    geometry = None if len(shape) == 2 else Convolution.plain(len(shape) - 2)
    transform = offset.transform(shape, geometry, torch.float32, device)
    if transform is not None:
        return transform(torch.ones(1, *shape[1:], device=device)).flatten()
    matrix = offset.matrix(shape, torch.float32, device)
    return torch.zeros(shape[0], device=device) if matrix is None else matrix.flatten(1).sum(1)
