"""Moving connections: drop the weakest, grow as many others, so that the count stays the same to the integer.

RigL grows where the gradient of the dense weight is largest, SET anywhere. Each rule takes a mask or, for
layers that store active weights only, their ascending flat positions, the *support*; results are the same.
A weight that is dropped and grown again at once has not moved: it keeps its value and its optimizer state.
What the new mask has and the old one has not starts at zero.

Source:
    Evci et al., "Rigging the Lottery", ICML 2020, section 3 (arXiv:1911.11134); Mocanu et al., "Scalable
    training of artificial neural networks with adaptive sparse connectivity inspired by network science",
    Nature Communications 9, 2018 (arXiv:1707.04780).
"""

import hashlib
import math

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError, check_number
from lightning_sparse.functional.masks import top_k_mask
from lightning_sparse.functional.patterns import UNSTRUCTURED, Pattern
from lightning_sparse.functional.ranking import positions_of

__all__ = [
    "check_scores",
    "check_support",
    "count_dropped",
    "draws_of",
    "drop_and_grow",
    "drop_and_grow_at_random",
    "move_support",
    "move_support_at_random",
]


def count_dropped(nnz: int, fraction: float) -> int:
    """Count the connections to drop: ``floor(fraction * nnz)``.

    Raises:
        SparsityError: If ``fraction`` is not in [0, 1].

    Examples:
        >>> count_dropped(180, 0.15), count_dropped(3, 0.3)
        (27, 0)
    """
    check_number("fraction", fraction, "[0, 1]", "It is the share of active weights to drop.")
    return math.floor(fraction * nnz)


def drop_and_grow(
    mask: Tensor,
    drop_scores: Tensor,
    grow_scores: Tensor,
    fraction: float,
    *,
    pattern: Pattern = UNSTRUCTURED,
) -> Tensor:
    """Drop the active weights that score lowest, then grow the highest of all that are not kept, as many.

    With ``|w|`` and ``|mean dense gradient|`` this is RigL. An active weight of value zero is active, and
    inactive positions take no part in the drop. Of equal scores the lowest flat index is kept, or grown.

    Args:
        mask: Active weights: boolean, of any shape and device.
        drop_scores: Scores of the same shape; ``floor(fraction * nnz)`` of the active weights are dropped.
        grow_scores: Scores of the same shape, floating point.
        fraction: Share of the active weights to drop, in [0, 1].
        pattern: Which sets of weights may be active, before and after.

    Returns:
        A new mask with as many True.

    Raises:
        SparsityError: If ``mask`` is not boolean, shapes differ, ``fraction`` is out of range, or if growth
            scores, or drop scores of active weights, are not finite.

    Examples:
        >>> mask = torch.tensor([True, True, False, False])
        >>> drop_and_grow(mask, torch.tensor([0.1, 0.7, 0.0, 0.0]), torch.tensor([5.0, 9.0, 3.0, 6.0]), 0.5)
        tensor([False,  True, False,  True])
    """
    _check_mask(mask, drop_scores=drop_scores, grow_scores=grow_scores)
    support = positions_of(mask)
    active = drop_scores.reshape(-1).index_select(0, support)
    return _grow_best(support, active, grow_scores, fraction, pattern)


def drop_and_grow_at_random(
    mask: Tensor,
    drop_scores: Tensor,
    fraction: float,
    generator: torch.Generator,
    *,
    pattern: Pattern = UNSTRUCTURED,
) -> Tensor:
    """Drop the active weights that score lowest, then grow any of all that are not kept, as many (SET).

    Every set of free positions is as likely as any other.

    Args:
        mask: Active weights: boolean, of any shape and device.
        drop_scores: Scores of the same shape, ``|w|`` in SET; ranked as by ``drop_and_grow``.
        fraction: Share of the active weights to drop, in [0, 1].
        generator: Source of the draw, on any device.
        pattern: Which sets of weights may be active, before and after.

    Returns:
        A new mask with as many True.

    Raises:
        SparsityError: As from ``drop_and_grow``.
    """
    _check_mask(mask, drop_scores=drop_scores)
    support = positions_of(mask)
    active = drop_scores.reshape(-1).index_select(0, support)
    return _grow_any(support, active, mask.shape, fraction, generator, pattern)


def draws_of(seed: int, step: int, name: str) -> torch.Generator:
    """Return the generator for one move of one layer: it depends on nothing else, on any process.

    Args:
        seed: Seed of the run.
        step: Optimizer step of the move.
        name: Name of the layer or its weight.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def move_support(
    support: Tensor,
    drop_scores: Tensor,
    grow_scores: Tensor,
    fraction: float,
    *,
    pattern: Pattern = UNSTRUCTURED,
) -> Tensor:
    """Do as ``drop_and_grow``, from positions to positions.

    Args:
        support: Flat positions of the k active weights: integers, ascending.
        drop_scores: Their scores, ``(k,)``.
        grow_scores: Scores of all N weights, floating point, in the shape of the weight if the pattern goes
            by it.
        fraction: Share of the active weights to drop, in [0, 1].
        pattern: Which sets of weights may be active, before and after.

    Returns:
        The new k positions, ascending, in the dtype of ``support``.

    Raises:
        SparsityError: As from ``drop_and_grow``, or if ``support`` is not ascending or leaves the weight.
    """
    check_support(support, drop_scores, grow_scores.numel())
    return positions_of(_grow_best(support, drop_scores, grow_scores, fraction, pattern)).to(support.dtype)


def move_support_at_random(
    support: Tensor,
    drop_scores: Tensor,
    size: int | torch.Size,
    fraction: float,
    generator: torch.Generator,
    *,
    pattern: Pattern = UNSTRUCTURED,
) -> Tensor:
    """Do as ``drop_and_grow_at_random``, from positions to positions; the same seed gives the same draw.

    Args:
        support: Flat positions of the k active weights: integers, ascending.
        drop_scores: Their scores, ``(k,)``.
        size: Number N of weights, or their shape if the pattern goes by it.
        fraction: Share of the active weights to drop, in [0, 1].
        generator: Source of the draw, on any device.
        pattern: Which sets of weights may be active, before and after.

    Returns:
        The new k positions, ascending, in the dtype of ``support``.

    Raises:
        SparsityError: As from ``move_support``.
    """
    shape = torch.Size([size]) if isinstance(size, int) else size
    check_support(support, drop_scores, shape.numel())
    mask = _grow_any(support, drop_scores, shape, fraction, generator, pattern)
    return positions_of(mask).to(support.dtype)


def _grow_best(
    support: Tensor, drop_scores: Tensor, grow_scores: Tensor, fraction: float, pattern: Pattern
) -> Tensor:
    """Return the new mask: the survivors and the best of the others."""
    check_scores(grow_scores, "grow_scores")
    kept = _survivors(support, drop_scores, fraction)
    return pattern.filled(kept, grow_scores.detach(), len(support))


def _grow_any(
    support: Tensor,
    drop_scores: Tensor,
    shape: torch.Size,
    fraction: float,
    generator: torch.Generator,
    pattern: Pattern,
) -> Tensor:
    """Return the new mask: the survivors and others drawn from the rest."""
    kept = _survivors(support, drop_scores, fraction)
    return pattern.filled_at_random(kept, shape, len(support), generator)


def _survivors(support: Tensor, drop_scores: Tensor, fraction: float) -> Tensor:
    """Return the positions that are not dropped, ascending."""
    check_scores(drop_scores, "drop_scores")
    kept = top_k_mask(drop_scores, len(support) - count_dropped(len(support), fraction))
    return support.index_select(0, positions_of(kept)).long()


def _check_mask(mask: Tensor, **scores: Tensor) -> None:
    if mask.dtype != torch.bool:
        raise SparsityError(f"`mask` must be boolean, got {mask.dtype}. Convert it: `mask.bool()`.")
    for name, score in scores.items():
        if score.shape != mask.shape:
            raise SparsityError(
                f"`{name}` must have the shape of `mask`, {tuple(mask.shape)}, got {tuple(score.shape)}."
            )


def check_support(support: Tensor, drop_scores: Tensor, size: int) -> None:
    """Refuse positions that are not ascending, or leave the weight, or have not one score each."""
    if drop_scores.shape != support.shape or support.ndim != 1:
        raise SparsityError(
            f"`drop_scores` must have one score per entry of `support`, {tuple(support.shape)}, "
            f"got {tuple(drop_scores.shape)}. Take them at these positions."
        )
    if not (support[1:] > support[:-1]).all():
        raise SparsityError(
            "`support` must be ascending, got positions that are not. Sort it, and its scores."
        )
    if len(support) and not 0 <= int(support[0]) <= int(support[-1]) < size:
        raise SparsityError(
            f"`support` must be within the {size} weights, got {int(support[0])} to {int(support[-1])}."
        )


def check_scores(scores: Tensor, name: str) -> None:
    """Refuse scores that are not finite."""
    if scores.sum().isfinite():  # of finite scores too the sum may overflow, so there is a second look
        return
    if bad := int(scores.isfinite().logical_not().sum()):
        raise SparsityError(f"`{name}` must be finite, got {bad} that are not. Leave this update out.")
