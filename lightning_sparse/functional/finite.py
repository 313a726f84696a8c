"""Weights that training has ruined are not ranked, not copied, and not made into numbers to start from.

NaN has no rank and no sign: what comes of it looks like a result, and is none.
"""

from collections.abc import Mapping

from torch import Tensor

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.ranking import in_pieces

__all__ = ["check_finite", "check_no_nan"]

_WAY_OUT = (
    "If training has diverged, resume from the last checkpoint before it, with a lower learning rate or "
    "`gradient_clip_val`."
)


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Refuse weights of which entries are NaN or infinite.

    Args:
        weights: Weights, or entries of them, by the name that the error gives.

    Raises:
        SparsityError: With the first such weight, and how many of its entries.
    """
    for name, weight in weights.items():
        if _sums_are_finite(weight):
            continue
        if bad := int(weight.detach().isfinite().logical_not().sum()):
            raise SparsityError(
                f"Weights must be finite and not NaN, got {bad} in {name!r} (of {weight.numel()}) that are "
                f"not. {_WAY_OUT}"
            )


def check_no_nan(weights: Mapping[str, Tensor]) -> None:
    """Refuse weights of which entries are NaN; infinite ones may be meant, as in a mask that is added.

    Args:
        weights: Weights by the name that the error gives.

    Raises:
        SparsityError: With the first such weight, and how many of its entries.
    """
    for name, weight in weights.items():
        if _sums_are_finite(weight):
            continue
        if bad := int(weight.detach().isnan().sum()):
            raise SparsityError(
                f"Weights must not be NaN, got {bad} in {name!r} (of {weight.numel()}) that are. {_WAY_OUT}"
            )


def _sums_are_finite(weight: Tensor) -> bool:
    """Tell the fast way that all entries are finite; where it says no, their sum may only have overflowed."""
    return all(bool(piece.detach().sum().isfinite()) for (piece,) in in_pieces(weight) if piece.numel())
