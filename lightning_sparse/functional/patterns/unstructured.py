"""No pattern: any weights may be kept."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError, check_count
from lightning_sparse.functional.patterns.base import Pattern, register_pattern
from lightning_sparse.functional.ranking import best_of, count_nonzero, mask_at, positions_of, rankable
from lightning_sparse.types import Masks, Scores, Shapes

__all__ = ["UNSTRUCTURED", "Unstructured", "name_of_pattern"]


@dataclass(frozen=True)
class Unstructured(Pattern):
    """Any weights may be kept."""

    def check(self, shapes: Shapes, k: int) -> None:
        """Accept any number."""

    def best(self, scores: Scores, k: int) -> Masks:
        """Keep the k highest scores."""
        _check_kept(k, 0, sum(score.numel() for score in scores.values()))
        masks = best_of(rankable(scores), k)
        return {name: masks[name].view(score.shape) for name, score in scores.items()}

    def filled(self, kept: Tensor, scores: Tensor, k: int) -> Tensor:
        """Rank the others by themselves."""
        _check_kept(k, len(kept), scores.numel())
        others = {"scores": scores.reshape(-1).index_fill(0, kept, -math.inf)}
        mask = best_of(rankable(others), k - len(kept))["scores"]
        return mask.index_fill_(0, kept, True).view(scores.shape)

    def filled_at_random(self, kept: Tensor, shape: torch.Size, k: int, generator: torch.Generator) -> Tensor:
        """Draw others, in O(k) where there is room.

        A draw that hits what is taken is made again, by which no free position is preferred. Only where free
        positions are hard to hit are they shuffled instead.
        """
        size = shape.numel()
        _check_kept(k, len(kept), size)
        mask = mask_at(kept, shape).view(-1)
        if 2 * k > size:
            free = positions_of(~mask)
            order = torch.randperm(len(free), generator=generator, device=generator.device).to(free.device)
            return mask.index_fill_(0, free[order[: k - len(kept)]], True).view(shape)
        while missing := k - count_nonzero(mask):
            drawn = torch.randint(size, (missing,), generator=generator, device=generator.device)
            mask.index_fill_(0, drawn.to(mask.device), True)
        return mask.view(shape)


UNSTRUCTURED = Unstructured()
register_pattern("unstructured")(lambda: UNSTRUCTURED)


def _check_kept(k: int, least: int, most: int) -> None:
    """Refuse to keep fewer weights than are kept already, or more than there are."""
    check_count("k", k, least, f"There are {most} weights, {least} of them kept already.")
    if k > most:
        raise SparsityError(f"`k` must be at most {most}, the number of weights, got {k}. Ask for fewer.")


def name_of_pattern(pattern: Pattern) -> str | None:
    """Return what a pattern is written as in checkpoints and logs; ``None`` if there is none.

    >>> print(name_of_pattern(UNSTRUCTURED))
    None
    """
    return None if pattern == UNSTRUCTURED else str(pattern)
