"""Layers that are replaced before optimizers exist, and must stay what they were then."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import partial
from itertools import chain
from typing import Any

from torch import Tensor

from lightning_sparse.callbacks.company import refuse_averaged_supports
from lightning_sparse.callbacks.converting.converted import refuse_other_positions
from lightning_sparse.checks import SparsityError
from lightning_sparse.layers import materialize_
from lightning_sparse.layers.conversion import convert_alike_
from lightning_sparse.layers.copies import converted_copies
from lightning_sparse.selection import layer_name, plain_name
from lightning_sparse.trainer.packages import LightningModule, Trainer
from lightning_sparse.trainer.parts import averaged_copies, before_restoring, builds_layers_late
from lightning_sparse.trainer.processes import leave_out_of_broadcasts_, positions_of_rank_zero
from lightning_sparse.types import Budgets
from lightning_sparse.weights.compact import support_keys
from lightning_sparse.weights.found import sparse_weights

__all__ = ["Converter"]


class Converter:
    """Replaces layers in a stage's setup, and checks that checkpoints and processes have the same ones.

    Args:
        callback: Name of the callback that it works for.

    Attributes:
        counts: Number of values in each layer, by the name of its weight; as the checkpoint has them once one
            is loaded.
    """

    def __init__(self, callback: str) -> None:
        self.callback = callback
        self.counts: Budgets = {}
        self._decided = False
        self._copies: dict[str, str] = {}

    def prepare(
        self,
        trainer: Trainer,
        module: LightningModule,
        convert: Callable[[bool], Iterable[str]],
        *,
        fitting: bool,
        by_data: bool,
    ) -> None:
        """Replace the layers: now, or after ``configure_model``, right before a checkpoint is loaded.

        Args:
            trainer: In setup.
            module: Its module.
            convert: Replaces layers and returns the names of their weights. It is told whether the arguments
                decide what the layers are, rather than a checkpoint that is loaded next.
            fitting: Whether the stage is fit; in others the arguments decide nothing.
            by_data: Whether weights or data decide, which are there only after the module's own ``setup``:
                then a checkpoint is asked first, if one is loaded.
        """
        if fitting:
            refuse_averaged_supports(self.callback, trainer)
        act = partial(self.replace_, trainer, module, convert)
        if by_data or builds_layers_late(module):
            before_restoring(trainer, lambda loads: act(fitting and not (by_data and loads)))
        else:
            act(fitting)

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        """Take down which frozen layers are copies, to be kept alike."""
        self.take_up(trainer, module)
        self._copies = converted_copies(module)

    def take_up(self, trainer: Trainer, module: LightningModule) -> None:
        """Take rank 0's supports: each rank has drawn from the seed of its own process, if none was given."""
        for net in (module, *averaged_copies(trainer)) if trainer.world_size > 1 else ():
            for weight in sparse_weights(net).values():
                if not weight.takes_masks:
                    weight.move_(positions_of_rank_zero(trainer, weight), trainer.optimizers)

    def end_epoch(self, module: LightningModule) -> None:
        """Check that frozen copies still have the support of the layers that they are copies of."""
        refuse_other_positions(self._copies, module)

    def check_checkpoint(self, checkpoint: Mapping[str, Any], fitting: bool) -> None:
        """Refuse layers that the checkpoint lacks, and to resume with another number of values.

        The layers have the checkpoint's number by now: right for a test, not what fit's arguments say.
        """
        weights = {plain_name(key): value for key, value in checkpoint["state_dict"].items()}
        _refuse_missing_layers(self.callback, self.counts, weights)
        if fitting and self._decided:
            _refuse_other_counts(self.counts, weights)

    def replace_(
        self,
        trainer: Trainer,
        module: LightningModule,
        convert: Callable[[bool], Iterable[str]],
        decides: bool,
    ) -> None:
        """Replace the layers now, and do what comes with it; the arguments are those of `prepare`."""
        self._decided = decides
        if next(module.parameters(), None) is None:
            raise SparsityError(
                f"{self.callback} must find the layers when it is set up, got {type(module).__name__} "
                "without any. Make them in `__init__` or `configure_model`, not in `setup`."
            )
        names = list(convert(decides))
        if any(tensor.is_meta for tensor in chain(module.parameters(), module.buffers())):
            materialize_(module)
        for copy in averaged_copies(trainer):  # of the net as it was before
            convert_alike_(copy, module)
        weights = sparse_weights(module)
        self.counts = {name: weights[name].nnz for name in names if name in weights}
        leave_out_of_broadcasts_(module, support_keys(module))

    def __getstate__(self) -> dict[str, Any]:
        return deepcopy(vars(self))


def _refuse_missing_layers(callback: str, names: Iterable[str], weights: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint without the values or the positions of a layer; modules may be lenient."""
    for layer in map(layer_name, names):
        lacks = [part for part in ("values", "indices") if f"{layer}.{part}" not in weights]
        if lacks:
            raise SparsityError(
                f"The checkpoint lacks the {' and '.join(lacks)} of the converted layer {layer!r}. Use "
                f"another checkpoint, or leave {callback} out for one of dense layers."
            )


def _refuse_other_counts(counts: Budgets, weights: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint with other numbers of values in layers than ``counts``."""
    for name, count in counts.items():
        saved = weights[f"{layer_name(name)}.values"]
        if len(saved) != count:
            raise SparsityError(
                f"Layer {layer_name(name)!r} has {count} values, but {len(saved)} in the checkpoint. Resume "
                "with the arguments that the checkpoint was made with."
            )
