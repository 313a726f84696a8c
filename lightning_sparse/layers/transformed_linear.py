"""Products of linear layers by a fast transform and a sparse matrix."""

from functools import cached_property

import torch
from torch import Tensor

from lightning_sparse.layers.bags import Bags, WeightedBags, transposed
from lightning_sparse.layers.transformed import Transformed, plus_scaled, scaled

__all__ = ["TransformedFew", "TransformedLinear", "add_in_order_"]

# Values for each feature below which a table is read so seldom that putting parts together takes longer than
# what the cache saves; and how many times as large parts may then be.
OFTEN, SELDOM_TIMES = 20, 2


class TransformedLinear(Transformed):
    """Transforms for ``(rows, in)``: S acts on columns, which are laid out and back."""

    floats_at_a_time = 2**18

    def _floats_per_item(self, x: Tensor) -> int:  # noqa: ARG002
        longer = max(self.shape)
        seldom = self.transform is None and len(self.indices) < OFTEN * longer
        return max(1, longer // SELDOM_TIMES) if seldom else longer

    @cached_property
    def _bags(self) -> Bags:
        """The values by outputs."""
        flat = self.indices.long()
        return Bags(flat // self.shape[1], flat % self.shape[1], (self.shape[0], self.shape[1]))

    @cached_property
    def _bags_of_inputs(self) -> Bags:
        flat = self.indices.long()
        return Bags(flat % self.shape[1], flat // self.shape[1], (self.shape[1], self.shape[0]))

    def _ready(self, values: Tensor) -> WeightedBags:
        return self._bags.weighted(values)

    def _ready_adjoint(self, values: Tensor) -> WeightedBags:
        return self._bags_of_inputs.weighted(values)

    def _plus_sparse(
        self, offset: Tensor | None, alpha: Tensor | None, ready: WeightedBags, x: Tensor
    ) -> Tensor:
        return plus_scaled(transposed(ready.sum(transposed(x))), offset, alpha)

    def _lay_out(self, grad: Tensor) -> Tensor:
        return transposed(grad)

    def _plus_sparse_adjoint(
        self,
        offset: Tensor | None,
        alpha: Tensor | None,
        ready: WeightedBags,
        laid_out: Tensor,
        input_size: torch.Size,  # noqa: ARG002
    ) -> Tensor:
        return plus_scaled(transposed(ready.sum(laid_out)), offset, alpha)

    def _sample(self, laid_out: Tensor, x: Tensor) -> Tensor:
        return self._bags.sample(laid_out, transposed(x))


class TransformedFew(Transformed):
    """Transforms for ``(rows, in)`` with so few values that taking columns one by one beats all else."""

    floats_at_a_time = 2**18

    def _floats_per_item(self, x: Tensor) -> int:  # noqa: ARG002
        return max(self.shape)

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """Output and input of each value."""
        flat = self.indices.long()
        return (flat // self.shape[1]).int(), (flat % self.shape[1]).int()

    def _ready(self, values: Tensor) -> Tensor:
        return values

    def _ready_adjoint(self, values: Tensor) -> Tensor:
        return values

    def _plus_sparse(self, offset: Tensor | None, alpha: Tensor | None, ready: Tensor, x: Tensor) -> Tensor:
        (outputs, inputs), y = self._places, scaled(offset, alpha, (len(x), self.shape[0]), x)
        return _add_columns_(y, outputs, x.index_select(1, inputs).mul_(ready))

    def _lay_out(self, grad: Tensor) -> Tensor:
        return grad

    def _plus_sparse_adjoint(
        self,
        offset: Tensor | None,
        alpha: Tensor | None,
        ready: Tensor,
        laid_out: Tensor,
        input_size: torch.Size,
    ) -> Tensor:
        (outputs, inputs), d_x = self._places, scaled(offset, alpha, input_size, laid_out)
        return _add_columns_(d_x, inputs, laid_out.index_select(1, outputs).mul_(ready))

    def _sample(self, laid_out: Tensor, x: Tensor) -> Tensor:
        outputs, inputs = self._places
        return laid_out.index_select(1, outputs).mul_(x.index_select(1, inputs)).sum(0)


def _add_columns_(y: Tensor, places: Tensor, columns: Tensor) -> Tensor:
    """Add columns at places, of which some may be the same, and return y; always with the same result."""
    if y.device.type == "cpu":
        return y.index_add_(1, places, columns)
    return add_in_order_(y, places, columns)


def add_in_order_(y: Tensor, places: Tensor, columns: Tensor) -> Tensor:
    """Do so on a GPU, where ``index_add_`` sums in whatever order its threads come; this sorts first.

    >>> add_in_order_(torch.zeros(1, 2), torch.tensor([1, 1]), torch.tensor([[2.0, 3.0]]))
    tensor([[0., 5.]])
    """
    y.t().index_put_((places.long(),), columns.t(), accumulate=True)
    return y
