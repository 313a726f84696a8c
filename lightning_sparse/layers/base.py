"""What Dense-plus-Sparse layers share: k values, where they lie, and the choice of a product."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError, check_choice, check_flag, check_number
from lightning_sparse.functional.dct import accumulation_dtype
from lightning_sparse.layers import compiled
from lightning_sparse.layers.autograd import build_weight, multiply
from lightning_sparse.layers.backends import BACKEND_ROWS, Backend, LayerParts, choose_backend
from lightning_sparse.layers.backends.materialize import Materialize
from lightning_sparse.layers.draws import Draw
from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.offsets import Offset, OffsetName, offset_from_name
from lightning_sparse.layers.offsets.state import OFFSET_KEY, offset_state, refuse_other_offset
from lightning_sparse.layers.products import DenseGradient, Materialized, Product
from lightning_sparse.layers.support import check_indices, index_dtype
from lightning_sparse.layers.traced import is_tracing, traced_weight, untraced
from lightning_sparse.selection import plain_name

__all__ = ["DensePlusSparse", "compact_layers"]


class DensePlusSparse(nn.Module, ABC):
    """A layer whose weight is ``alpha C + S``: a fixed dense matrix and a sparse one with k trainable values.

    Gradients and optimizer state are O(k), and so are parameters and checkpoints unless C is stored. With
    ``backend="transform"`` no more than tables outlive a step that are small beside the weight (but C where
    it has no fast form, such as the DCT for grouped kernels of one place); ``"materialize"`` keeps C, once
    per shape for all layers.

    Attributes:
        values: The k entries of S, a parameter.
        indices: Their flat positions in the weight, ascending: a buffer, int32 where that is enough.
        alpha: Scale of C, a scalar parameter; ``None`` without an offset, or with one that is stored.
        base: C as a frozen parameter if the offset is stored, such as a pretrained weight: zeros at first.
            Its dtype is that of inputs, and may be shorter than that of the values. ``None`` for others.
        bias: As in the ordinary layer; not scaled.
        offset: The fixed matrix C.
        backend: "materialize", "transform", "kernels" or "auto".
        drawn: How the support was drawn, if it was; it may have moved since.
    """

    drawn: Draw | None = None
    values: nn.Parameter
    indices: Tensor
    alpha: nn.Parameter | None
    base: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        shape: tuple[int, ...],
        indices: Tensor,
        bias: bool,
        geometry: Convolution | None,
        *,
        offset: Offset | OffsetName,
        alpha: float,
        alpha_requires_grad: bool,
        backend: Backend,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        check_choice("backend", backend, ("auto", *BACKEND_ROWS))
        check_flag("bias", bias)
        check_number("alpha", alpha, "(-inf, inf)")
        check_flag("alpha_requires_grad", alpha_requires_grad)
        self.shape, self.backend = torch.Size(shape), backend
        self.offset = offset if isinstance(offset, Offset) else offset_from_name(offset)
        self._geometry = geometry
        indices = indices.detach().sort().values
        check_indices(indices, math.prod(shape))
        make: dict[str, Any] = {"device": device or torch.get_default_device(), "dtype": dtype}
        self.values = nn.Parameter(torch.zeros(len(indices), **make))
        self.register_buffer("indices", indices.to(make["device"], index_dtype(math.prod(shape))))
        scale = torch.full((), float(alpha), **make) if self.offset.has_alpha else None
        self.register_parameter("alpha", None if scale is None else nn.Parameter(scale, alpha_requires_grad))
        base = torch.zeros(self.shape, **make) if self.offset.is_stored else None
        self.register_parameter("base", None if base is None else nn.Parameter(base, requires_grad=False))
        self.register_parameter("bias", nn.Parameter(torch.empty(shape[0], **make)) if bias else None)
        self._built_for: tuple[Tensor, int, Tensor | None] | None = None
        self._products: dict[tuple[str, torch.dtype], Product] = {}
        self._reset()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the values to zero and draw the bias as the ordinary layer does; leave alpha and support."""
        nn.init.zeros_(self.values)
        if self.bias is not None:
            bound = 1 / math.sqrt(math.prod(self.shape[1:]))
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def nnz(self) -> int:
        """Number of values k."""
        return len(self.values)

    @property
    def weight(self) -> Tensor:
        """The weight ``alpha C + S``, built anew: to be read and differentiated, not written to."""
        return _weight_of(self)

    def support(self) -> Tensor:
        """Return the mask of S: a boolean tensor in the shape of the weight."""
        mask = torch.zeros(self.shape, dtype=torch.bool, device=self.indices.device)
        mask.view(-1)[self.indices.long()] = True
        return mask

    def ask_for_dense_grad(self, consumer: Callable[[Tensor], None] | None = None) -> None:
        """Let backward make the gradient of the whole weight too, from now on, also for forwards past.

        Args:
            consumer: Called in each backward pass with the gradient, of the shape of the weight, neither
                reduced over ranks nor unscaled, and not to be written to. Without one, passes are summed up
                for `dense_grad`.
        """
        self.dense_gradient.reset(wanted=True, consumer=consumer)

    def dense_grad(self) -> Tensor:
        """Return the sum of the weight's gradients since they were asked for.

        Raises:
            RuntimeError: If they were not asked for, or there has been no backward pass since.
        """
        if self.dense_gradient.total is None:
            raise RuntimeError(
                "`dense_grad` must follow `ask_for_dense_grad` and a backward pass, got neither."
            )
        return self.dense_gradient.total

    def forget_dense_grad(self) -> None:
        """Make no more gradients of the whole weight, and free what there is."""
        self.dense_gradient.reset()

    @torch.no_grad()
    def move_(self, indices: Tensor) -> Tensor:
        """Move S to another support of the same size; new entries are zero, the others keep their value.

        Args:
            indices: k distinct flat positions in the weight.

        Returns:
            For each value its place before the move, -1 if it is new: what has to be done to its gradient
            and its optimizer state too.

        Raises:
            SparsityError: If the positions are not k distinct ones within the weight.
        """
        new = indices.detach().to(self.indices).sort().values
        check_indices(new, math.prod(self.shape))
        if len(new) != self.nnz:
            raise SparsityError(f"`indices` must be {self.nnz} positions, as many as before, got {len(new)}.")
        place = torch.searchsorted(self.indices, new).clamp_(max=max(0, self.nnz - 1))
        stays = self.indices[place] == new
        self.values.copy_(torch.where(stays, self.values[place], 0))
        self.indices.copy_(new)
        return place.masked_fill(~stays, -1)

    def _multiply(self, x: Tensor) -> Tensor:
        """Multiply ``(rows, in)`` or ``(batch, channels, *sides)``."""
        if torch.compiler.is_compiling():
            return cast(Tensor, compiled.multiply(x, self.values, self.alpha, self.bias, self._handle))
        if is_tracing():
            return self._product("materialize").multiply_by(self.weight.to(x.dtype), x, self.bias)
        return multiply(x, self.values, self.alpha, self.bias, self.product_for(x), self.dense_gradient)

    def product_for(self, x: Tensor) -> Product:
        """Return what multiplies such an input, as `backend` says."""
        if self.backend != "auto":
            return self._product(self.backend)
        rows = math.prod(self.output_size(x)) // self.shape[0]
        groups = 1 if self._geometry is None else self._geometry.groups
        work = self.shape, self.nnz, rows, x.device, torch.get_num_threads(), groups, self.offset
        return self._product(choose_backend(*work))

    @abstractmethod
    def output_size(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape of the product with such an input."""

    def _cast(self, x: Tensor) -> Tensor:
        """Cast the input as autocast would, and refuse what an ordinary layer refuses."""
        kind = x.device.type
        dtype = self._dtype
        castable = torch.float64 not in (x.dtype, dtype)
        if castable and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            return x.to(torch.get_autocast_dtype(kind))
        if x.dtype != dtype:
            raise TypeError(f"`input` must be {dtype} as the layer is, got {x.dtype}. Convert one.")
        return x

    @property
    def _dtype(self) -> torch.dtype:
        """The dtype of inputs and of the weight."""
        return self.values.dtype if self.base is None else self.base.dtype

    def _product(self, backend: str, keep: bool = True) -> Product:
        """Return a backend's product, built anew when support or device have changed."""
        version = 0 if self.indices.is_inference() else self.indices._version
        old, now = self._built_for, (self.indices, version, self.base)
        if old is None or old[0] is not now[0] or old[1] != now[1] or old[2] is not now[2]:
            self._products, self._built_for = {}, now
        key = (backend, accumulation_dtype(self.values.dtype))
        product = self._products.get(key)
        if product is None:
            with torch.inference_mode(False), untraced():
                product = self._build(backend, key[1])
            if keep:
                self._products[key] = product
        return product

    def _build(self, backend: str, dtype: torch.dtype) -> Product:
        parts = LayerParts(self.shape, self._geometry, self.indices, self.offset, self.base, dtype)
        return BACKEND_ROWS[backend]().build(parts) or Materialize().build(parts)

    def _reset(self) -> None:
        self.dense_gradient = DenseGradient()
        self._built_for, self._products = None, {}
        self._handle = compiled.register(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DensePlusSparse":
        self._products, self._built_for = {}, None  # what they hold is not moved but built again
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        derived = ("dense_gradient", "_products", "_built_for", "_handle")
        return {key: value for key, value in self.__dict__.items() if key not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._reset()

    def get_extra_state(self) -> Tensor:
        """Return what a state dict holds beside parameters and buffers: name and options of the offset."""
        return offset_state(self.offset, self.shape)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the offset of a state dict, which has been compared with the layer's own."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take as many values as the checkpoint holds, whatever k was; refuse those of another matrix."""
        values, indices, offset = (state_dict.get(prefix + key) for key in ("values", "indices", OFFSET_KEY))
        try:
            if isinstance(offset, Tensor) and not offset.is_meta:
                refuse_other_offset(self.offset, self.shape, offset)
            if isinstance(values, Tensor) and isinstance(indices, Tensor):
                check_indices(indices, math.prod(self.shape))
                self._resize(values, indices)
        except SparsityError as error:
            args[-1].append(f"{prefix.removesuffix('.') or type(self).__name__}: {error}")
            return
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _resize(self, values: Tensor, indices: Tensor) -> None:
        """Make room for another number of values."""
        if values.shape == indices.shape != self.values.shape:
            self.values.data, self.values.grad = self.values.new_zeros(values.shape), None
            self.indices = self.indices.new_zeros(indices.shape)

    def extra_repr(self) -> str:
        """Return the arguments and the number of values."""
        density = self.nnz / math.prod(self.shape)
        return (
            f"{self._sizes()}, bias={self.bias is not None}, nnz={self.nnz} ({density:.3g} of "
            f"{math.prod(self.shape)}), offset={self.offset}, backend={self.backend!r}"
        )

    @abstractmethod
    def _sizes(self) -> str:
        """Return the arguments that only such a layer has."""


def compact_layers(module: nn.Module) -> dict[str, DensePlusSparse]:
    """Return the Dense-plus-Sparse layers of a module by name, each once."""
    return {
        plain_name(path): layer
        for path, layer in module.named_modules()
        if isinstance(layer, DensePlusSparse)
    }


def _build_weight(layer: DensePlusSparse) -> Tensor:
    product = cast(Materialized, layer._product("materialize", layer.backend in ("auto", "materialize")))
    matrix = product.matrix if layer.base is None else layer.base
    if is_tracing():
        return traced_weight(layer.shape, layer.values, layer.indices, matrix, layer.alpha).to(layer._dtype)
    return build_weight(layer.values, layer.alpha, product, layer.dense_gradient).to(layer._dtype)


# The compiler is kept out, since what it traced of the shared constants would be shared, too.
_disable: Callable[[Any], Any] = torch.compiler.disable
_weight_of: Callable[[DensePlusSparse], Tensor] = _disable(_build_weight)
