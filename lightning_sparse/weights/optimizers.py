"""What optimizers hold, those included that hold another one: SAM, Lookahead, ZeroRedundancyOptimizer."""

import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lightning_sparse.weights.enforcement import all_finite, all_finite_together
from lightning_sparse.weights.shards import here

__all__ = [
    "all_within",
    "dict_of",
    "find_mixed_state_",
    "forget_curvature_",
    "has_finite_gradients",
    "kept_elsewhere",
    "numbers_of",
    "optimizers_within",
    "parameters_of",
    "state_apart",
    "state_held_like",
    "state_like",
    "tensors_in",
    "zero_at_",
]


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return what an optimizer holds."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def optimizers_within(optimizer: Optimizer) -> list[Optimizer]:
    """Return an optimizer and those that it holds, under whatever name and however deep, each once."""
    found, left = [optimizer], [optimizer]
    while left:
        for value in list(vars(left.pop()).values()):
            inner = [one for one in _items(value) if isinstance(one, Optimizer)]
            new = [one for one in inner if not any(one is other for other in found)]
            found, left = [*found, *new], [*left, *new]
    return found


def all_within(optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """Return optimizers and those that they hold."""
    return [inner for outer in optimizers for inner in optimizers_within(outer)]


def state_like(weight: Tensor, optimizers: Iterable[Optimizer]) -> Iterator[tuple[str, Tensor]]:
    """Yield what optimizers keep per entry of ``weight`` as numbers, by name.

    Codes, such as the eight bits of a quantised momentum, are left out: of them 0 need not stand for zero. So
    is what `find_mixed_state_` has found.
    """
    return state_held_like(weight, all_within(optimizers))


def state_held_like(weight: Tensor, optimizers: Sequence[Optimizer]) -> Iterator[tuple[str, Tensor]]:
    """Do as `state_like` for optimizers beside those that they hold, as `all_within` finds them."""
    for one, key, value in _state_of(weight, optimizers):
        if value.shape == weight.shape and value.is_floating_point() and key not in _mixed.get(one, ()):
            yield key, value


def find_mixed_state_(optimizer: Optimizer, pruned: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Find out what an optimizer keeps in the shape of a weight, but not entry by entry.

    SOAP keeps its momentum in a rotated basis, and Shampoo's preconditioners of a square weight have its
    shape. It shows after a step: what belongs to an entry without gradient has not changed.

    Args:
        optimizer: One that has made a step with gradients that were masked.
        pruned: Weights, and where their gradients are zero, a boolean mask in their shape.
    """
    within = optimizers_within(optimizer)
    for weight, places in pruned:
        for one, key, value in _state_of(weight, within):
            if value.shape == weight.shape and value.is_floating_point():
                kept = numbers_of(value)[places.to(value.device)]
                if kept.numel() and (kept != kept[0]).any():
                    _mixed.setdefault(one, set()).add(key)


_mixed: "weakref.WeakKeyDictionary[Optimizer, set[str]]" = weakref.WeakKeyDictionary()


def state_apart(weight: Tensor, optimizers: Iterable[Optimizer]) -> list[str]:
    """Return the names of what optimizers keep for ``weight`` in codes, or not entry by entry."""
    found: dict[str, None] = {}
    for one, key, value in _state_of(weight, all_within(optimizers)):
        numbers = value.is_floating_point() and not is_traceable_wrapper_subclass(here(value))
        coded = value.numel() > 1 and not numbers and value.dtype != torch.bool
        if coded or key in _mixed.get(one, ()):
            found[key] = None
    return list(found)


def zero_at_(value: Tensor, places: Tensor) -> None:
    """Set what an optimizer keeps to zero where ``places`` is True, on whatever device."""
    value, places = here(value), places.to(value.device)
    if type(value) is Tensor or isinstance(value, nn.Parameter):
        value.masked_fill_(places, 0)
    else:  # a class of its own, such as a quantised momentum: only as a whole it knows how to be written
        numbers = numbers_of(value)
        if numbers[places].any():  # writing rounds the others anew
            value.copy_(numbers.masked_fill(places, 0))


def numbers_of(value: Tensor) -> Tensor:
    """Return what this process holds of a tensor as ordinary numbers."""
    value = here(value)
    read = getattr(value, "dequantize", None)
    return value if type(value) is Tensor or read is None else read()


def forget_curvature_(optimizers: Iterable[Optimizer]) -> None:
    """Let L-BFGS begin its history anew: it is that of other weights, and not kept entry by entry."""
    for optimizer in (inner for outer in optimizers for inner in optimizers_within(outer)):
        for state in optimizer.state.values() if isinstance(optimizer, LBFGS) else ():
            state["n_iter"] = 0


def has_finite_gradients(optimizer: Optimizer) -> bool:
    """Tell whether there are gradients and all are finite: a scaler skips the step for any that is not."""
    gradients = [here(p.grad) for p in parameters_of(optimizer) if p.grad is not None]
    entries = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
    together = [one for one in entries if one.is_cuda and one.is_floating_point() and one.numel()]
    if together and len(together) == len([one for one in entries if one.numel()]):
        return all_finite_together(together)
    return bool(entries) and all(map(all_finite, entries))


def kept_elsewhere(optimizer: Optimizer, weights: Iterable[Tensor]) -> str | None:
    """Return the name of what an optimizer keeps in the shape of weights, but not by weight; None if nothing.

    That is in an attribute of its own, or as copies that an optimizer which it holds trains in their place.
    """
    mine = {id(parameter) for parameter in parameters_of(optimizer)}
    shapes = {weight.shape for weight in weights}
    for one in optimizers_within(optimizer):
        places = {name: value for name, value in vars(one).items() if name not in ("state", "defaults")}
        for name, value in places.items():
            if any(t.shape in shapes and id(t) not in mine for t in tensors_in(value)):
                return f"{type(one).__name__}.{name}"
    return None


def dict_of(optimizer: Optimizer) -> dict[Any, Any]:
    """Return what an optimizer keeps by parameter; nothing if it keeps it elsewhere."""
    state = getattr(optimizer, "state", None)
    return state if isinstance(state, dict) else {}


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors in lists and dicts, however deep."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple | deque):
        for item in _items(value):
            yield from tensors_in(item)


def _state_of(weight: Tensor, optimizers: Sequence[Optimizer]) -> Iterator[tuple[Optimizer, str, Tensor]]:
    """Yield all tensors that these optimizers keep for a weight, each once."""
    seen: set[int] = set()
    for optimizer in optimizers:
        for key, value in dict(dict_of(optimizer).get(weight, {})).items():
            for tensor in tensors_in(value):
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield optimizer, key, tensor


def _items(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple | deque) else (value,)
