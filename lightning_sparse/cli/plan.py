"""What ``lightning-sparse plan`` prints: layers, how they will be stored, and what they will cost."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_sparse.callbacks.converting.base import Conversion
from lightning_sparse.callbacks.sparsifier import Sparsifier
from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.inputs import example_input
from lightning_sparse.layers.offsets import NoOffset, Offset
from lightning_sparse.layers.work import offset_work
from lightning_sparse.reporting.cost import LayerCost, cost_table, planned_bytes, planned_storage
from lightning_sparse.reporting.flops import count_flops
from lightning_sparse.selection import layer_name, select_weights
from lightning_sparse.trainer.packages import LightningDataModule, LightningModule
from lightning_sparse.types import Budgets

__all__ = ["LEGEND", "FlopsAtInput", "plan_of"]

LEGEND = """\
The tables follow from shapes alone; nothing here is measured. Bytes: values and positions, and a pretrained
weight beside them; of a masked weight all values, and its mask. Dense, sparse and DCTpS are multiply-adds of
one matrix-vector product in theory (of a convolution: at one position): mn, pmn, and q log2 q + pmn with q =
max(m, n); below the floor log2(q) / min(m, n), DCTpS hardly gets cheaper. Masks save no time: PyTorch
multiplies masked weights as dense ones."""


@dataclass(frozen=True)
class FlopsAtInput:
    """Where FLOPs of a plan are counted.

    Args:
        model: The module.
        inputs: What is passed to it; ``None`` if that is not known.
        source: Where it comes from; what the user named must fit.
    """

    model: LightningModule
    inputs: Any
    source: str

    @classmethod
    def of(
        cls, model: LightningModule, data: LightningDataModule | None, size: list[int] | None
    ) -> "FlopsAtInput":
        """Take the size that was asked for, else the module's own example, else one image of the data."""
        return cls(model, *example_input(model, data, size))

    def in_words(
        self, weights: dict[str, nn.Parameter], budgets: Budgets | None, offset: Offset | None
    ) -> str:
        """Return the lines on FLOPs: of the dense net, and in theory with these budgets."""
        if self.inputs is None:
            return "FLOPs of the whole net: name an input, --input_size=[1, 3, 224, 224] (the batch first)."
        try:
            count = count_flops(self.model, self.inputs, weights, self.source)
        except SparsityError as error:
            if self.source == "input_size":
                raise
            return f"FLOPs are not counted: {error} Or name --input_size."
        if budgets is None:
            return str(count.net(None))
        sizes = {name: weight.numel() for name, weight in weights.items()}
        work = {name: offset_work(offset, w.shape) if offset else 0.0 for name, w in weights.items()}
        sparse = {
            name: flops.scaled(budgets[name] / sizes[name], work[name] / sizes[name])
            for name, flops in count.weights.items()
        }
        return str(count.net(sparse))


def plan_of(model: LightningModule, callback: Sparsifier | None, flops: FlopsAtInput, on_cpu: bool) -> str:
    """Return the table of the layers that a callback makes sparse, with FLOPs; "" if others select them."""
    weights = callback.select(model) if callback else select_weights(model)
    if not weights:
        return ""
    shapes = {name: weight.shape for name, weight in weights.items()}
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    budgets = callback.planned_budgets(shapes) if callback else sizes
    kept, by_score = sum(budgets.values()), budgets.keys() != sizes.keys()
    if callback is not None and by_score:
        kept = callback.planned_total(sum(sizes.values()))  # scores will share it out
    offset, costs = _offset_of(callback), []
    for name, weight in weights.items():
        share = budgets.get(name)
        storage = planned_storage(offset) if callback else "dense"
        stored = planned_bytes(weight, share, offset, on_cpu) if callback else weight.nbytes
        costs.append(LayerCost(layer_name(name), tuple(weight.shape), share, storage, stored))
    words = flops.in_words(weights, None if by_score else budgets, offset)
    return f"{cost_table(costs, kept)}\n{words}"


def _offset_of(callback: Sparsifier | None) -> Offset | None:
    """Return the fixed dense part of the layers that will hold the weights; ``None`` for masks."""
    if isinstance(callback, Conversion):
        return callback.offset
    return NoOffset() if callback is not None and callback.storage == "compact" else None
