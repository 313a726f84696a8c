"""Masks out of a file, as a method beside those that score."""

import os
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from torch import nn

from lightning_sparse.checks import SparsityError, check_choice, check_path
from lightning_sparse.files.masks import load_masks
from lightning_sparse.files.tickets import load_ticket
from lightning_sparse.functional.centroids import reinitialise_
from lightning_sparse.functional.saliency import PruningMethod, PruningProblem
from lightning_sparse.selection import misfit, parameters_by_name
from lightning_sparse.types import Masks, Scores

__all__ = ["FromFile"]

SAYS_WHAT = ("density", "min_weights_per_layer", "include", "exclude", "density_overrides", "pattern")
"""Arguments that a file takes the place of."""

Start: TypeAlias = Literal["centroids"]


class FromFile(PruningMethod):
    """Take the masks of a file instead of making some: it says which weights, and how many are kept.

    Args:
        file: A file of ``save_masks``, a ticket, a checkpoint of a sparse run, or a saved dict of boolean
            tensors by parameter name.
        start: ``"centroids"``: start the net from the two numbers per layer in ``file``, a ticket of
            ``ASNISigmoidPruner``; biases start at 0, norms beside its weights as new. ``None``: as the module
            made it.

    Raises:
        SparsityError: If ``start`` is unknown; when masks are read, if the file holds none, or none that fit.

    >>> FromFile("ticket.pt", start="centroids").start
    'centroids'
    """

    def __init__(self, file: str | os.PathLike[str], start: Start | None = None) -> None:
        super().__init__("global")
        check_choice("start", start, ("centroids", None))
        check_path("file", file)
        self.file = os.fspath(file)
        self.start = start

    def refuse_beside(self, chosen: Mapping[str, object]) -> None:
        """Refuse arguments that say what is kept beside a file that does.

        Args:
            chosen: Arguments by name; ``None`` and empty ones are not given.
        """
        if given := [f"`{name}`" for name in SAYS_WHAT if chosen.get(name) not in (None, [], (), {})]:
            raise SparsityError(
                f"`method` FromFile says what is kept, got {', '.join(given)} beside it. Leave out one or "
                "the other."
            )

    def refuse_seed(self, seed: object) -> None:
        """Refuse a seed where nothing is drawn."""
        if seed is not None:
            raise SparsityError(
                f"`seed` has no effect with FromFile, which draws nothing, got {seed!r}. Leave it out."
            )

    def masks(self) -> Masks:
        """Read the masks: boolean, by parameter name, on the CPU.

        Raises:
            SparsityError: If there is no such file, if it is damaged, or if it lacks what is asked of it.
        """
        return load_masks(self.file, "file") if self.start is None else load_ticket(self.file, "file").masks

    def weights_of(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Return the weights of a module that the file has masks for.

        Raises:
            SparsityError: If a mask fits no weight.
        """
        masks, parameters = self.masks(), parameters_by_name(module)
        if (found := misfit(masks, parameters)) is not None:
            name, instead = found
            raise SparsityError(
                f"`file` {self.file!r} has a mask of shape {tuple(masks[name].shape)} for {name!r}, and "
                f"the module has {instead}. Build the module as it was when masks were made."
            )
        return {name: parameters[name] for name in masks}

    def scores(self, problem: PruningProblem) -> Scores:
        """Return 1 for what is kept and 0 for the rest."""
        masks = self.masks()
        return {name: masks[name].to(weight) for name, weight in problem.weights.items()}

    def reinitialise_(self, nets: Sequence[nn.Module]) -> None:
        """Start nets from the ticket's two numbers per layer, if that is asked for."""
        if self.start is not None:
            ticket = load_ticket(self.file, "file")
            for net in nets:
                reinitialise_(net, ticket.masks, ticket.signs, ticket.centroids)
