"""What callbacks would make of a net: its layers, what they will store, and compute in theory."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from torch import Tensor, nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.layers.offsets import Offset
from lightning_sparse.layers.work import offset_work
from lightning_sparse.reporting.cost import LayerCost, cost_table, planned_bytes, planned_storage
from lightning_sparse.reporting.flops import FlopCount, NetFlops, count_flops
from lightning_sparse.reporting.products import Flops
from lightning_sparse.selection import layer_name
from lightning_sparse.types import Budgets

__all__ = ["CallbackPlan", "NetPlan", "PlannedInput", "plan_layers"]

WIDTH = 110
_AT_AN_INPUT = """\
of one forward pass at that input, in theory (of a convolution: at every position of its output): mn, pmn, and
q log2 q + pmn with q = max(m, n), times how often the m x n matrix is applied"""
_OF_ONE_PRODUCT = """\
of one matrix-vector product in theory (of a convolution: at one position, as no input is known): mn, pmn, and
q log2 q + pmn with q = max(m, n)"""
_LEGEND = """\
The tables follow from shapes alone; nothing here is measured. Bytes: values and positions, and a pretrained
weight beside them; of a masked weight all values, and its mask. Dense, sparse and DCTpS are multiply-adds
{counted}. Below the floor log2(q) / min(m, n), DCTpS hardly gets cheaper. Masks save no time: PyTorch
multiplies masked weights as dense ones."""
_STAYS_DENSE = "No sparsity callback: the net stays dense."


@dataclass(frozen=True)
class PlannedInput:
    """An input that FLOPs are to be counted at.

    Args:
        value: What is passed to the net; ``None`` if that is not known.
        source: What it is called in errors.
        must_fit: Whether somebody asked for it; what was only found need not fit.
        way: How one is named.
    """

    value: Any
    source: str = "example_input"
    must_fit: bool = False
    way: str = "input_size=(1, 3, 224, 224)"

    def count(self, module: nn.Module, names: Collection[str]) -> tuple[FlopCount | None, str]:
        """Count FLOPs of a module, if the input is known and fits; else say what is to be done about it."""
        if self.value is None:
            return None, f"FLOPs of the whole net: name an input, {self.way} (the batch first)."
        try:
            return count_flops(module, self.value, names, self.source), ""
        except SparsityError as error:
            if self.must_fit:
                raise
            return None, f"FLOPs are not counted: {error} Or name {self.way}."


@dataclass(frozen=True)
class CallbackPlan:
    """What one callback would do.

    Attributes:
        callback: Its name and arguments; "" where there is none, and the net stays dense.
        layers: What becomes sparse, layer by layer; nothing of a callback that moves what another one makes.
        kept: How many weights of all these are kept, known even where scores will share them out.
        flops: FLOPs of the whole net; ``None`` without an input.
        note: Why there are none; "" where there are some, or no layers.
    """

    callback: str
    layers: tuple[LayerCost, ...] = ()
    kept: int = 0
    flops: NetFlops | None = None
    note: str = ""

    def __str__(self) -> str:
        lines = [self.callback or _STAYS_DENSE]
        if self.layers:
            lines += [cost_table(self.layers, self.kept), str(self.flops or self.note)]
        return "\n".join(lines)


@dataclass(frozen=True)
class NetPlan:
    """What each callback would do to a net; prints as tables, with the meaning of their columns."""

    parts: tuple[CallbackPlan, ...]

    def __str__(self) -> str:
        is_counted = any(part.flops for part in self.parts)
        legend = _LEGEND.format(counted=_AT_AN_INPUT if is_counted else _OF_ONE_PRODUCT)
        return "\n\n".join([*map(str, self.parts), fill(legend, WIDTH)])


def plan_layers(
    callback: str,
    module: nn.Module,
    weights: Mapping[str, Tensor],
    budgets: Budgets | None,
    kept: int,
    offset: Offset | None,
    at: PlannedInput,
    on_cpu: bool,
) -> CallbackPlan:
    """Work out what a callback would do, from shapes alone.

    Args:
        callback: Its name and arguments; "" for a net that stays dense.
        module: The net.
        weights: What becomes sparse, by name.
        budgets: How many weights of each are kept; those that are missing will follow from scores.
            ``None``: nothing becomes sparse.
        kept: How many are kept in all.
        offset: The fixed dense part of the layers that will hold the weights; ``None`` for masks.
        at: Where FLOPs are counted.
        on_cpu: Whether it will be trained there, where masks take more memory.
    """
    count, note = at.count(module, weights)
    shares = {name: weight.numel() for name, weight in weights.items()} if budgets is None else budgets
    costs = []
    for name, weight in weights.items():
        share, size = shares.get(name), weight.numel()
        stored = weight.nbytes if budgets is None else planned_bytes(weight, share, offset, on_cpu)
        storage = "dense" if budgets is None else planned_storage(offset)
        times = count.weights[name].forward / (2 * size) if count and name in count.weights else 1.0
        costs.append(LayerCost(layer_name(name), tuple(weight.shape), share, storage, stored, times))
    flops = count.net(_in_theory(count, weights, shares, offset)) if count else None
    return CallbackPlan(callback, tuple(costs), kept, flops, note)


def _in_theory(
    count: FlopCount, weights: Mapping[str, Tensor], budgets: Budgets, offset: Offset | None
) -> dict[str, Flops] | None:
    """Return the FLOPs of the sparse weights; ``None`` if scores will decide."""
    if budgets.keys() != weights.keys():
        return None
    found = {}
    for name, flops in count.weights.items():
        size = weights[name].numel()
        work = offset_work(offset, weights[name].shape) if offset else 0.0
        found[name] = flops.scaled(budgets[name] / size, work / size)
    return found
