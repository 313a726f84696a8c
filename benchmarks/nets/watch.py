"""Callbacks of the table that look on, and one that trains masked weights in the plainest way there is."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from benchmarks.nets.found import masked
from lightning_sparse.trainer.packages import Callback

WEIGHT_OF = {
    F.linear: 1,
    F.conv1d: 1,
    F.conv2d: 1,
    F.conv3d: 1,
    F.conv_transpose1d: 1,
    F.conv_transpose2d: 1,
    F.conv_transpose3d: 1,
    torch.addmm: 2,
}
"""Where the weight is among the arguments of a product."""


class Watch(Callback):
    """Looks on.

    Attributes:
        losses: Of all steps.
        dense_products: By layer, how many weights are not zero where its mask prunes when it multiplies.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.dense_products: dict[str, int] = {}
        self._handles: list[RemovableHandle] = []

    def on_train_batch_start(self, trainer: Any, pl_module: nn.Module, _: Any, batch_idx: int) -> None:
        """Look at the products of the last step."""
        is_last = trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches
        if trainer.current_epoch + 1 == trainer.max_epochs and is_last:
            for name, mask in masked(pl_module).items():
                self._look_at(pl_module, name.rpartition(".")[0], mask)

    def on_train_batch_end(self, _: Any, __: nn.Module, outputs: Any, *___: Any) -> None:
        """Note the loss, the first of several; a step that trains by itself may return none."""
        first = outputs[0] if isinstance(outputs, list) and outputs else outputs
        if isinstance(first, dict) and "loss" in first:
            self.losses.append(float(first["loss"]))
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _look_at(self, module: nn.Module, name: str, mask: Tensor) -> None:
        layer, product = module.get_submodule(name), Product(mask)

        def enter(*_: Any) -> None:
            product.__enter__()

        def leave(*_: Any) -> None:
            product.__exit__(None, None, None)
            if product.alive:
                self.dense_products[name] = product.alive

        self._handles += [
            layer.register_forward_pre_hook(enter),
            layer.register_forward_hook(leave, always_call=True),
        ]


class Product(TorchFunctionMode):
    """Counts what is not zero where a mask prunes, in the weight that a layer really multiplies with."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask, self.alive = mask, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the weight, and go on."""
        at = WEIGHT_OF.get(func)
        weight = None if at is None else args[at] if len(args) > at else (kwargs or {}).get("weight")
        if isinstance(weight, Tensor) and weight.shape == self.mask.shape:
            self.alive = max(self.alive, int(weight.detach()[~self.mask].count_nonzero()))
        return func(*args, **(kwargs or {}))


class ByHand(Callback):
    """Trains with fixed masks as one would by hand; touches no optimizer's state."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = masks

    def _kept(self, module: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
        weights = dict(module.named_parameters())
        return ((weights[name], mask) for name, mask in self.masks.items())

    def on_train_start(self, _: Any, pl_module: nn.Module) -> None:
        """Prune."""
        for weight, mask in self._kept(pl_module):
            weight.data[~mask] = 0

    def on_before_optimizer_step(self, _: Any, pl_module: nn.Module, *__: Any) -> None:
        """Leave pruned weights without a gradient."""
        for weight, mask in self._kept(pl_module):
            if weight.grad is not None:
                weight.grad[~mask] = 0

    def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, *_: Any) -> None:
        """Prune again."""
        self.on_train_start(trainer, pl_module)
