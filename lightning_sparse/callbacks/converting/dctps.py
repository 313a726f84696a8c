"""Layers of DCT plus sparse, as in the paper."""

from typing import Any

from lightning_sparse.callbacks.converting.base import Conversion
from lightning_sparse.functional.allocation import AllocationName
from lightning_sparse.layers import DCTOffset
from lightning_sparse.layers.offsets import PatchOrder

__all__ = ["DCTpSConversion"]


class DCTpSConversion(Conversion):
    """Replace linear and convolutional layers by ``alpha DCT + S``, of which S and alpha are trained.

    S is sparse, with a random support that stays, and starts at zero; the DCT is fixed and stored nowhere.
    `SparseConversion` does the same with other matrices in the DCT's place. How layers are replaced, and what
    is logged: `Conversion`.

    Args:
        density: Share of all selected weights that S has, a fraction in (0, 1]; ``floor(density * N + 0.5)``
            of N, exactly.
        allocation: How S's entries are shared out over the layers: ``"epl"`` (the same number for each),
            ``"epf"``, ``"erk"`` or ``"uniform"``.
        patch_order: How the DCT goes through patches: ``"hwc"``, as in the authors' code, or ``"chw"``.
        **conversion: ``alpha``, ``alpha_requires_grad``, ``backend``, ``min_weights_per_layer`` and the
            selection, as `Conversion` has them.

    Raises:
        SparsityError: As from `Conversion`.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655), section 4.

    >>> import torch
    >>> DCTpSConversion(density=0.001).planned_budgets({"fc.weight": torch.Size([300, 784])})
    {'fc.weight': 235}
    """

    def __init__(
        self,
        density: float,
        allocation: AllocationName = "epl",
        *,
        patch_order: PatchOrder = "hwc",
        **conversion: Any,
    ) -> None:
        super().__init__(density, allocation, offset=DCTOffset(patch_order), **conversion)
