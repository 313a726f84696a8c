"""Filters: the weights of one output each, and masks in which each of them keeps as many."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.masks import top_k_mask
from lightning_sparse.functional.ranking import first_of_rows, mask_at, rankable, refuse_nan
from lightning_sparse.selection import output_dim, plain_name

__all__ = ["OUTPUTS_FIRST", "Filters", "equal_mask", "filters_of"]


@dataclass(frozen=True)
class Filters:
    """Where the outputs of a weight are: in its first dimension, or after the inputs.

    Args:
        groups: ``None``: outputs first, ``(out, in, *kernel)``, as linear layers and convolutions have them.
            Else after the inputs, ``(in, out / groups, *kernel)``, each group of inputs with outputs of its
            own: transposed convolutions, and with one group the ``Conv1D`` of ``transformers``.
        stacked: Matrices ``(in, out)`` in a stack, ``(types, in, out)``, each with outputs of its own: the
            ``HeteroLinear`` of PyTorch Geometric.
    """

    groups: int | None = None
    stacked: bool = False

    def rows(self, weight: Tensor) -> Tensor:
        """Return a weight, or whatever is shaped like one, as ``(filters, weights of each)``."""
        return self._outputs_first(weight).reshape(self.count(weight.shape), -1)

    def count(self, shape: torch.Size) -> int:
        """Return how many filters a weight of that shape has."""
        if self.stacked:
            return shape[0] * shape[2]
        return shape[0] if self.groups is None else shape[1] * self.groups

    def mask(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """Take ``rows`` back: a mask in the shape of the weight of one as ``(filters, weights of each)``."""
        positions = torch.arange(shape.numel(), device=rows.device).view(shape)
        return mask_at(self.rows(positions)[rows], shape)

    def _outputs_first(self, weight: Tensor) -> Tensor:
        if self.stacked:
            return weight.transpose(1, 2)
        if self.groups is None:
            return weight
        return weight.reshape(self.groups, -1, *weight.shape[1:]).transpose(1, 2)


OUTPUTS_FIRST = Filters()


def filters_of(module: nn.Module, names: Iterable[str]) -> dict[str, Filters]:
    """Return where the outputs of weights are; first, if the layer is none of those known here.

    Args:
        module: The module that holds them.
        names: Their parameter names.
    """
    layers = {plain_name(path): layer for path, layer in module.named_modules(remove_duplicate=False)}
    holders = {name: layers.get(name.rpartition(".")[0]) for name in names}
    return {name: _filters_of_layer(layer) for name, layer in holders.items()}


def _filters_of_layer(layer: nn.Module | None) -> Filters:
    if layer is None:
        return OUTPUTS_FIRST
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return Filters(layer.groups)
    return {0: OUTPUTS_FIRST, 1: Filters(1), 2: Filters(stacked=True)}[output_dim(layer)]


def equal_mask(scores: Tensor, k: int, filters: Filters = OUTPUTS_FIRST) -> Tensor:
    """Keep as many weights of each filter, its best; what is left over goes to those whose next one is best.

    Args:
        scores: Scores of one layer, shaped like its weight.
        k: Number of weights to keep in all, from 0 to all: each filter keeps ``k / filters``, rounded down or
            up.
        filters: Where the outputs are.

    Returns:
        A boolean mask of the shape of ``scores``, with exactly k True.

    Raises:
        SparsityError: If k is out of range or a score is NaN.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", 2021 (arXiv:2102.07655v1), appendix A.2, for scores
        drawn at random.

    Examples:
        >>> equal_mask(torch.tensor([[4.0, 3.0, 2.0], [1.0, 0.0, 0.5]]), 3).tolist()
        [[True, True, False], [True, False, False]]
    """
    if not 0 <= k <= scores.numel():
        raise SparsityError(f"`k` must be between 0 and the {scores.numel()} scores, got {k}.")
    if scores.isnan().any():
        refuse_nan({"scores": scores})
    rows = filters.rows(rankable({"scores": scores})["scores"].view(scores.shape))
    each, left_over = divmod(k, len(rows))
    order = rows.argsort(dim=1, descending=True, stable=True)
    kept = first_of_rows(order, each)
    if left_over:
        following = order[:, each : each + 1]
        more = top_k_mask(rows.gather(1, following).squeeze(1), left_over)
        kept[more] = kept[more].scatter(1, following[more], True)
    return filters.mask(kept, scores.shape)
