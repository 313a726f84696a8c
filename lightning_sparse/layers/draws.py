"""Supports of several layers from one seed, and the note by which they can be drawn again."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from lightning_sparse.layers.support import draw_equal_rows, draw_support
from lightning_sparse.types import Budgets, Shapes

__all__ = ["Draw", "DrawKind", "draw_again", "draw_supports"]

DrawKind: TypeAlias = Literal["any", "equal_rows"]
"""Whether every subset of a weight has the same chance, or every one with as many positions in each row."""

DRAWS = {"any": draw_support, "equal_rows": draw_equal_rows}


class Draw(NamedTuple):
    """How a support was drawn, one after another with those of other layers.

    Attributes:
        seed: Of the generator, if nothing had been drawn from it before; who draws again has to compare.
        kind: A key of `DRAWS`.
    """

    seed: int
    kind: DrawKind


def draw_supports(
    shapes: Shapes, budgets: Budgets, kind: DrawKind, generator: torch.Generator
) -> dict[str, Tensor]:
    """Draw the supports of weights, in the order of ``shapes``: the same on every machine.

    Args:
        shapes: Shape by name.
        budgets: Number of positions by name.
        kind: What is drawn in each weight.
        generator: On the CPU.

    Returns:
        Sorted int64 positions by name, on the CPU.

    Examples:
        >>> shapes = {"a": torch.Size([2, 50]), "b": torch.Size([3, 10])}
        >>> draw_supports(shapes, {"a": 3, "b": 1}, "any", torch.Generator().manual_seed(0))
        {'a': tensor([45, 70, 97]), 'b': tensor([27])}
    """
    draw = DRAWS[kind]
    return {name: draw(shape, budgets[name], generator) for name, shape in shapes.items()}


def draw_again(notes: Mapping[str, tuple[Draw | None, torch.Size, int]]) -> dict[str, Tensor]:
    """Draw supports anew by notes of how they were drawn.

    Args:
        notes: Draw, shape and number of positions by name, in the order in which they were drawn.

    Returns:
        Positions by name, where there is a note. They are those of then if the same weights were drawn, and
        nothing else from the same generator before.
    """
    supports: dict[str, Tensor] = {}
    for draw in {noted for noted, _, _ in notes.values() if noted is not None}:
        alike = {name: (shape, k) for name, (noted, shape, k) in notes.items() if noted == draw}
        shapes = {name: shape for name, (shape, _) in alike.items()}
        budgets = {name: k for name, (_, k) in alike.items()}
        generator = torch.Generator().manual_seed(draw.seed)
        supports |= draw_supports(shapes, budgets, draw.kind, generator)
    return supports
