"""Layers of any fixed matrix plus sparse, and plain sparse layers."""

from typing import Any

from lightning_sparse.callbacks.converting.base import Conversion
from lightning_sparse.functional.allocation import AllocationName
from lightning_sparse.layers.offsets import Offset, OffsetName

__all__ = ["SparseConversion"]


class SparseConversion(Conversion):
    """Replace linear and convolutional layers by ``alpha C + S``: a fixed matrix and a sparse one.

    S, with a random support that stays, is trained, and so is alpha, the scale of C. What C is the offset
    says. How layers are replaced, and what is logged: `Conversion`.

    Args:
        offset: ``"dct"``, as `DCTpSConversion` has it; ``"none"`` for plain sparse layers, which start with
            the weights that they had there; ``"pretrained"`` for the layer's own weight, frozen; the name of
            another one that is registered, or an `Offset` with options of its own.
        density: Share of all selected weights that S has, a fraction in (0, 1]; ``floor(density * N + 0.5)``
            of N, exactly.
        allocation: How S's entries are shared out over the layers: ``"epl"`` (the same number for each),
            ``"epf"``, ``"erk"`` or ``"uniform"``.
        **conversion: ``alpha``, ``alpha_requires_grad``, ``backend``, ``min_weights_per_layer`` and the
            selection, as `Conversion` has them.

    Raises:
        SparsityError: As from `Conversion`.

    >>> import torch
    >>> SparseConversion("none", density=0.1).planned_budgets({"fc.weight": torch.Size([300, 784])})
    {'fc.weight': 23520}
    """

    def __init__(
        self,
        offset: Offset | OffsetName,
        density: float,
        allocation: AllocationName = "epl",
        **conversion: Any,
    ) -> None:
        super().__init__(density, allocation, offset=offset, **conversion)
