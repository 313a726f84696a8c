"""An optimizer that is to train one vector in the place of many weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.checks import SparsityError
from lightning_sparse.weights.optimizers import kept_elsewhere, optimizers_within, parameters_of

__all__ = ["Handover"]

_NAMES = "param_names"
_WAY_OUT = "Take one of PyTorch's own optimizers, such as SGD, Adam or AdamW."


class Handover:
    """Puts a vector into an optimizer in the place of weights, and can put the weights back.

    Groups stay the same objects, as schedulers hold them, also where they are empty afterwards. What the
    optimizer has made for the weights already, such as Adagrad's sums, is made for the vector.

    Args:
        optimizer: Holds the weights.
        weights: All of them, by name.
        vector: What is to be trained.

    Raises:
        SparsityError: If the optimizer lacks one of the weights, holds them in groups with different options,
            has made steps with them, keeps weights in a place of its own, or holds another optimizer.
    """

    def __init__(
        self, optimizer: Optimizer, weights: Mapping[str, nn.Parameter], vector: nn.Parameter
    ) -> None:
        self.optimizer, self._vector = optimizer, vector
        name = type(optimizer).__name__
        if len(optimizers_within(optimizer)) > 1:
            raise SparsityError(f"`optimizer` must not hold another one, got {name}, which does. {_WAY_OUT}")
        _refuse_missing(optimizer, weights)
        ours = {id(weight) for weight in weights.values()}
        groups = [g for g in optimizer.param_groups if any(id(p) in ours for p in g["params"])]
        _refuse_other_options(groups)
        state = _state_for(vector, optimizer, list(weights.values()))
        self._before = [(g, {key: g[key] for key in ("params", _NAMES) if key in g}) for g in groups]
        for number, group in enumerate(groups):
            _replace_(group, ours, [vector] if number == 0 else [])
        if (place := kept_elsewhere(optimizer, weights.values())) is not None:
            self._give_groups_back_()
            raise SparsityError(
                f"`optimizer` must hold weights in its groups only, got {name}, which has them in {place} as "
                f"well. {_WAY_OUT}"
            )
        self._state = {id(w): optimizer.state.pop(w) for w in weights.values() if w in optimizer.state}
        self._weights = weights
        if state:
            optimizer.state[vector] = state

    def take_back_(self) -> None:
        """Let the optimizer train the weights again, with the state from before."""
        self._give_groups_back_()
        self.optimizer.state.pop(self._vector, None)
        for weight in self._weights.values():
            if id(weight) in self._state:
                self.optimizer.state[weight] = self._state[id(weight)]

    def _give_groups_back_(self) -> None:
        for group, before in self._before:
            group.update(before)


def _refuse_missing(optimizer: Optimizer, weights: Mapping[str, nn.Parameter]) -> None:
    held = {id(parameter) for parameter in parameters_of(optimizer)}
    if missing := [name for name, weight in weights.items() if id(weight) not in held]:
        raise SparsityError(
            f"The optimizer must hold all weights that move in the hyperplane, got {len(missing)} of "
            f"{len(weights)} that are in none, such as {missing[0]!r}. Hand them over, freeze them "
            "(`requires_grad_(False)`), or name them in `exclude`."
        )


def _refuse_other_options(groups: list[dict[str, Any]]) -> None:
    """Refuse groups of which one vector cannot have the options."""
    first = groups[0]
    for group in groups[1:]:
        for key in [*first, *(key for key in group if key not in first)]:
            if key not in ("params", _NAMES) and first.get(key) != group.get(key):
                raise SparsityError(
                    "All weights that move in the hyperplane must be in groups with the same options, as one "
                    f"vector is trained for them, got `{key}` {first.get(key)} and {group.get(key)}. Use one "
                    "group, or name the weights of the other in `exclude`: they are trained by themselves."
                )


def _state_for(vector: nn.Parameter, optimizer: Optimizer, weights: list[nn.Parameter]) -> dict[str, Any]:
    """Return what an optimizer has made for weights before any step, in the shape of the vector."""
    made: dict[str, Any] = {}
    for weight in weights:
        for key, value in optimizer.state.get(weight, {}).items() if weight.dim() and weight.numel() else ():
            new = value.clone() if isinstance(value, Tensor) else value
            if isinstance(value, Tensor) and value.shape == weight.shape:
                if (value != value.flatten()[0]).any():
                    raise SparsityError(
                        f"`optimizer` must be new, got {type(optimizer).__name__} that has made steps with "
                        "these weights. Make another one."
                    )
                new = torch.full_like(vector, float(value.flatten()[0]))
            made[key] = new
    return made


def _replace_(group: dict[str, Any], ours: set[int], instead: list[nn.Parameter]) -> None:
    """Replace weights in a group; what is instead comes where the first of them was."""
    params = group["params"]
    first = next(i for i, parameter in enumerate(params) if id(parameter) in ours)
    kept = [i for i, parameter in enumerate(params) if id(parameter) not in ours]
    before, after = [i for i in kept if i < first], [i for i in kept if i > first]
    if _NAMES in group:
        names = group[_NAMES]
        group[_NAMES] = [*(names[i] for i in before), *["theta"] * len(instead), *(names[i] for i in after)]
    group["params"] = [*(params[i] for i in before), *instead, *(params[i] for i in after)]
