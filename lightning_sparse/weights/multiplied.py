"""What layers multiply with: zeros in a parameter are of no use if the layer computes its weight from it.

Layers that standardise or quantise their weight, or add something to it, hold a parameter that a mask makes
sparse, and multiply with a matrix that is dense. No list of classes is complete, so it is looked at: such a
layer is called once by itself, on zeros, and the operands of its matrix products are compared with the mask.
"""

import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_sparse.functional.isolation import left_as_found
from lightning_sparse.selection import SPARSE_LAYERS, is_sparse_layer, layer_name, output_dim, some_names
from lightning_sparse.weights.state import state_of

__all__ = ["dense_products", "news_of_dense_products"]

_PRODUCTS = ("mm", "addmm", "mv", "addmv", "bmm", "baddbmm", "linear", "convolution", "_convolution")
_FORWARDS = ("forward", "_conv_forward")

_told: "weakref.WeakKeyDictionary[nn.Module, dict[str, tuple[int, int]]]" = weakref.WeakKeyDictionary()


def news_of_dense_products(module: nn.Module) -> str:
    """Return what to warn of: masked weights whose layers multiply with something dense; "" if all is well.

    The same is told once for each module.
    """
    found = dense_products(module)
    if not found or _told.get(module) == found:
        return ""
    _told[module] = found
    names, share = list(map(layer_name, found)), _share(found)
    return (
        f"Sparse in the parameter, dense in the product: {some_names(names)} ({len(names)} in all) multiply "
        f"with what is computed from the masked weight, and of what is pruned {share:.0%} is not zero there. "
        "Tables and metrics count the parameter. `exclude` these layers, or let them multiply with the "
        "weight itself."
    )


def dense_products(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the masked weights of which pruned entries are not zero in what their layers multiply with.

    Only layers are called that may do something else than multiply with the parameter, which PyTorch's own
    do not, and only those that can be called by themselves. Nothing of them is changed: not parameters, nor
    buffers, attributes or random numbers.

    Args:
        module: Any module with masks.

    Returns:
        By name of the weight how many pruned entries are not zero there, and how many are pruned.
    """
    state = state_of(module)
    # Of split weights a layer can be called in a forward of the whole net only: nothing is looked at there.
    weights = state.weights if state.shards is None else {}
    names = {id(weight): name for name, weight in weights.items()}
    found: dict[str, tuple[int, int]] = {}
    for layer in module.modules():
        if isinstance(layer, ParametrizationList) or not _may_be_called(module, layer):
            continue
        for weight in _own_parameters(layer):
            name = names.get(id(weight))
            if name is not None and not _multiplies_with(layer, weight):
                counts = _look(layer, weight, partial(state.mask, name))
                if counts is not None and counts[0]:
                    found[name] = counts
    return found


def _may_be_called(module: nn.Module, layer: nn.Module) -> bool:
    """Tell whether a layer takes one input of known shape, or is at least small enough to be tried."""
    if is_sparse_layer(layer):
        return True
    parts = [name for name, _ in layer.named_children() if name != "parametrizations"]
    return layer is not module and not parts and not type(layer).__module__.startswith("torch.nn.modules.")


def _own_parameters(layer: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a layer itself, and those that its parametrizations compute others from."""
    computed = layer.parametrizations.parameters() if is_parametrized(layer) else ()  # type: ignore[union-attr]
    return [p for p in (*layer._parameters.values(), *computed) if p is not None]


def _multiplies_with(layer: nn.Module, weight: Tensor) -> bool:
    """Tell without a look whether a layer multiplies with a parameter as it is: PyTorch's own forwards do."""
    if layer._parameters.get("weight") is not weight or any(name in vars(layer) for name in _FORWARDS):
        return False
    forwards = [getattr(type(layer), name) for name in _FORWARDS if hasattr(type(layer), name)]
    return all(forward.__module__.startswith("torch.nn.modules.") for forward in forwards)


def _look(layer: nn.Module, weight: nn.Parameter, mask: Callable[[], Tensor]) -> tuple[int, int] | None:
    """Call a layer and count; None if it cannot be called so, or multiplies with nothing of that size."""
    for shape in _input_shapes(layer, weight):
        try:
            with _by_itself(layer), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                x = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
                if any(operand.data_ptr() == weight.data_ptr() for operand in _operands(layer, x)):
                    return None  # the parameter itself, and no copy of it
                pruned = _set_values_(layer, weight, mask())
                counts = [_count(laid, pruned) for laid in _like(weight, _operands(layer, x))]
                return (min(counts), int(pruned.count_nonzero())) if counts else None
        except Exception:  # it is somebody else's code, called in a way that it may not expect
            continue
    return None


def _set_values_(layer: nn.Module, weight: nn.Parameter, mask: Tensor) -> Tensor:
    """Give a layer values that show what it does, for a while, and return what is pruned.

    A mask that prunes nothing yet prunes every second entry, and what is zero throughout becomes one: a gain
    or a low-rank part may be zero before the first step, and hides then what is dense after it.
    """
    if mask.count_nonzero() == mask.numel():
        mask.view(-1)[1::2] = False
        weight.mul_(mask)
    for parameter in layer.parameters():
        if parameter.requires_grad and not parameter.count_nonzero():
            parameter.copy_(mask if parameter is weight else torch.ones_like(parameter))
    return ~mask


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps what is multiplied with an input, or with what has been made of it, while this is on."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operands: list[Tensor] = []
        self._made = {id(x): x}  # they are kept, or another tensor might get the number of one

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        taken = _tensors_in((args, kwargs))
        if any(id(tensor) in self._made for tensor in taken):
            if func.overloadpacket.__name__ in _PRODUCTS:
                self.operands += [tensor for tensor in taken if id(tensor) not in self._made]
            self._made.update((id(tensor), tensor) for tensor in _tensors_in(result))
        return result


@contextmanager
def _by_itself(layer: nn.Module) -> Iterator[None]:
    """Let a layer be called, in eval mode and uncompiled, and leave it as found."""
    with left_as_found(layer, layer.training), torch.no_grad(), _eager():
        for part in layer.modules():
            part.training = False  # `eval()` may be overridden, to merge weights say
            for key, buffer in part._buffers.items():
                part._buffers[key] = None if buffer is None else buffer.clone()  # also if it is to grow
        yield


@contextmanager
def _eager() -> Iterator[None]:
    """Keep ``torch.compile`` out of it, if anybody has loaded it."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _operands(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Call a layer and return what it multiplies with.

    Of its hooks only those are run that may compute the weight, before the forward.
    """
    if layer._parameters.get("weight") is None:
        for key, hook in layer._forward_pre_hooks.items():
            keywords: tuple[dict[str, Any], ...] = (
                ({},) if key in layer._forward_pre_hooks_with_kwargs else ()
            )
            hook(layer, (x,), *keywords)
    products = _Products(x)
    with products:
        layer.forward(x)
    return products.operands


def _input_shapes(layer: nn.Module, weight: Tensor) -> list[tuple[int, ...]]:
    """Return shapes of the smallest inputs that a layer may take."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        sides = zip(layer.kernel_size, layer.dilation, strict=True)
        return [(1, layer.in_channels, *(step * (size - 1) + 1 for size, step in sides))]
    if isinstance(layer, SPARSE_LAYERS):
        return [(1, layer.in_features), (1, 1, layer.in_features)]  # type: ignore[list-item]
    if weight.ndim == 2:
        first = 0 if output_dim(layer) == 1 else 1
        sizes = (weight.shape[first], weight.shape[1 - first])
        return [(1, size) for size in sizes] + [(1, 1, size) for size in sizes]  # some take sequences only
    channels = getattr(layer, "in_channels", weight.shape[1])
    return [(1, channels, *weight.shape[2:])]


def _like(weight: Tensor, operands: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the operands that have the rows of ``weight``, or are its transpose, in its shape."""
    for operand in operands:
        if operand.numel() != weight.numel() or operand.ndim < 2:
            continue
        square = operand.ndim == 2 and operand.shape[0] == operand.shape[1]
        known = operand.shape == weight.shape and not square
        for laid in (operand,) if known else (operand, operand.mT):
            matrix = laid[0] if laid.ndim > 2 and len(laid) == 1 < len(weight) else laid
            if len(matrix) == len(weight):
                yield matrix.reshape(weight.shape)


def _count(laid: Tensor, pruned: Tensor) -> int:
    """Count the pruned entries that are not zero."""
    return int(torch.logical_and(laid != 0, pruned).count_nonzero())


def _tensors_in(tree: Any) -> list[Tensor]:
    leaves: list[Any] = tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _share(found: dict[str, tuple[int, int]]) -> float:
    return sum(there for there, _ in found.values()) / sum(pruned for _, pruned in found.values())
