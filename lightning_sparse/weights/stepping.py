"""Steps of optimizers: told of, or left out."""

import copy
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lightning_sparse.weights.optimizers import dict_of, optimizers_within, parameters_of, tensors_in

__all__ = [
    "Handle",
    "has_stepped",
    "leave_out_step_",
    "skip_step_",
    "take_back_step_",
    "tolerates_no_gradients",
    "when_loaded",
    "when_stepped",
]

Hook: TypeAlias = Callable[[Optimizer], None]

# Steps that are left out.


def tolerates_no_gradients(optimizer: Optimizer) -> bool:
    """Tell whether a step without any gradient changes nothing: PyTorch's own optimizers see to it."""
    return type(optimizer).__module__.startswith("torch.optim.")


def skip_step_(optimizer: Optimizer) -> None:
    """Take the gradients away until `take_back_step_`: optimizers leave such parameters alone."""
    _left_out[optimizer] = _Gradients(optimizer)


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


class _Gradients:
    """Gradients that are kept from an optimizer."""

    def __init__(self, optimizer: Optimizer) -> None:
        parameters = parameters_of(optimizer)
        self._gradients = [(parameter, parameter.grad) for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None

    def restore_(self, optimizer: Optimizer) -> None:
        for parameter, gradient in self._gradients:
            parameter.grad = gradient


class _Before:
    """Weights and states of an optimizer, and of those that it holds, as they are now."""

    def __init__(self, optimizer: Optimizer) -> None:
        optimizers = optimizers_within(optimizer)
        self._states = [{key: _copied(value) for key, value in dict_of(one).items()} for one in optimizers]
        self._groups = [
            [{name: _copied(value) for name, value in group.items() if name != "params"} for group in groups]
            for groups in (one.param_groups for one in optimizers)
        ]
        tensors = [*parameters_of(optimizer), *tensors_in(self._states), *tensors_in(self._groups)]
        parts = [part for tensor in tensors for part in _parts_of(tensor)]
        self._tensors = [(part, part.detach().clone()) for part in parts]

    @torch.no_grad()
    def restore_(self, optimizer: Optimizer) -> None:
        for tensor, value in self._tensors:
            tensor.copy_(value)
        for one, state, groups in zip(optimizers_within(optimizer), self._states, self._groups, strict=True):
            now = dict_of(one)
            now.clear()
            now.update(state)
            for group, saved in zip(one.param_groups, groups, strict=True):
                group.update(saved)


_left_out: "weakref.WeakKeyDictionary[Optimizer, _Before | _Gradients]" = weakref.WeakKeyDictionary()


def _copied(value: Any) -> Any:
    """Return a copy of lists and dicts, however deep, with the same tensors in them."""
    if not isinstance(value, dict | list | deque):
        return value
    copied = copy.copy(value)
    for key in list(copied) if isinstance(copied, dict) else range(len(copied)):
        copied[key] = _copied(copied[key])
    return copied


def _parts_of(tensor: Tensor) -> list[Tensor]:
    """Return a tensor, or what one of a class of its own is made of: codes and their scales."""
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor]
    parts = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
    return [inner for part in parts for inner in _parts_of(part)]


# Steps that are watched.


def has_stepped(optimizer: Optimizer) -> bool:
    """Tell, right after a step, whether it was made: a fused one leaves itself out when gradients overflow.

    A ``GradScaler`` tells such optimizers what it has found for as long as their step lasts; others it does
    not call. To ask waits for the device, once in each step under a scaler.
    """
    found: Tensor | None = getattr(optimizer, "found_inf", None)
    return found is None or not bool(found)


class Handle(Protocol):
    """What takes a hook away again."""

    def remove(self) -> None:
        """Take the hook away, if it is there."""


def when_stepped(optimizer: Optimizer, before: Hook | None = None, after: Hook | None = None) -> list[Handle]:
    """Call a function with the optimizer before each of its steps, or after.

    Where a step makes its gradients itself, by a closure, that is after each evaluation of it. PyTorch's
    hooks tell of steps where ``Optimizer.__init__`` was called. Optimizers that wrap another one may leave
    that out: their ``step`` is wrapped then.
    """
    if not _tells_of_steps(optimizer):
        return [_WrappedStep(optimizer, before, after)]
    handles: list[Handle] = []
    if before is not None:
        handles.append(optimizer.register_step_pre_hook(partial(_act_before, before)))
    if after is not None:
        handles.append(optimizer.register_step_post_hook(lambda held, *_: after(held)))
    return handles


def _act_before(
    act: Hook, optimizer: Optimizer, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Call a function before a step, or see to it that its closure does; return the step's arguments."""
    place = int(bool(arguments) and arguments[0] is optimizer)  # hooks are told of `self` too
    closure = options.get("closure", arguments[place] if len(arguments) > place else None)
    if not callable(closure):
        act(optimizer)
        return arguments, options

    def evaluated() -> Any:
        loss = closure()
        act(optimizer)
        return loss

    if "closure" in options:
        return arguments, {**options, "closure": evaluated}
    return (*arguments[:place], evaluated, *arguments[place + 1 :]), options


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
                arguments, options = _act_before(before, optimizer, arguments, options)
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
