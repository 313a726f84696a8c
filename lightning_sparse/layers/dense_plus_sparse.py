"""The linear layer whose weight is a fixed dense matrix plus a trainable sparse one."""

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError, check_count
from lightning_sparse.layers.backends import Backend
from lightning_sparse.layers.base import DensePlusSparse
from lightning_sparse.layers.offsets import Offset, OffsetName

__all__ = ["DensePlusSparseLinear"]


class DensePlusSparseLinear(DensePlusSparse):
    """Apply ``y = (alpha C + S) x + b``.

    Args:
        in_features: Length of an input vector.
        out_features: Length of an output vector.
        indices: Flat positions of the values in the weight ``(out, in)``: distinct integers, in any order.
        bias: Whether there is a bias b.
        offset: The fixed matrix C: a name such as ``"dct"``, the cropped DCT, or an `Offset`.
        alpha: Scale of C at the start.
        alpha_requires_grad: Whether alpha is trained.
        backend: ``"materialize"`` builds the weight in each step, ``"transform"`` never does, nor
            ``"kernels"``, which is for GPUs; ``"auto"`` takes what is faster.
        device: Of all tensors.
        dtype: Of the parameters.

    Raises:
        SparsityError: If a size is not positive, ``indices`` are not distinct positions of the weight, or
            ``backend`` is unknown.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655), section 4.

    Examples:
        >>> layer = DensePlusSparseLinear(784, 300, indices=torch.arange(100))
        >>> sum(p.numel() for p in layer.parameters()), layer.weight.shape
        (401, torch.Size([300, 784]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        indices: Tensor,
        bias: bool = True,
        *,
        offset: Offset | OffsetName = "dct",
        alpha: float = 1.0,
        alpha_requires_grad: bool = True,
        backend: Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_count("in_features", in_features)
        check_count("out_features", out_features)
        super().__init__(
            (out_features, in_features),
            indices,
            bias,
            None,
            offset=offset,
            alpha=alpha,
            alpha_requires_grad=alpha_requires_grad,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.in_features, self.out_features = in_features, out_features

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that nn.Linear gives it)
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        if input.dim() < 1 or input.shape[-1] != self.in_features:
            raise SparsityError(
                f"`input` must end in {self.in_features} features, got shape {tuple(input.shape)}. Does the "
                "net ask `isinstance(layer, nn.Linear)` before? A converted layer is none: `exclude` it."
            )
        rows = self._cast(input).reshape(-1, self.in_features)
        return self._multiply(rows).reshape(*input.shape[:-1], self.out_features)

    def output_size(self, x: Tensor) -> tuple[int, ...]:
        """Return ``(rows, out_features)``."""
        return x.shape[0], self.out_features

    def _sizes(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
