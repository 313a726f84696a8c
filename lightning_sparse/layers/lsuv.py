"""The scale of the offset from data: each layer's output gets standard deviation 1."""

import math
import warnings
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError, check_callable, check_kind, check_number
from lightning_sparse.functional.dct import accumulation_dtype
from lightning_sparse.functional.isolation import left_as_found
from lightning_sparse.layers.base import DensePlusSparse, compact_layers
from lightning_sparse.layers.copies import converted_copies

__all__ = ["lsuv_"]

_CONSTANT = 1e-6
"""Standard deviation of an output, relative to its size, below which it is rounding that varies."""


@torch.no_grad()
def lsuv_(
    module: nn.Module,
    forward: Callable[[], object],
    last_layer_factor: float = 1.0,
    *,
    only: Collection[str] | None = None,
) -> dict[str, float]:
    """Set alpha of converted layers such that each one's output has standard deviation 1, in the net's order.

    With S at zero a layer's output is ``alpha C x + b``. Of ``alpha C x``, without the bias, the standard
    deviation over all of batch, units and pixels is taken, about their common mean, and alpha divided by it.
    The next layer is given what the new alpha and the bias make of x. Since the output is proportional to
    alpha, one pass is all it takes, and exact. Then alpha of the layer that was called last is multiplied by
    ``last_layer_factor``: with a small one the first outputs of the net are near its biases.

    All else stays as it was found: values of S, which are zero meanwhile, buffers such as BatchNorm's,
    random generators, train or eval mode. During the pass the module is in train mode, as in the first step.

    A layer that is called several times takes its alpha from the first call. Where alpha cannot be set it
    stays as it was, and a warning names the layer: where the layer is never called, its alpha is 0 (a layer
    that starts as nothing still does), or its output is constant or not finite. Frozen copies of layers, as
    in the target net of a momentum method, get the alpha of their original.

    Args:
        module: A module with converted layers.
        forward: Runs one forward pass of it, on a batch. What it returns is not used.
        last_layer_factor: What the last layer's alpha is multiplied by, if it is set here.
        only: Names of the layers whose alpha is set; ``None`` for all that have one. Others multiply as ever.

    Returns:
        The new alpha by name of the layer, for those that were set, in the order of their calls.

    Raises:
        SparsityError: If an argument is out of range, ``only`` names a layer without an alpha, or no alpha
            can be set.

    Source:
        Mishkin and Matas, "All you need is a good init", ICLR 2016 (arXiv:1511.06422), section 3, for the one
        scale of an offset instead of a whole weight.

    Examples:
        >>> from lightning_sparse.layers import convert_
        >>> net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16))
        >>> _ = convert_(net, density=0.1)
        >>> x = torch.randn(128, 64)
        >>> alphas = lsuv_(net, lambda: net(x))
        >>> round((net[0](x) - net[0].bias).std().item(), 2)
        1.0
        >>> quiet = lsuv_(net, lambda: net(x), last_layer_factor=0.1)
        >>> round(quiet["2"] / alphas["2"], 3)
        0.1
    """
    check_kind("module", module, nn.Module)
    check_callable("forward", forward)
    check_number("last_layer_factor", last_layer_factor, "(-inf, inf)")
    layers, copies = compact_layers(module), converted_copies(module)
    scaled = {path: one for path, one in layers.items() if one.alpha is not None and path not in copies}
    watch = _Watch(_wanted(scaled, only))
    with ExitStack() as stack:
        stack.enter_context(left_as_found(module, training=True))
        stack.enter_context(torch.no_grad())  # the former allows gradients
        for layer in layers.values():
            layer.values.zero_()
        for path, layer in scaled.items():
            handle = layer.register_forward_pre_hook(partial(watch, path), with_kwargs=True)
            stack.callback(handle.remove)
        forward()
    if not watch.alphas:
        raise SparsityError(
            f"`forward` must run a converted layer whose output varies, got {watch.told() or 'none'}. "
            "Give a function that runs the module on a batch."
        )
    if watch.last in watch.alphas:
        watch.alphas[watch.last] *= last_layer_factor
    for path, alpha in watch.alphas.items():
        for one in (path, *(copy for copy, original in copies.items() if original == path)):
            _set(layers[one], alpha)
    if news := watch.told():
        warnings.warn(f"`alpha` does not come from data everywhere: {news}.", stacklevel=2)
    return watch.alphas


@dataclass
class _Watch:
    """A hook that scales layers right before their first call."""

    wanted: dict[str, DensePlusSparse]
    alphas: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    last: str = ""

    def __call__(self, path: str, layer: DensePlusSparse, args: Any, kwargs: Any) -> None:
        """Note the call; before a layer's first one, set alpha."""
        self.last, self.calls[path] = path, self.calls.get(path, 0) + 1
        if path not in self.wanted or self.calls[path] > 1:
            return
        assert layer.alpha is not None
        alpha = layer.alpha.item()
        spread = _spread(_without_bias(layer, args, kwargs)) if alpha else "alpha 0"
        if isinstance(spread, str):
            self.reasons[path] = spread
            return
        self.alphas[path] = alpha / spread
        _set(layer, alpha / spread)

    def told(self) -> str:
        """Return what is to be said of layers that were not set, or by the first of several calls."""
        reasons = {path: "never called" for path in self.wanted if path not in self.calls} | self.reasons
        stays = [f"{path!r} stays as it was ({why})" for path, why in reasons.items()]
        counts = {path: count for path, count in self.calls.items() if path in self.alphas and count > 1}
        first = [f"{path!r} is set by the first of {count} calls" for path, count in counts.items()]
        return ", ".join([*stays, *first])


def _without_bias(layer: DensePlusSparse, args: Any, kwargs: Any) -> Tensor:
    """Return the output without the bias, which to subtract would leave rounding errors of its size."""
    if layer.bias is None:
        return cast(Tensor, layer.forward(*args, **kwargs))
    bias = layer.bias.clone()
    layer.bias.zero_()
    product = layer.forward(*args, **kwargs)
    layer.bias.copy_(bias)
    return cast(Tensor, product)


def _spread(product: Tensor) -> float | str:
    """Return the standard deviation about the common mean, or what is wrong with it."""
    product = product.to(accumulation_dtype(product.dtype))
    spread, size = float(product.std(correction=0)), float(product.square().mean().sqrt())
    if not math.isfinite(spread + size):
        return "output not finite"
    return spread if spread > _CONSTANT * size else "constant output"


def _wanted(scaled: dict[str, DensePlusSparse], only: Collection[str] | None) -> dict[str, DensePlusSparse]:
    """Return the layers whose alpha is to be set."""
    if unknown := sorted(set(only or ()) - scaled.keys()):
        raise SparsityError(
            f"`only` must name converted layers with an alpha, got {unknown[0]!r}; there are "
            f"{', '.join(scaled) or 'none'}."
        )
    return scaled if only is None else {path: scaled[path] for path in only}


def _set(layer: DensePlusSparse, alpha: float) -> None:
    assert layer.alpha is not None
    layer.alpha.fill_(alpha)
