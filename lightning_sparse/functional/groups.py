"""What is done to many tensors at once: in groups that fit into memory, with one wait for their device."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

__all__ = ["computes_later", "groups_of", "on_host"]


def computes_later(device: torch.device) -> bool:
    """Tell whether a device is given tasks and does them later, so that a look at a result is a wait."""
    return device.type != "cpu"


def groups_of(sizes: Sequence[int], kinds: Sequence[Hashable], most: int, longest: int) -> list[list[int]]:
    """Return the numbers of items in groups of one kind, each in order.

    Args:
        sizes: Of the items; what is larger than ``most`` is a group of its own.
        kinds: What items of a group have in common.
        most: Size of a group.
        longest: Items of a group.

    >>> groups_of([3, 4, 9, 1], "aaba", most=7, longest=3)
    [[0, 1], [2], [3]]
    """
    groups: list[list[int]] = []
    open_ones: dict[Hashable, tuple[list[int], int]] = {}
    for i, (size, kind) in enumerate(zip(sizes, kinds, strict=True)):
        group, filled = open_ones.get(kind, ([], most + 1))
        if filled + size > most or len(group) == longest:
            group, filled = [], 0
            groups.append(group)
        group.append(i)
        open_ones[kind] = group, filled + size
    return groups


def on_host(numbers: Sequence[int | Tensor]) -> list[int]:
    """Return whole numbers, of which some may be on devices: each device is waited for once.

    >>> on_host([3, torch.tensor(5)])
    [3, 5]
    """
    found = [-1 if isinstance(number, Tensor) else number for number in numbers]
    there = [(i, number) for i, number in enumerate(numbers) if isinstance(number, Tensor)]
    for device in dict.fromkeys(number.device for _, number in there):
        some = [(i, number) for i, number in there if number.device == device]
        values = torch.stack([number for _, number in some]).tolist()
        for (i, _), value in zip(some, values, strict=True):
            found[i] = value
    return found
