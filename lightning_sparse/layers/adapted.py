"""The product of a sparse change of a weight beside the weight itself."""

from collections.abc import Sequence

from torch import Tensor

from lightning_sparse.layers.products import DenseGradient, Gradients, Product

__all__ = ["Adapted"]


class Adapted(Product):
    """Multiply by a stored weight W0 as an ordinary layer does, and by S beside it; W0 + S is never built.

    The gradient of W0 is never made: backward multiplies once by W0, for the gradient of x.

    Args:
        base: W0, in its own dtype.
        sparse: The product by S alone.
    """

    def __init__(self, base: Tensor, sparse: Product) -> None:
        super().__init__(sparse.shape, sparse.geometry)
        self.base, self.sparse = base, sparse

    def forward(self, x: Tensor, values: Tensor, alpha: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return ``W0 x + S x + b``."""
        y = self.multiply_by(self.base.to(x.dtype), x, bias)
        return y.add_(self.sparse.forward(x, values, alpha, None))

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        values: Tensor,
        alpha: Tensor | None,
        needs: Sequence[bool],
        dense: DenseGradient,
    ) -> Gradients:
        """Apply the adjoints."""
        d_x, d_values, _ = self.sparse.backward(grad, x, values, alpha, needs, dense)
        if d_x is not None:
            through_base, _ = self.gradients_by(self.base.to(grad.dtype), grad, x, (True, False))
            assert through_base is not None
            d_x.add_(through_base)
        return d_x, d_values, None
