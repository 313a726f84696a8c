"""What optimizers know of single weights, and whether it follows the weights when connections move."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.nets.found import compact
from lightning_sparse import masks_of
from lightning_sparse.trainer.packages import Callback

GATHERED = ("exp_avg", "exp_avg_sq", "momentum_buffer", "state1", "state2", "s")
SECOND_WEIGHTS = ("lookahead_slow_buff", "slow_params", "z")
"""Entries with one number for each weight, by the names that optimizers give them; others, such as Shampoo's
matrices, may have the shape of a square weight by chance."""


def numbers_of(optimizer: Optimizer, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield what an optimizer, and those within it, keep for each entry of a parameter, as floats."""
    state = optimizer.state.get(parameter, {})
    for key in GATHERED + SECOND_WEIGHTS:
        value = state.get(key) if isinstance(state, dict) else None
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            yield f"{type(optimizer).__name__}.{key}", _floats(value, state, key).clone()
    for inner in vars(optimizer).values():
        if isinstance(inner, Optimizer) and inner is not optimizer:
            yield from numbers_of(inner, parameter)


def _floats(value: Tensor, state: dict[str, Any], key: str) -> Tensor:
    if value.dtype == torch.uint8:  # of bitsandbytes: blocks of 256 codes into a table, each with a scale
        blocks = state[key.replace("state", "qmap")][value.long()].reshape(-1).split(256)
        scales = state[key.replace("state", "absmax")]
        return torch.cat([b * s for b, s in zip(blocks, scales, strict=True)]).view_as(value)
    return value.dequantize() if hasattr(value, "dequantize") and type(value) is not Tensor else value


class States(Callback):
    """Looks at each move of connections; stands before the callback that makes them.

    Where a step is left out for a move, survivors must keep what optimizers knew of them, and what is new
    must start from zero.
    """

    def __init__(self, rounding: float = 0.0) -> None:
        self.rounding = rounding
        self.moves = 0
        self.wrong: dict[str, str] = {}
        self._before: dict[int, Any] = {}

    def on_before_optimizer_step(self, _: Any, pl_module: nn.Module, optimizer: Optimizer, *__: int) -> None:
        """Note what is known before a move."""
        self._before[id(optimizer)] = self._seen(pl_module, optimizer)

    def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, *_: Any) -> None:
        """Compare, if connections moved."""
        for optimizer in trainer.optimizers:
            self._compare(self._before.get(id(optimizer), {}), self._seen(pl_module, optimizer))

    def _compare(self, before: Any, after: Any) -> None:
        for name, (alive, known) in after.items():
            was_alive, was_known = before.get(name, (alive, {}))
            if torch.equal(alive, was_alive):
                continue
            self.moves += 1
            for key, now in known.items():
                stayed, was = alive & was_alive, was_known.get(key, now)
                stale = int((now[~stayed].abs() > self.rounding * now.abs().max()).sum())
                off = (now - was)[stayed].abs()
                is_lost = off.sum() > self.rounding * was[stayed].abs().sum()
                lost = int(off.count_nonzero()) if is_lost and not key.endswith(SECOND_WEIGHTS) else 0
                if stale or lost:
                    self.wrong[key] = (
                        f"{key} of {name}, at a move: {stale} numbers of weights that were dropped or grown "
                        f"are not zero, {lost} of the others have changed"
                    )

    def _seen(self, module: nn.Module, optimizer: Optimizer) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
        """Return, by weight, where it is alive and what is known of it there, over the whole weight."""
        layers, weights = compact(module), dict(module.named_parameters())
        seen = {}
        for name, mask in masks_of(module).items():
            layer = layers.get(name.removesuffix(".weight"))
            parameter = weights[name] if layer is None else layer.values
            known = dict(numbers_of(optimizer, parameter))
            if layer is not None:
                known = {key: _spread(value, layer.indices, mask) for key, value in known.items()}
            seen[name] = mask.clone(), known
        return seen


def _spread(values: Tensor, indices: Tensor, mask: Tensor) -> Tensor:
    """Return the numbers of the entries of S at their places in the weight."""
    whole = values.new_zeros(mask.numel())
    whole[indices.long()] = values
    return whole.view(mask.shape)
