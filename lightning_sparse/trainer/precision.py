"""Checkpoints in more digits than what they are loaded into: the digits are given back afterwards.

Lightning loads a checkpoint before it converts the module (``precision="64-true"``), and PyTorch converts the
state of an optimizer to the type of its parameters. Either rounds what was kept in a larger type.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.weights.shards import is_sharded

__all__ = ["Digits"]


class Digits:
    """What a checkpoint has in more digits than what it was loaded into.

    Attributes:
        rounded: Parameters and buffers that are still to be given back, by name.
    """

    def __init__(self) -> None:
        self.rounded: dict[str, Tensor] = {}
        self._optimizers: Sequence[Mapping[str, Any]] = []

    def note(self, module: nn.Module, checkpoint: Mapping[str, Any]) -> None:
        """Keep the entries that lose digits in the types which the module has now.

        Strategies that split weights have loaded them by then, into the types of training.
        """
        self.rounded = _rounded_entries(module, checkpoint.get("state_dict", {}))
        self._optimizers = checkpoint.get("optimizer_states", [])

    def give_back_weights_(self, module: nn.Module) -> None:
        """Copy what was kept into the module, where it has the type for it by now."""
        self.rounded = _give_back_digits_(module, self.rounded)

    def give_back_states_(self, optimizers: Sequence[Optimizer]) -> None:
        """Do so with the state of optimizers, unless this run has a smaller type throughout."""
        if not self.rounded:
            _give_back_states_(optimizers, self._optimizers)
        self._optimizers = []


def _rounded_entries(module: nn.Module, loaded: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the entries of a state dict that lose digits in the types which the module has now."""
    own = module.state_dict()
    return {
        name: value
        for name, value in loaded.items()
        if isinstance(value, Tensor) and isinstance(own.get(name), Tensor) and _rounds(value, own[name])
    }


@torch.no_grad()
def _give_back_digits_(module: nn.Module, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy these entries into the module, where it has their type by now; return those where it has not."""
    own = module.state_dict()
    for name, value in entries.items():
        if name in own and not _rounds(value, own[name]) and own[name].shape == value.shape:
            own[name].copy_(value)
    return {name: value for name, value in entries.items() if name in own and _rounds(value, own[name])}


def _give_back_states_(optimizers: Sequence[Optimizer], loaded: Sequence[Mapping[str, Any]]) -> None:
    """Give tensors of the state of optimizers back in the type that the checkpoint has them in."""
    for optimizer, saved in zip(optimizers, loaded, strict=False):
        groups = zip(optimizer.param_groups, saved.get("param_groups", ()), strict=False)
        for group, saved_group in groups:
            for parameter, key in zip(group["params"], saved_group["params"], strict=False):
                state, entries = optimizer.state.get(parameter, {}), saved.get("state", {}).get(key, {})
                _give_back_(state, entries)


def _give_back_(state: dict[str, Any], entries: Mapping[str, Any]) -> None:
    for name, value in entries.items() if isinstance(entries, Mapping) else ():
        now = state.get(name)
        if (
            isinstance(value, Tensor)
            and isinstance(now, Tensor)
            and _rounds(value, now)
            and not is_sharded(now)
        ):
            state[name] = value.to(now.device, copy=True)


def _rounds(value: Tensor, target: Tensor) -> bool:
    """Tell whether numbers of one type lose digits in another."""
    if not (value.is_floating_point() and target.is_floating_point()):
        return False
    return torch.promote_types(value.dtype, target.dtype) != target.dtype
