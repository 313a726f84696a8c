"""Leave no trace: what scoring changes in a module is given back."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lightning_sparse.types import Masks

__all__ = ["left_as_found", "sparsified"]

Restore: TypeAlias = Callable[[], None]

_REGISTRIES = ("_parameters", "_modules")


@contextmanager
def left_as_found(module: nn.Module, training: bool, seed: int | None = None) -> Iterator[None]:
    """Set train or eval mode for a while; afterwards give back what a pass changes.

    That is: modes, buffers, attributes (of metrics, counters, lists that a step appends to; the entries of
    lists, dicts and sets, but not what those entries hold themselves) and torch's random state.

    Args:
        module: Its parameters are not looked after: nothing here changes them.
        training: Whether batch norm and dropout act as in training meanwhile.
        seed: Seed of torch's random draws meanwhile; ``None`` goes on from where they are.
    """
    undo = [restore for layer in module.modules() for restore in _restorers(layer)]
    devices = sorted({p.device.index for p in module.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            if seed is not None:
                torch.manual_seed(seed)
            module.train(training)
            yield
        finally:
            with torch.no_grad():
                for restore in undo:
                    restore()


@contextmanager
def sparsified(weights: Mapping[str, Tensor], masks: Masks | None) -> Iterator[None]:
    """Set weights that ``masks`` prune to zero for a while; without masks, change nothing."""
    originals = {name: weights[name].detach().clone() for name in masks or {}}
    try:
        with torch.no_grad():
            for name in originals:
                weights[name].mul_((masks or {})[name])
        yield
    finally:
        with torch.no_grad():
            for name, original in originals.items():
                weights[name].copy_(original)


def _restorers(layer: nn.Module) -> Iterator[Restore]:
    """Yield what gives a layer's own attributes back, by identity and by content."""
    attributes = {key: value for key, value in vars(layer).items() if key not in _REGISTRIES}
    yield _dict_restorer(vars(layer), attributes, keep=_REGISTRIES)
    for value in [*attributes.values(), *layer._buffers.values()]:
        if (restore := _content_restorer(value)) is not None:
            yield restore


def _content_restorer(value: Any) -> Restore | None:
    """Return what undoes changes made to ``value`` in place, None for what is not looked after."""
    if isinstance(value, nn.Parameter):
        return None
    if isinstance(value, Tensor):
        content = value.detach().clone()
        return lambda: _restore_tensor(value, content)
    if type(value) is dict:
        return _dict_restorer(value, copy(value))
    if type(value) in (list, set, deque):
        entries = copy(value)
        return lambda: _refill(value, entries)
    return None


def _dict_restorer(current: dict[str, Any], found: dict[str, Any], keep: tuple[str, ...] = ()) -> Restore:
    def restore() -> None:
        for key in current.keys() - found.keys() - set(keep):
            del current[key]
        current.update(found)

    return restore


def _restore_tensor(tensor: Tensor, content: Tensor) -> None:
    if not tensor.is_inference():
        tensor.copy_(content)


def _refill(container: Any, entries: Any) -> None:
    container.clear()
    (container.update if isinstance(container, set) else container.extend)(entries)
