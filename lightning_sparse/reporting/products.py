"""Which products of a pass each weight has a part in, and how many FLOPs they are.

Two per multiply-add, by the formulas of `torch.utils.flop_counter`. With groups these count the gradient of a
convolution's weight as often as there are groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from lightning_sparse.selection import layer_name, some_names

__all__ = ["Flops", "ProductCounter", "WeightFlops"]

_ORDINARY = ("aten", "prim", "prims", "profiler", "c10d", "_c10d_functional")
_UNCOUNTED = (
    "rnn",
    "lstm_mps",
    "attention",
    "encoder_layer",
    "fft",
    "linalg",
    "trilinear",
    "cdist",
    "_sparse",
)
"""Parts of the names of torch's own operators that compute much, and that its counter does not know."""
_COPIES = (torch.ops.aten._to_copy, torch.ops.aten.clone)  # as autocast makes them of weights
_CONVOLUTIONS = {packet for packet in flop_registry if "conv" in str(packet)}


@dataclass(frozen=True)
class Flops:
    """FLOPs of a pass.

    Args:
        forward: Of a forward pass.
        training: Of forward and backward pass; ``None`` where nothing can be trained.
    """

    forward: float
    training: float | None


@dataclass
class WeightFlops:
    """FLOPs of the products that one weight has a part in.

    Args:
        forward: With the weight, in the forward pass.
        input_grad: With the weight, in the backward pass.
        weight_grad: For the weight's own gradient.
    """

    forward: int = 0
    input_grad: int = 0
    weight_grad: int = 0

    def scaled(self, density: float, offset: float = 0.0) -> Flops:
        """Return what they are in theory for a sparse weight with an offset.

        Args:
            density: Share of the entries that are active.
            offset: Work of the fixed dense part, as a share of the dense product's.

        >>> WeightFlops(100, 100, 100).scaled(0.1)
        Flops(forward=10.0, training=30.0)
        """
        through = density + offset
        both = (self.forward + self.input_grad) * through + self.weight_grad * density
        return Flops(self.forward * through, both)


class ProductCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Finds out which products each weight has a part in: those with an argument in the weight's memory.

    Args:
        weights: By name.
    """

    supports_higher_order_operators = True

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = {name: WeightFlops() for name in weights}
        self.backward = False
        self._names = {weight.untyped_storage()._cdata: name for name, weight in weights.items()}
        self._weights = weights
        self._looked_up: set[str] = set()
        self._copies: list[Tensor] = []
        self._operators: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and note what it is to which weight."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = getattr(func, "_overloadpacket", func)
        if packet in flop_registry:
            self._note(packet, flop_registry[packet](*args, **kwargs, out_val=out), args)
        elif packet is torch.ops.aten.embedding:
            self._looked_up |= self._held_by(args)
        elif packet in _COPIES and len(names := self._held_by(args)) == 1:
            self._copies.append(out)  # its memory stays its own
            self._names[out.untyped_storage()._cdata] = names.pop()
        elif func.namespace not in _ORDINARY or any(part in str(packet) for part in _UNCOUNTED):
            self._operators.add(str(packet))
        return out

    def missed(self, missing: Sequence[str]) -> list[str]:
        """Say in words what was not counted; ``missing`` weights are no parameters."""
        unseen = (n for n, flops in self.found.items() if not flops.forward and n not in self._looked_up)
        missed = [f"products with {layer_name(name)}" for name in [*missing, *unseen]]
        operators = [f"the operator {name}" for name in sorted(self._operators)]
        return [*([some_names(missed)] if missed else []), *operators]

    def _held_by(self, args: Any) -> set[str]:
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        places = (tensor.untyped_storage()._cdata for tensor in tensors)
        return {self._names[place] for place in places if place in self._names}

    def _note(self, packet: Any, flops: int, args: Any) -> None:
        names = self._held_by(args)
        if len(names) != 1:  # none, or a product of two weights, which stays dense
            return
        name = names.pop()
        found = self.found[name]
        if packet is torch.ops.aten.convolution_backward:
            grad, x, weight, transposed, (needs_input, *_) = args[0], args[1], args[2], args[7], args[10]
            rows = x.numel() if transposed else grad.numel()
            through = 2 * rows * weight.shape[1:].numel() if needs_input else 0
            found.input_grad += through
            found.weight_grad += flops - through
        elif self.backward:
            found.input_grad += flops
        else:
            found.forward += flops
            is_product = packet not in _CONVOLUTIONS  # whose gradient is computed without the weight
            if is_product and self._weights[name].requires_grad and torch.is_grad_enabled():
                found.weight_grad += flops
