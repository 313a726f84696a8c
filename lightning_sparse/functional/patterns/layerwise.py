"""n:M: groups of m inputs, of which each layer keeps a number of its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError, check_count
from lightning_sparse.functional.patterns.base import GroupPattern, refuse_odd_shapes
from lightning_sparse.functional.patterns.nm import NM, lacks_groups
from lightning_sparse.types import Budgets, Masks, Scores, Shapes

__all__ = ["LayerwiseNM"]


@dataclass(frozen=True)
class LayerwiseNM(GroupPattern):
    """Of every m inputs in a row, a layer keeps n, from 1 to m; n is the same in all of a layer.

    Groups are those of `NM`. Which n a layer has follows from its budget, so an allocation such as "erk"
    makes small layers denser here too.

    Args:
        m: Size of a group.

    Source:
        Sun et al., "DominoSearch: Find layer-wise fine-grained N:M sparse schemes from dense neural
        networks", NeurIPS 2021, for n that differs by layer; there a search finds it.

    Examples:
        >>> shapes = {"fc1": torch.Size([4, 8]), "fc2": torch.Size([2, 4])}
        >>> LayerwiseNM(4).nearest(shapes, {"fc1": 15, "fc2": 5})  # 8 groups and 2 groups
        {'fc1': 16, 'fc2': 4}
    """

    m: int

    def __post_init__(self) -> None:
        check_count("m", self.m)

    @property
    def density(self) -> None:
        """None: it differs by layer."""
        return

    def lacks(self, shape: torch.Size) -> str:
        """Ask for a multiple of m inputs."""
        return lacks_groups(shape, self.m)

    def least(self, shape: torch.Size, min_weights: int) -> int:
        """Return one of every m, or the multiple of that which is enough."""
        groups = shape.numel() // self.m
        return groups * max(1, -(-min(min_weights, shape.numel()) // max(groups, 1)))

    def nearest(self, shapes: Shapes, budgets: Budgets) -> Budgets:
        """Round each layer to a multiple of its groups, down or up, so that the sum comes near.

        First all down; then up where the remainder is largest, ties by order, as long as that brings the sum
        nearer. So it is missed by at most half the groups of the largest layer.
        """
        groups = {name: shape.numel() // self.m for name, shape in shapes.items()}
        ns = {name: max(1, budgets[name] // max(many, 1)) for name, many in groups.items()}
        missing = sum(budgets.values()) - sum(ns[name] * groups[name] for name in groups)
        left_over = {name: budgets[name] / max(many, 1) - ns[name] for name, many in groups.items()}
        for name in sorted(groups, key=left_over.__getitem__, reverse=True):
            if left_over[name] > 0 and abs(missing - groups[name]) < abs(missing):
                ns[name] += 1
                missing -= groups[name]
        return {name: ns[name] * groups[name] for name in groups}

    def check(self, shapes: Shapes, k: int) -> None:
        """Ask for a multiple of m inputs, and as many of one layer as all its groups can keep alike."""
        refuse_odd_shapes(self, shapes)
        if len(shapes) > 1:
            raise SparsityError(
                f"`pattern` {self} needs a count for each layer, got {len(shapes)} layers ranked together. "
                "Give the method an allocation, such as SNIP(allocation='erk'), or fix n: "
                f"'{max(1, self.m // 2)}:{self.m}'."
            )
        for name, shape in shapes.items():
            groups = shape.numel() // self.m
            if groups and (k % groups or not 0 < k <= shape.numel()):
                raise SparsityError(
                    f"`pattern` {self} keeps a multiple of {groups} of the {shape.numel()} weights of "
                    f"{name}, got {k} to keep. Give the method an allocation, such as 'erk': it rounds."
                )

    def best(self, scores: Scores, k: int) -> Masks:
        """Keep the best of every group, as many as k asks for."""
        shapes = {name: score.shape for name, score in scores.items()}
        self.check(shapes, k)
        return self._of(next(iter(shapes.values())), k).best(scores, k) if shapes else {}

    def filled(self, kept: Tensor, scores: Tensor, k: int) -> Tensor:
        """Fill every group up, with the best of the others."""
        self.check({"the layer": scores.shape}, k)
        return self._of(scores.shape, k).filled(kept, scores, k)

    def filled_at_random(self, kept: Tensor, shape: torch.Size, k: int, generator: torch.Generator) -> Tensor:
        """Fill every group up, with any of the others."""
        self.check({"the layer": shape}, k)
        return self._of(shape, k).filled_at_random(kept, shape, k, generator)

    def _of(self, shape: torch.Size, k: int) -> NM:
        """Return the pattern of a layer that keeps k weights."""
        return NM(max(1, k // max(shape.numel() // self.m, 1)), self.m)

    def __str__(self) -> str:
        return f"n:{self.m}"
