"""Which way the DCT-II of rows goes: as PyTorch has it, or by kernels."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_sparse.functional.dct import DCTPlan, dct_plan
from lightning_sparse.layers.kernels.dct_factored import Factored, dct_by_products, factored_shape
from lightning_sparse.layers.kernels.dct_fused import dct_by_fft
from lightning_sparse.layers.kernels.language import runs_on

__all__ = ["ON_CUDA", "DCTForm", "KernelDCT", "dct_rows"]

DCTForm: TypeAlias = Literal["plain", "fused", "factored"]
"""``"plain"``: PyTorch's operators; ``"fused"``: an FFT between two kernels; ``"factored"``: two products in
one kernel, where the size allows, else as ``"fused"``."""

ON_CUDA: DCTForm = "plain"
"""What layers take on CUDA devices."""


@dataclass(frozen=True)
class KernelDCT:
    """The DCT-II of rows by kernels, as `DCTPlan` has it: float32, bfloat16, float16; float64 by a plan.

    Args:
        size: Of the DCT.
        form: Which kernels.
        shape: How those of ``"factored"`` split the size; ``None``: as the tables say.
    """

    size: int
    form: Literal["fused", "factored"]
    shape: Factored | None = None

    def forward(self, x: Tensor, out_features: int) -> Tensor:
        """Return the lowest frequencies of every row, ``(rows, out)``, in the dtype of x."""
        if x.dtype == torch.float64:
            return dct_plan(self.size, x.dtype, x.device).forward(x, out_features)
        return self._by_kernels(x, out_features, adjoint=False)

    def adjoint(self, y: Tensor, in_features: int) -> Tensor:
        """Return the transposed matrix's product with every row, ``(rows, in)``, in the dtype of y."""
        if y.dtype == torch.float64:
            return dct_plan(self.size, y.dtype, y.device).adjoint(y, in_features)
        return self._by_kernels(y, in_features, adjoint=True)

    def _by_kernels(self, x: Tensor, features: int, adjoint: bool) -> Tensor:
        shape = self.shape or factored_shape(self.size, x.dtype)
        if self.form == "fused" or shape is None:
            return dct_by_fft(x, features, self.size, adjoint)
        return dct_by_products(x, features, shape, adjoint)


def dct_rows(
    size: int, dtype: torch.dtype, device: torch.device, form: DCTForm | None = None
) -> DCTPlan | KernelDCT:
    """Return what transforms rows on a device: plain for float64, and where kernels do not run.

    Args:
        size: Of the DCT.
        dtype: Of the rows: float32 or float64. Kernels take bfloat16 and float16 as well.
        device: Where the rows lie.
        form: Which way; ``None``: ``ON_CUDA`` on CUDA devices, else plain.
    """
    form = form or (ON_CUDA if device.type == "cuda" else "plain")
    if form == "plain" or dtype == torch.float64 or not runs_on(device):
        return dct_plan(size, dtype, device)
    return KernelDCT(size, form)
