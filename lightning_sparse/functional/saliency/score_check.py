"""Scores that cannot rank are refused: not finite, or mostly zero."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.finite import check_finite
from lightning_sparse.functional.ranking import count_nonzero, in_pieces
from lightning_sparse.selection import some_names
from lightning_sparse.types import Masks, Scores

__all__ = ["ScoreCheck", "count_nonzero_scores", "pruned_last", "refuse_not_finite"]


class ScoreCheck:
    """Looks at the scores of each iteration, and refuses those that cannot rank.

    Some weights score zero in the dense net already, such as a kernel's corner that only ever sees padding.
    So not all scores need to differ from zero. But as many as half of the weights that are kept at the end
    must, and on the way half of those that did at first.

    Args:
        keep: Number of weights to keep at the end; 0 asks for nothing but finite scores.
        weights: The weights scored, by the same names: errors say if the cause lies in them.
    """

    def __init__(self, keep: int, weights: Mapping[str, Tensor] | None = None) -> None:
        self.keep = keep
        self.weights = weights or {}
        self.nonzero_at_first: dict[str, int] = {}
        self.nonzero: dict[str, int] = {}

    def check(self, scores: Scores, keep: int) -> None:
        """Look at the scores by which ``keep`` weights will be ranked.

        Raises:
            SparsityError: If a score is NaN or positive infinity, or too few are not zero.

        Warns:
            UserWarning: If all scores of a layer are zero in the first iteration.
        """
        self.check_counts(self.count(scores), keep, partial(_why_zero, scores, self.weights))

    def check_counts(
        self, nonzero_scores: Mapping[str, int], keep: int, why_zero: Callable[[], str] = lambda: ""
    ) -> None:
        """Do as `check`, given how many scores of each layer are not zero.

        Args:
            nonzero_scores: They are finite, all of them.
            keep: Number of weights to keep of these layers.
            why_zero: Says what in the weights may be the reason for zeros.
        """
        self.nonzero = dict(nonzero_scores)
        nonzero, at_first = sum(self.nonzero.values()), sum(self.nonzero_at_first.values())
        needed = min(self.keep and keep, at_first) if self.nonzero_at_first else self.keep
        if nonzero * 2 < needed:
            why = why_zero() or "the net is cut through, or starts with zeros"
            raise SparsityError(
                f"Only {nonzero} scores are not zero, but {needed} weights are to be kept: {why}. Raise "
                "`density`, leave such layers dense with `exclude`, or choose a random method (`erk`, `epl`)."
            )
        if not self.nonzero_at_first and self.keep:
            _warn_of_silent_layers([name for name, count in nonzero_scores.items() if not count], why_zero)
        self.nonzero_at_first = self.nonzero_at_first or self.nonzero

    def count(self, scores: Scores) -> dict[str, int]:
        """Count the scores of each layer that are not zero.

        Raises:
            SparsityError: If a score is NaN or positive infinity.
        """
        try:
            return {name: count_nonzero_scores(score, name) for name, score in scores.items()}
        except SparsityError:
            check_finite(self.weights)  # else they are the cause, and are named
            raise

    def unclear(self, keep: int, min_weights: int) -> list[str]:
        """Return the layers of which a global ranking may keep weights that score zero."""
        enough = sum(self.nonzero.values()) >= keep
        return [name for name, nonzero in self.nonzero.items() if not enough or nonzero < min_weights]

    def sum_up(self) -> None:
        """Warn if in the last iteration fewer scores than weights to keep were not zero."""
        nonzero = sum(self.nonzero.values())
        if nonzero < self.keep:
            warnings.warn(
                f"Only {nonzero} scores are not zero, but {self.keep} weights are kept: the rest is chosen "
                "by order.",
                stacklevel=3,
            )


def pruned_last(scores: Scores, masks: Masks) -> Scores:
    """Rank zeros of pruned weights below zeros of weights that are left: the former become -inf.

    Both score 0, and without this a tie would be broken by position alone: pruned weights would return.
    """
    return {
        name: score.masked_fill((score == 0) & ~masks[name], -torch.inf) for name, score in scores.items()
    }


def count_nonzero_scores(scores: Tensor, name: str) -> int:
    """Count the scores of a layer that are not zero.

    Raises:
        SparsityError: If a score is NaN or positive infinity.
    """
    nonzero = 0
    for (piece,) in in_pieces(scores):
        if not piece.amax() < torch.inf:  # false for NaN too, which is the maximum wherever it occurs
            refuse_not_finite(name, int((scores.isnan() | (scores == torch.inf)).count_nonzero()))
        nonzero += count_nonzero(piece)
    return nonzero


def refuse_not_finite(name: str, count: int) -> None:
    """Refuse scores of a layer of which so many are NaN or positive infinity, if any are."""
    if count:
        raise SparsityError(
            f"{count} scores of {name!r} are not finite. Look for an overflow in the loss or in half "
            "precision."
        )


def _warn_of_silent_layers(silent: Sequence[str], why_zero: Callable[[], str]) -> None:
    """Warn of layers whose scores are all zero: what is kept of them is chosen by order."""
    if silent:
        why = why_zero() or "no signal comes to them or leaves them"
        warnings.warn(
            f"All scores of {some_names(silent)} are zero ({len(silent)} layers): {why}. "
            "Leave them dense with `exclude`, or give them a density in `density_overrides`.",
            stacklevel=5,
        )


def _why_zero(scores: Scores, weights: Mapping[str, Tensor]) -> str:
    """Return the reason that lies in the weights, if there is one; else nothing.

    A layer of zeros passes no gradient back. With LoRA, ``W x + B (A x)`` with B = 0, that silences A too.
    """
    silent = _all_zero(scores)
    zeros = _all_zero({name: weights[name] for name in silent if name in weights})
    if not zeros:
        return ""
    return (
        f"the weights of {some_names(zeros)} are all zero, as LoRA's B is at first, so they score zero, and "
        "so does what acts through them alone"
    )


def _all_zero(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name, tensor in tensors.items() if not tensor.any()]
