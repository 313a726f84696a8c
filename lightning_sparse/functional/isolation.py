"""Leave no trace: what scoring changes in a module is given back."""

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from lightning_sparse.functional.shards.layout import here
from lightning_sparse.types import Masks

__all__ = [
    "Restore",
    "differentiable",
    "generator_restorer",
    "gradients_aside",
    "left_as_found",
    "sparsified",
]

Restore: TypeAlias = Callable[[], object]

_REGISTRIES = ("_parameters", "_modules")
_DEPTH = 4  # a dict of lists of lists is looked into
_ENTRIES = 10_000  # longer lists hold data, and are only kept from growing


@contextmanager
def left_as_found(
    module: nn.Module, training: bool, seed: int | None = None, parameters: bool = True
) -> Iterator[None]:
    """Set train or eval mode for a while; afterwards give back what a pass changes.

    That is: modes, parameters, buffers (with the shape they had), attributes of the module and all its
    children (metrics, counters, generators, lists and dicts, what these hold too) and torch's random state.
    Not what objects of other classes hold.

    Args:
        module: Any module.
        training: Whether batch norm and dropout act as in training meanwhile. Parts of a module in train mode
            that are in eval mode (a frozen backbone) stay so.
        seed: Seed of torch's random draws meanwhile; ``None`` goes on from where they are.
        parameters: Whether the pass may change parameters, as a momentum encoder does; costs a copy of them.
    """
    devices = sorted({p.device.index for p in module.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.no_grad(), ExitStack() as undo:
        undo.enter_context(_differentiable_recurrence(module))
        for layer in module.modules():
            for restore in _restorers(layer, parameters):
                undo.callback(restore)
        if seed is not None:
            _seed(seed, devices)
        if module.training != training:
            module.train(training)
        with torch.enable_grad():
            yield


@contextmanager
def _differentiable_recurrence(module: nn.Module) -> Iterator[None]:
    """Keep cuDNN out of recurrent nets: it has no gradient of them in eval mode, nor ever a second one."""
    if not any(isinstance(layer, nn.RNNBase) for layer in module.modules()):
        yield
        return
    enabled = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = enabled


def _seed(seed: int, devices: Iterable[int]) -> None:
    """Seed the generators of the CPU and these GPUs; ``torch.manual_seed`` would seed all others as well."""
    torch.default_generator.manual_seed(seed)
    for index in devices:
        torch.cuda.default_generators[index].manual_seed(seed)


@contextmanager
def sparsified(weights: Mapping[str, Tensor], masks: Masks | None) -> Iterator[None]:
    """Set weights that ``masks`` prune to zero for a while; without masks, change nothing."""
    masks = masks or {}
    originals = {name: weights[name].detach().clone() for name in masks}
    try:
        with torch.no_grad():
            for name, mask in masks.items():
                weights[name].mul_(mask)
        yield
    finally:
        with torch.no_grad():
            for name, original in originals.items():
                weights[name].copy_(original)


@contextmanager
def differentiable(weights: Iterable[Tensor]) -> Iterator[None]:
    """Let frozen weights have gradients for a while."""
    frozen = [weight for weight in weights if not weight.requires_grad]
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


@contextmanager
def gradients_aside(module: nn.Module) -> Iterator[None]:
    """Let a module have no gradients for a while; afterwards it has those that it had."""
    parameters = list(module.parameters())
    gradients = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


def generator_restorer(value: Any) -> Restore | None:
    """Return what sets a random number generator back to its state of now; None if it is none."""
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return partial(setattr, bits, "state", copy(bits.state))
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    return None


def _restorers(layer: nn.Module, parameters: bool) -> Iterator[Restore]:
    """Yield what gives a layer's own attributes back, by identity and by content."""
    attributes = {key: value for key, value in vars(layer).items() if key not in _REGISTRIES}
    yield _dict_restorer(vars(layer), attributes, keep=_REGISTRIES)
    own = [p for p in layer._parameters.values() if p is not None] if parameters else []
    empty, rest = _empty_and_others([*attributes.values(), *own])
    yield lambda: [container.clear() for container in empty]
    for value in rest:
        yield from _content_restorers(value, _DEPTH)


def _empty_and_others(values: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Set empty containers apart: a module has a dozen of them, its registries of hooks."""
    empty: list[Any] = []
    others: list[Any] = []
    for value in values:
        (empty if isinstance(value, dict | list | set | deque) and not value else others).append(value)
    return empty, others


def _content_restorers(value: Any, depth: int) -> Iterator[Restore]:
    """Yield what undoes changes made to ``value`` in place; nothing for what is not looked after."""
    if isinstance(value, Tensor):
        if not value.is_inference():
            content = value.detach().clone()
            yield lambda: _restore_tensor(value, content)
    elif isinstance(value, dict):
        yield _dict_restorer(value, dict(value))
        yield from _restorers_of_entries(list(value.values()), depth)
    elif isinstance(value, list | set | deque):
        entries = copy(value)
        yield lambda: _refill(value, entries)
        yield from _restorers_of_entries(list(value), depth)
    elif (restore := generator_restorer(value)) is not None:
        yield restore


def _restorers_of_entries(entries: list[Any], depth: int) -> Iterator[Restore]:
    if depth > 1 and len(entries) <= _ENTRIES:
        for entry in entries:
            if not isinstance(entry, nn.Parameter):
                yield from _content_restorers(entry, depth - 1)


def _dict_restorer(current: dict[Any, Any], found: dict[Any, Any], keep: tuple[str, ...] = ()) -> Restore:
    def restore() -> None:
        for key in current.keys() - found.keys() - set(keep):
            del current[key]
        dict.update(current, found)  # a Counter's own would add

    return restore


def _restore_tensor(tensor: Tensor, content: Tensor) -> None:
    tensor, content = here(tensor), here(content)
    if (tensor.shape, tensor.dtype, tensor.device) != (content.shape, content.dtype, content.device):
        tensor.data = content  # as observers of quantization resize theirs; it stays the same object
    elif not torch.equal(tensor, content):  # what is expanded can be read, and not written to
        tensor.copy_(content)


def _refill(container: Any, entries: Any) -> None:
    container.clear()
    (container.update if isinstance(container, set) else container.extend)(entries)
