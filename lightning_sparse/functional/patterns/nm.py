"""N:M: of every m inputs in a row, n are kept."""

import math
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError, check_count
from lightning_sparse.functional.patterns.base import GroupPattern, refuse_odd_shapes
from lightning_sparse.functional.ranking import first_of_rows, rankable, refuse_nan
from lightning_sparse.types import Budgets, Masks, Scores, Shapes

__all__ = ["NM", "lacks_groups"]

_COMPARED = 32  # up to such groups, comparing all pairs is faster than sorting


@dataclass(frozen=True)
class NM(GroupPattern):
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

    @property
    def density(self) -> float:
        """The share n / m, of every layer."""
        return self.n / self.m

    def lacks(self, shape: torch.Size) -> str:
        """Ask for a multiple of m inputs."""
        return lacks_groups(shape, self.m)

    def least(self, shape: torch.Size, min_weights: int) -> int:
        """Return the one count that there is, if it is enough."""
        kept = shape.numel() // self.m * self.n
        if kept < min(min_weights, shape.numel()):
            raise SparsityError(
                f"`min_weights_per_layer` must be at most {kept}, all that `pattern` {self} keeps of a "
                f"weight of shape {tuple(shape)}, got {min_weights}. Lower it."
            )
        return kept

    def nearest(self, shapes: Shapes, budgets: Budgets) -> Budgets:
        """Accept the one count that each layer can have."""
        for name, shape in shapes.items():
            self.check({name: shape}, budgets[name])
        return dict(budgets)

    def check(self, shapes: Shapes, k: int) -> None:
        """Ask for a multiple of m inputs, and ``n / m`` of all weights."""
        refuse_odd_shapes(self, shapes)
        size = sum(shape.numel() for shape in shapes.values())
        if k * self.m != size * self.n:
            raise SparsityError(
                f"`pattern` {self} keeps {size * self.n // self.m} of the {size} weights of "
                f"{', '.join(list(shapes)[:3])}, got {k} to keep. Set `density` to {self.n / self.m:.4g}, "
                f"with 'global' or 'uniform' allocation, or let n differ by layer: 'n:{self.m}'."
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
        if self.m <= _COMPARED:
            return self._compared(scores)
        inputs_last = scores.movedim(1, -1)
        order = inputs_last.reshape(-1, self.m).argsort(dim=1, descending=True, stable=True)
        mask = first_of_rows(order, self.n)
        return mask.view(inputs_last.shape).movedim(-1, 1).contiguous()

    def _compared(self, scores: Tensor) -> Tensor:
        """Count for each weight of a group by how many others it is beaten; of equal ones the first wins."""
        outputs, inputs, *kernel = scores.shape
        grouped = scores.reshape(outputs, inputs // self.m, self.m, *kernel)
        places = [place.contiguous() for place in grouped.unbind(2)]
        better = [torch.full(p.shape, i, dtype=torch.uint8, device=p.device) for i, p in enumerate(places)]
        for first, later in combinations(range(self.m), 2):
            beaten = (places[later] > places[first]).view(torch.uint8)
            better[first] += beaten
            better[later] -= beaten
        return torch.stack([count < self.n for count in better], dim=2).flatten(1, 2)

    def _refuse_full_groups(self, mask: Tensor, kept: Tensor) -> None:
        if not mask.reshape(-1).index_select(0, kept).all():
            raise SparsityError(
                f"`pattern` {self} lets {self.n} of every {self.m} weights be active, got more in a group. "
                "Start from masks of this pattern."
            )

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


def lacks_groups(shape: torch.Size, m: int) -> str:
    """Say what a weight lacks to be split into groups of m along its second dimension; "" if nothing."""
    return f"a multiple of {m} inputs" if len(shape) < 2 or shape[1] % m else ""
