"""Tickets in files: the sparse structure that ASNI has found, and the 2 L numbers to start it from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError, check_kind
from lightning_sparse.files.masks import states_in, unpacked
from lightning_sparse.files.reading import read_dict
from lightning_sparse.files.writing import write_whole
from lightning_sparse.functional.packing import pack_masks
from lightning_sparse.types import Masks

__all__ = ["Ticket", "load_ticket", "save_ticket"]

_PARTS = ("masks", "signs", "centroids")


@dataclass(frozen=True)
class Ticket:
    """What it takes to start a sparse net: where its weights are, their signs, and two numbers per layer.

    Attributes:
        masks: Boolean mask by parameter name.
        signs: Signs of the survivors by parameter name: int8 in flat order, one per kept weight.
        centroids: ``[c_plus, c_minus]`` by parameter name.
        provenance: How it was found: plain values by name.
    """

    masks: Masks
    signs: dict[str, Tensor]
    centroids: dict[str, Tensor]
    provenance: dict[str, str | int | float | None] = field(default_factory=dict)


def save_ticket(ticket: Ticket, path: str | Path) -> None:
    """Write a ticket to a file, masks as packed bits; ``load_masks`` and ``torch.load`` read it too.

    Args:
        ticket: What to write.
        path: Its folder is made if it is not there.

    Raises:
        SparsityError: If ``ticket`` is none, or no file can be written there.
    """
    check_kind("ticket", ticket, Ticket)
    content = {
        "masks": pack_masks(ticket.masks),
        "signs": {name: sign.cpu() for name, sign in ticket.signs.items()},
        "centroids": {name: pair.cpu() for name, pair in ticket.centroids.items()},
        "provenance": ticket.provenance,
    }
    write_whole(content, path)


def load_ticket(path: str | Path, argument: str = "path") -> Ticket:
    """Read a ticket, or that in a checkpoint of ``ASNISigmoidPruner`` made after re-initialisation.

    Args:
        path: Nothing but tensors and plain values is read from it.
        argument: What errors call it: the caller's own name for it.

    Returns:
        The ticket, its tensors on the CPU.

    Raises:
        SparsityError: If there is no such file, if it is damaged, or if it holds no ticket.
    """
    found = _ticket_in(read_dict(path, argument), path, argument)
    if found is None:
        raise SparsityError(
            f"`{argument}` {str(path)!r} holds no centroids. Give a ticket of ASNISigmoidPruner (its "
            "`ticket_path`), or a checkpoint of its retraining."
        )
    return found


def _ticket_in(content: dict[str, Any], path: str | Path, argument: str) -> Ticket | None:
    for state in states_in(content):
        if all(isinstance(part := state.get(name), dict) and part for name in _PARTS):
            masks = unpacked(state["masks"], path, argument)
            provenance = state.get("provenance")
            provenance = provenance if isinstance(provenance, dict) else {}
            ticket = Ticket(masks, state["signs"], state["centroids"], provenance)
            if not _fits(ticket):
                raise SparsityError(
                    f"`{argument}` {str(path)!r} has a ticket whose masks, signs and centroids do not fit. "
                    "Use another file."
                )
            return ticket
    return None


def _fits(ticket: Ticket) -> bool:
    """Tell whether the parts of a ticket belong together."""
    parts = (*ticket.signs.values(), *ticket.centroids.values())
    if not all(isinstance(part, Tensor) for part in parts):
        return False
    counts = {name: int(mask.count_nonzero()) for name, mask in ticket.masks.items()}
    sizes = {"kept": sum(counts.values()), "weights": sum(mask.numel() for mask in ticket.masks.values())}
    if any(ticket.provenance.get(name, size) != size for name, size in sizes.items()):
        return False  # a layer is missing in all parts, or one too many
    return (
        all(sign.ndim == 1 and sign.dtype == torch.int8 for sign in ticket.signs.values())
        and counts == {name: len(sign) for name, sign in ticket.signs.items()}
        and ticket.centroids.keys() == counts.keys()
        and all(pair.shape == (2,) for pair in ticket.centroids.values())
    )
