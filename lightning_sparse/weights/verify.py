"""Checks that masks are what they must be: after each step, and in each forward."""

import weakref
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.weights.optimizers import numbers_of, state_like
from lightning_sparse.weights.shards import here, total_of
from lightning_sparse.weights.state import SparseState, state_of
from lightning_sparse.weights.stepping import Handle

__all__ = ["verify_forwards", "verify_step"]


@torch.no_grad()
def verify_step(state: SparseState, optimizer: Optimizer) -> None:
    """Check that masks, pruned weights and what is kept for them are as they must be after a step.

    Raises:
        RuntimeError: If a mask has another count than it was given, a pruned weight is not zero, or
            ``optimizer`` has gathered something for one.
    """
    state.find_mixed_state_()
    parts = {name: state.part(name) for name in state.weights}
    counts = total_of(parts.values(), state.shards)
    for (name, mask), kept in zip(parts.items(), counts, strict=True):
        weight = state.weights[name]
        if kept != state.counts[name]:
            raise RuntimeError(f"`verify`: {name!r} keeps {kept} weights instead of {state.counts[name]}.")
        _refuse_alive(name, weight, mask, "after a step")
        for key, value in state_like(weight, [optimizer]):
            gathered = numbers_of(value)[~mask.to(value.device)]
            # An optimizer may start from another value than zero; nothing may happen to it.
            if gathered.numel() and (gathered != gathered[0]).any():
                raise RuntimeError(
                    f"`verify`: {key!r} of pruned weights of {name!r} differs in the optimizer."
                )


def verify_forwards(module: nn.Module) -> list[Handle]:
    """Check in every forward of a layer that its pruned weights are zero.

    Some optimizers run the net in the middle of a step: at trial points (L-BFGS), or beside its weights.

    Returns:
        Handles of the hooks on the layers.
    """
    state = state_of(module)
    names = {id(weight): name for name, weight in state.weights.items()}
    handles: list[Handle] = []
    for layer in module.modules():
        mine = [names[id(p)] for p in layer._parameters.values() if p is not None and id(p) in names]
        if mine:
            _watched[layer] = (weakref.ref(state), mine)
            handles.append(layer.register_forward_pre_hook(_check_layer))
    return handles


_Watched: TypeAlias = tuple["weakref.ReferenceType[SparseState]", list[str]]

_watched: "weakref.WeakKeyDictionary[nn.Module, _Watched]" = weakref.WeakKeyDictionary()
"""The layers whose forwards are checked, apart from them: copies of a layer have its hooks, but no masks."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def _check_layer(layer: nn.Module, _inputs: object) -> None:
    if layer in _watched:
        held, names = _watched[layer]
        if (state := held()) is not None:
            for name in names:
                _refuse_alive(name, state.weights[name], state.part(name), "in a forward")


def _refuse_alive(name: str, weight: Tensor, mask: Tensor, when: str) -> None:
    if alive := int(here(weight)[~mask].count_nonzero()):
        raise RuntimeError(f"`verify`: {alive} pruned weights of {name!r} are not zero {when}.")
