"""How large signals are on their way through a net, and gradients on their way back."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_sparse.functional.isolation import left_as_found

__all__ = ["Signals", "measure_signals"]


@dataclass
class Signals:
    """What was measured.

    Attributes:
        loss: Of the pass.
        outputs: Standard deviation of each layer's output, by name; of the first call, if there are several.
        gradients: Standard deviation of the loss's gradient with respect to it.
    """

    loss: float = float("nan")
    outputs: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)


def measure_signals(
    module: nn.Module, layers: Mapping[str, nn.Module], loss: Callable[[], Tensor], training: bool = True
) -> Signals:
    """Measure a pass forward and back, as in training; the module is left as found, and gets no gradients.

    Args:
        module: Holds the layers.
        layers: Those that are watched, by name.
        loss: Runs one batch through the module, and returns its loss.
        training: Whether the module is in train mode meanwhile.
    """
    found = Signals()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with ExitStack() as stack:
        stack.enter_context(left_as_found(module, training))
        for name, layer in layers.items():
            handle = layer.register_forward_hook(partial(_watch, found, name))
            stack.callback(handle.remove)
        value = loss()
        found.loss = float(value.detach())
        if value.requires_grad and trained:
            torch.autograd.grad(value, trained, allow_unused=True)  # into no `grad`
    return found


def _watch(found: Signals, name: str, _: nn.Module, __: Any, outputs: Any) -> None:
    tensors = [t for t in tree_leaves(outputs) if isinstance(t, Tensor) and t.is_floating_point()]
    if not tensors or name in found.outputs:
        return
    found.outputs[name] = _spread(tensors[0])  # now: an activation may write over it
    if tensors[0].requires_grad:
        tensors[0].register_hook(partial(_note, found, name))  # type: ignore[no-untyped-call]


def _note(found: Signals, name: str, gradient: Tensor) -> None:
    found.gradients[name] = _spread(gradient)


def _spread(tensor: Tensor) -> float:
    return float(tensor.detach().double().std(correction=0))
