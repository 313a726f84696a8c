"""Losses of the training data, for methods that score weights by them."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.data import DataLoader, IterableDataset

from lightning_sparse.checks import SparsityError
from lightning_sparse.trainer.packages import LightningModule, Trainer, rank_zero_warn
from lightning_sparse.trainer.parts import copied_train_loader, for_the_step
from lightning_sparse.types import Loss

__all__ = ["LossFunction", "TrainingLosses", "input_in", "refuse_without_loss"]

LossFunction: TypeAlias = Callable[[LightningModule, Any], Tensor]
"""Returns the mean loss of a batch: ``loss_fn(module, batch)``."""


class TrainingLosses:
    """Draws batches as training does, and runs them through the module's own ``training_step``.

    In full precision where training is mixed, and eagerly where it is compiled.

    Args:
        trainer: Its dataloaders are copied: the iterators that training uses are not touched.
        module: The module as the user wrote it.
        loss_fn: Takes the place of ``training_step``.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, loss_fn: LossFunction | None) -> None:
        self.trainer = trainer
        self.module = module
        self.loss_fn = loss_fn
        self._batches = _endless(trainer, module)
        self._inputs: Any = None

    def next(self, num_batches: int) -> Sequence[Loss]:
        """Return the losses of the next batches; after the last comes the first."""
        batches = [next(self._batches) for _ in range(num_batches)]
        return [self.of(batch) for batch in batches]

    def of(self, batch: Any) -> Loss:
        """Return the loss of a batch as the training step gets it."""
        return partial(self._loss, batch)

    def inputs(self) -> Any:
        """Return the module's ``example_input_array``, or else the first tensor of the first batch.

        Of a batch only shape, type and device are kept.
        """
        if self._inputs is None:
            self._inputs = self.module.example_input_array
        if self._inputs is None:
            self._inputs = _first_tensor(next(self._batches))
        return tree_map_only(Tensor, lambda x: x.to(self.module.device), self._inputs)

    def _loss(self, batch: Any) -> Tensor:
        batch = tree_map_only(Tensor, Tensor.clone, batch)  # a step may change it, and see it again
        with _plainly(self.trainer, self.module):
            if self.loss_fn is not None:
                return _checked(self.loss_fn(self.module, batch), "loss_fn")
            arguments = (batch, 0)[: _count_arguments(self.module)]
            return _checked(self.module.training_step(*arguments), "training_step")


FOR_SCORES = (
    "Give `PruneAtInit` a `loss_fn(module, batch)`, or choose a method without data (`synflow`, `erk`)."
)
"""What to do where a method cannot have a loss."""


def refuse_without_loss(who: str, module: LightningModule, way_out: str = FOR_SCORES) -> None:
    """Raise SparsityError if a module's ``training_step`` cannot be asked for a loss."""
    if not module.automatic_optimization:
        raise SparsityError(
            f"{who} needs a loss, and a `training_step` with manual optimization would "
            f"train instead of returning one. {way_out}"
        )
    parameters = inspect.signature(module.training_step).parameters
    if "optimizer_idx" in parameters:
        raise SparsityError(
            f"{who} needs one loss, and `training_step(..., optimizer_idx)` has one for each optimizer. "
            f"{way_out}"
        )
    if "dataloader_iter" in parameters:
        raise SparsityError(
            f"{who} needs a loss for a batch, and `training_step(dataloader_iter)` draws by itself. {way_out}"
        )


def input_in(batch: Any) -> Tensor | None:
    """Return the first tensor of a batch that may be a net's input, of real numbers if there is one."""
    tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim > 1]
    real = [tensor for tensor in tensors if tensor.is_floating_point()]
    return next(iter(real or tensors), None)


def _first_tensor(batch: Any) -> Tensor:
    """Return a stand-in, without memory, for the first tensor of a batch that may be a net's input."""
    found = input_in(batch)
    if found is None:
        raise SparsityError(
            "SynFlow found no input in the first batch. Set `input_shape`, or the module's "
            "`example_input_array`."
        )
    return torch.empty((), dtype=found.dtype, device=found.device).expand(found.shape)


def _endless(trainer: Trainer, module: LightningModule) -> Iterator[Any]:
    loader = copied_train_loader(trainer, _copied)
    while True:
        drawn = 0
        for batch, index, _ in loader:
            drawn += 1
            yield for_the_step(trainer, module, batch)
            if index + 1 >= trainer.num_training_batches:
                break
        if not drawn:
            raise SparsityError("The training data holds no batch. Check the dataloader and its `drop_last`.")


def _copied(loader: Any) -> Any:
    """Return a dataloader over the same data that shares no position with the original."""
    if isinstance(loader, DataLoader):
        again = copy.copy(loader)
        again._iterator = None  # workers that persist belong to training
        if isinstance(loader.dataset, IterableDataset) and loader.num_workers == 0:
            vars(again)["dataset"] = _copy_or_warn(loader.dataset)  # in workers it is a copy already
        return again
    return _copy_or_warn(loader)


def _copy_or_warn(data: Any) -> Any:
    try:
        return copy.deepcopy(data)
    except Exception as error:  # whatever others wrote
        rank_zero_warn(
            f"{type(data).__name__} cannot be copied ({error}): if it keeps a position in itself, training "
            "starts after the batches that the scores were taken on."
        )
        return data


@contextmanager
def _plainly(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Run a step in the dtypes of ``precision``, but not in mixed ones, and not compiled."""
    eager = torch.compiler.set_stance("force_eager")
    no_autocast = torch.autocast(module.device.type, enabled=False)
    with eager, trainer.precision_plugin.train_step_context(), no_autocast:
        yield


def _count_arguments(module: LightningModule) -> int:
    """Count the arguments of ``training_step``: with or without the batch's index."""
    parameters = inspect.signature(module.training_step).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return 2
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _checked(output: Any, source: str) -> Tensor:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise SparsityError(
            f"`{source}` must return a loss of one number, or a dict with one under 'loss', got {found}. "
            "Give `PruneAtInit` a `loss_fn(module, batch)`."
        )
    return loss.squeeze()
