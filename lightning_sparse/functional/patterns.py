"""Patterns: which sets of weights may be kept, and how the best of them are picked from scores."""

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError, check_count
from lightning_sparse.functional.ranking import (
    best_of,
    count_nonzero,
    first_of_rows,
    mask_at,
    positions_of,
    rankable,
    refuse_nan,
)
from lightning_sparse.types import Masks, Scores, Shapes

__all__ = ["NM", "UNSTRUCTURED", "Pattern", "Unstructured", "pattern_from_name"]


class Pattern(ABC):
    """Which sets of weights may be kept. One that has options is a frozen dataclass."""

    @abstractmethod
    def check(self, shapes: Shapes, k: int) -> None:
        """Raise SparsityError unless k weights of these layers together can be kept, and name the way out."""

    @abstractmethod
    def best(self, scores: Scores, k: int) -> Masks:
        """Keep the k highest scores over all layers together, as far as the pattern lets them be kept.

        Of equal scores the first in (layer, flat index) order are kept.

        Args:
            scores: Scores by layer, shaped like the weights.
            k: Number of weights to keep in all, from 0 to all.

        Raises:
            SparsityError: If the pattern cannot have k weights, or a score is NaN.
        """

    @abstractmethod
    def filled(self, kept: Tensor, scores: Tensor, k: int) -> Tensor:
        """Return a mask of k weights of one layer: those that are kept already, and the best of the others.

        Args:
            kept: Their flat positions, int64.
            scores: Finite scores in the shape of the weight.
            k: Number of weights, the kept ones included.

        Raises:
            SparsityError: If the pattern cannot have k weights, or these among them.
        """

    @abstractmethod
    def filled_at_random(self, kept: Tensor, shape: torch.Size, k: int, generator: torch.Generator) -> Tensor:
        """Do as `filled`, with any of the others, each set of them with the same chance."""


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


def _check_kept(k: int, least: int, most: int) -> None:
    """Refuse to keep fewer weights than are kept already, or more than there are."""
    check_count("k", k, least, f"There are {most} weights, {least} of them kept already.")
    if k > most:
        raise SparsityError(f"`k` must be at most {most}, the number of weights, got {k}. Ask for fewer.")


@dataclass(frozen=True)
class NM(Pattern):
    """Of every m inputs in a row, n are kept: the N:M sparsity that some hardware multiplies fast.

    The m are consecutive inputs of one output, in a kernel at one place: groups run along the second
    dimension of the weight, ``(out, in / groups, *kernel)``, which must be a multiple of m long. So each
    layer has one legal count, ``n / m`` of its weights.

    Args:
        n: Weights kept in each group.
        m: Size of a group.

    Source:
        Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021 (arXiv:2104.08378); Zhou et al.,
        "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch", ICLR 2021
        (arXiv:2102.04010).

    Examples:
        >>> NM(2, 4).best({"fc": torch.tensor([[4.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 9.0]])}, 4)["fc"]
        tensor([[ True, False, False,  True],
                [ True, False, False,  True]])
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        check_count("n", self.n)
        check_count("m", self.m)
        if self.n > self.m:
            raise SparsityError(f"`n` must be at most `m`, {self.m}, got {self.n}: so many are in a group.")

    def check(self, shapes: Shapes, k: int) -> None:
        """Ask for a multiple of m inputs, and ``n / m`` of all weights."""
        for name, shape in shapes.items():
            if len(shape) < 2 or shape[1] % self.m:
                raise SparsityError(
                    f"`pattern` {self} needs a multiple of {self.m} inputs, got shape {tuple(shape)} of "
                    f"{name!r}. Leave this weight out with `exclude`."
                )
        size = sum(shape.numel() for shape in shapes.values())
        if k * self.m != size * self.n:
            raise SparsityError(
                f"`pattern` {self} keeps {size * self.n // self.m} of the {size} weights of "
                f"{', '.join(list(shapes)[:3])}, got {k} to keep. Set `density` to {self.n / self.m:.4g}, "
                "with 'global' or 'uniform' allocation and a method of one iteration."
            )

    def best(self, scores: Scores, k: int) -> Masks:
        """Keep the n best of every group."""
        self.check({name: score.shape for name, score in scores.items()}, k)
        flat = rankable(scores)
        if any(score.isnan().any() for score in flat.values()):
            refuse_nan(flat)
        return {name: self._best_of_groups(flat[name].view(score.shape)) for name, score in scores.items()}

    def filled(self, kept: Tensor, scores: Tensor, k: int) -> Tensor:
        """Fill every group up to n, with the best of the others."""
        mask = self.best({"scores": scores.reshape(-1).index_fill(0, kept, math.inf).view(scores.shape)}, k)
        self._refuse_full_groups(mask["scores"], kept)
        return mask["scores"]

    def filled_at_random(self, kept: Tensor, shape: torch.Size, k: int, generator: torch.Generator) -> Tensor:
        """Fill every group up to n, with any of the others."""
        draws = torch.rand(shape, generator=generator, device=generator.device)
        return self.filled(kept, draws.to(kept.device), k)

    def _best_of_groups(self, scores: Tensor) -> Tensor:
        inputs_last = scores.movedim(1, -1)
        order = inputs_last.reshape(-1, self.m).argsort(dim=1, descending=True, stable=True)
        mask = first_of_rows(order, self.n)
        return mask.view(inputs_last.shape).movedim(-1, 1).contiguous()

    def _refuse_full_groups(self, mask: Tensor, kept: Tensor) -> None:
        if not mask.reshape(-1).index_select(0, kept).all():
            raise SparsityError(
                f"`pattern` {self} lets {self.n} of every {self.m} weights be active, got more in a group. "
                "Start from masks of this pattern."
            )

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


def pattern_from_name(pattern: str | Pattern) -> Pattern:
    """Return the pattern that a text stands for, or the pattern itself.

    Args:
        pattern: ``"unstructured"``, or N and M such as ``"2:4"``.

    Raises:
        SparsityError: If the text is neither.

    >>> pattern_from_name("2:4")
    NM(n=2, m=4)
    """
    if isinstance(pattern, Pattern):
        return pattern
    if pattern == "unstructured":
        return UNSTRUCTURED
    if (found := re.fullmatch(r"(\d+):(\d+)", str(pattern))) is None:
        raise SparsityError(f"`pattern` must be unstructured, or N:M such as '2:4', got {pattern!r}.")
    return NM(int(found[1]), int(found[2]))
