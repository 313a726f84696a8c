"""What optimizers hold, those included that hold another one: SAM, Lookahead, ZeroRedundancyOptimizer."""

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lightning_sparse.weights.enforcement import all_finite

__all__ = [
    "Handle",
    "find_mixed_state_",
    "forget_curvature_",
    "has_finite_gradients",
    "leave_out_step_",
    "numbers_of",
    "optimizers_within",
    "parameters_of",
    "skip_step_",
    "state_apart",
    "state_like",
    "take_back_step_",
    "tolerates_no_gradients",
    "when_loaded",
    "when_stepped",
    "zero_at_",
]

Hook: TypeAlias = Callable[[Optimizer], None]


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


def state_like(weight: Tensor, optimizers: Iterable[Optimizer]) -> Iterator[tuple[str, Tensor]]:
    """Yield what optimizers keep per entry of ``weight`` as numbers, by name.

    Codes, such as the eight bits of a quantised momentum, are left out: of them 0 need not stand for zero. So
    is what `find_mixed_state_` has found.
    """
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
    for weight, places in pruned:
        for one, key, value in _state_of(weight, [optimizer]):
            if value.shape == weight.shape and value.is_floating_point():
                kept = numbers_of(value)[places.to(value.device)]
                if kept.numel() and (kept != kept[0]).any():
                    _mixed.setdefault(one, set()).add(key)


_mixed: "weakref.WeakKeyDictionary[Optimizer, set[str]]" = weakref.WeakKeyDictionary()


def state_apart(weight: Tensor, optimizers: Iterable[Optimizer]) -> str | None:
    """Return the name of what optimizers keep for ``weight`` in codes, or not entry by entry, if any is."""
    for one, key, value in _state_of(weight, optimizers):
        coded = value.numel() > 1 and not value.is_floating_point() and value.dtype != torch.bool
        if coded or key in _mixed.get(one, ()):
            return key
    return None


def zero_at_(value: Tensor, places: Tensor) -> None:
    """Set what an optimizer keeps to zero where ``places`` is True, on whatever device."""
    places = places.to(value.device)
    if type(value) is Tensor or isinstance(value, nn.Parameter):
        value.masked_fill_(places, 0)
    else:  # a class of its own, such as a quantised momentum: only as a whole it knows how to be written
        value.copy_(numbers_of(value).masked_fill(places, 0))


def numbers_of(value: Tensor) -> Tensor:
    """Return a tensor as ordinary numbers."""
    read = getattr(value, "dequantize", None)
    return value if type(value) is Tensor or read is None else read()


def forget_curvature_(optimizers: Iterable[Optimizer]) -> None:
    """Let L-BFGS begin its history anew: it is that of other weights, and not kept entry by entry."""
    for optimizer in (inner for outer in optimizers for inner in optimizers_within(outer)):
        for state in optimizer.state.values() if isinstance(optimizer, LBFGS) else ():
            state["n_iter"] = 0


def has_finite_gradients(optimizer: Optimizer) -> bool:
    """Tell whether there are gradients and all are finite: a scaler skips the step for any that is not."""
    gradients = [p.grad for p in parameters_of(optimizer) if p.grad is not None]
    entries = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
    return bool(entries) and all(map(all_finite, entries))


# Steps that are left out.


def tolerates_no_gradients(optimizer: Optimizer) -> bool:
    """Tell whether a step without any gradient changes nothing: PyTorch's own optimizers see to it."""
    return type(optimizer).__module__.startswith("torch.optim.")


def skip_step_(optimizer: Optimizer) -> None:
    """Take the gradients away: optimizers leave such parameters, and what they keep for them, alone."""
    for parameter in parameters_of(optimizer):
        parameter.grad = None


def leave_out_step_(optimizer: Optimizer) -> None:
    """Take down all that the coming step of an optimizer may change, for `take_back_step_`.

    For optimizers that cannot go without gradients, or count steps without any.
    """
    _left_out[optimizer] = _Before(optimizer)


def take_back_step_(optimizer: Optimizer) -> None:
    """Undo a step that was to be left out; any other stays as it is."""
    before = _left_out.pop(optimizer, None)
    if before is not None:
        before.restore_(optimizer)


class _Before:
    """Weights and states of an optimizer, and of those that it holds, as they are now."""

    def __init__(self, optimizer: Optimizer) -> None:
        optimizers = optimizers_within(optimizer)
        self._states = [{key: _shallow(value) for key, value in _dict_of(one).items()} for one in optimizers]
        self._groups = [
            [{name: _shallow(value) for name, value in group.items() if name != "params"} for group in groups]
            for groups in (one.param_groups for one in optimizers)
        ]
        tensors = [*parameters_of(optimizer), *_tensors_in(self._states), *_tensors_in(self._groups)]
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in tensors]

    @torch.no_grad()
    def restore_(self, optimizer: Optimizer) -> None:
        for tensor, value in self._tensors:
            tensor.copy_(value)
        for one, state, groups in zip(optimizers_within(optimizer), self._states, self._groups, strict=True):
            now = _dict_of(one)
            now.clear()
            now.update(state)
            for group, saved in zip(one.param_groups, groups, strict=True):
                group.update(saved)


_left_out: "weakref.WeakKeyDictionary[Optimizer, _Before]" = weakref.WeakKeyDictionary()


# Steps that are watched.


class Handle(Protocol):
    """What takes a hook away again."""

    def remove(self) -> None:
        """Take the hook away, if it is there."""


def when_stepped(optimizer: Optimizer, before: Hook | None = None, after: Hook | None = None) -> list[Handle]:
    """Call a function with the optimizer before each of its steps, or after.

    PyTorch's hooks tell of steps where ``Optimizer.__init__`` was called. Optimizers that wrap another one
    may leave that out: their ``step`` is wrapped then.
    """
    if not _tells_of_steps(optimizer):
        return [_WrappedStep(optimizer, before, after)]
    handles: list[Handle] = []
    if before is not None:
        handles.append(optimizer.register_step_pre_hook(lambda held, *_: before(held)))
    if after is not None:
        handles.append(optimizer.register_step_post_hook(lambda held, *_: after(held)))
    return handles


def when_loaded(optimizer: Optimizer, after: Hook) -> list[Handle]:
    """Call a function with the optimizer after each loading of a state, as far as it tells of that."""
    if not hasattr(optimizer, "_optimizer_load_state_dict_post_hooks"):
        return []
    return [optimizer.register_load_state_dict_post_hook(after)]


class _WrappedStep:
    """The ``step`` of an optimizer that tells nobody of it, in a wrapping of its own."""

    def __init__(self, optimizer: Optimizer, before: Hook | None, after: Hook | None) -> None:
        self._optimizer = weakref.ref(optimizer)
        self._earlier = vars(optimizer).get("step")
        step, held = optimizer.step, self._optimizer

        @wraps(step)  # schedulers leave a mark on it, and look whether it is there
        def wrapped(*arguments: Any, **options: Any) -> Any:
            optimizer = held()
            assert optimizer is not None, "it is stepping"
            if before is not None:
                before(optimizer)
            result = step(*arguments, **options)
            if after is not None:
                after(optimizer)
            return result

        self._step = wrapped
        vars(optimizer)["step"] = wrapped

    def remove(self) -> None:
        optimizer = self._optimizer()
        if optimizer is None or vars(optimizer).get("step") is not self._step:
            return
        del vars(optimizer)["step"]
        if self._earlier is not None:
            vars(optimizer)["step"] = self._earlier


def _tells_of_steps(optimizer: Optimizer) -> bool:
    return hasattr(optimizer, "_optimizer_step_post_hooks") and getattr(type(optimizer).step, "hooked", False)


# Steps of the above.


def _state_of(weight: Tensor, optimizers: Iterable[Optimizer]) -> Iterator[tuple[Optimizer, str, Tensor]]:
    """Yield all tensors that optimizers, and those that they hold, keep for a weight, each once."""
    seen: set[int] = set()
    for optimizer in (inner for outer in optimizers for inner in optimizers_within(outer)):
        for key, value in dict(_dict_of(optimizer).get(weight, {})).items():
            if isinstance(value, Tensor) and id(value) not in seen:
                seen.add(id(value))
                yield optimizer, key, value


def _dict_of(optimizer: Optimizer) -> dict[Any, Any]:
    """Return what an optimizer keeps by parameter; nothing if it keeps it elsewhere."""
    state = getattr(optimizer, "state", None)
    return state if isinstance(state, dict) else {}


def _items(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else (value,)


def _shallow(value: Any) -> Any:
    """Return a copy of what holds tensors, with the same tensors in it."""
    return copy.copy(value) if isinstance(value, dict | list) else value


def _tensors_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors that something consists of; of a class of its own those that it is made of."""
    if isinstance(value, Tensor) and is_traceable_wrapper_subclass(value):
        for name in value.__tensor_flatten__()[0]:
            yield from _tensors_in(getattr(value, name))
    elif isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in _items(value):
            yield from _tensors_in(item)
