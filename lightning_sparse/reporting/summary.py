"""How sparse a net is now, layer by layer: what it stores, as measured, and what it computes, in theory."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from lightning_sparse.checks import SparsityError, check_kind
from lightning_sparse.reporting.flops import (
    ExampleInput,
    FlopCount,
    NetFlops,
    count_flops,
    input_of_size,
)
from lightning_sparse.reporting.layers import render_table
from lightning_sparse.reporting.products import Flops
from lightning_sparse.selection import layer_name, plain_name
from lightning_sparse.trainer.packages import is_lightning
from lightning_sparse.weights.base import SparseWeight
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.masked import weights_by_zeros

__all__ = ["BytesInFile", "LayerSummary", "NetSummary", "summary"]

_HEADER = ("layer", "shape", "weights", "kept", "density", "stored as", "bytes")
_OF_FLOPS = ("forward FLOPs", "in theory")


@dataclass(frozen=True)
class LayerSummary:
    """One weight.

    Attributes:
        name: Of its layer.
        shape: Of the whole weight.
        weights: Number of its entries.
        kept: How many of them are active: kept by a mask, trained in a compact layer, else not zero.
        storage: ``"masked"``, ``"compact"`` or ``"dense"``; of compact layers with a fixed dense part that
            comes first, as in ``"dct + compact"``.
        stored: Bytes in memory of its values, of positions or mask, and of a fixed dense part that is stored.
        values: Bytes of the values: what optimizers hold.
        base: Bytes of a fixed dense part that is stored.
        dense_flops: FLOPs of the dense layer at the input, as torch counts them; ``None`` without an input.
        sparse_flops: The same in theory as the layer is: by its density, and the work of a fixed dense part.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    storage: str
    stored: int
    values: int = 0
    base: int = 0
    dense_flops: Flops | None = None
    sparse_flops: Flops | None = None

    @property
    def density(self) -> float:
        """Share of the entries that are active; 1 where there are none."""
        return self.kept / self.weights if self.weights else 1.0

    @property
    def positions(self) -> int:
        """Bytes of positions, or of what is kept of a mask."""
        return self.stored - self.values - self.base


@dataclass(frozen=True)
class BytesInFile:
    """What else takes up room in the file that a net was read from.

    Args:
        whole: Size of the file.
        others: Of other weights and buffers.
        optimizers: Of what optimizers keep.
    """

    whole: int
    others: int = 0
    optimizers: int = 0

    def __str__(self) -> str:
        rest = {"of other weights and buffers": self.others, "of optimizer states": self.optimizers}
        words = ", ".join(f"{size:,} {what}" for what, size in rest.items() if size)
        return f"{words}{'; ' if words else ''}{self.whole:,} in all"


@dataclass(frozen=True)
class NetSummary:
    """All linear and convolutional weights of a net, and all that are sparse; prints as a table.

    Attributes:
        layers: The weights, in the order of the net.
        flops: FLOPs of the whole net; ``None`` without an input.
        note: Why there are none, though the module has an example of its input; mostly "".
        file: What else is in the file that the net was read from: the layers' bytes are those in it.
            ``None``: they are those in memory.
    """

    layers: tuple[LayerSummary, ...]
    flops: NetFlops | None = None
    note: str = ""
    file: BytesInFile | None = None

    @property
    def total(self) -> LayerSummary:
        """All layers together; its FLOPs are those of the layers, not of what is beside them."""
        storages = ", ".join(dict.fromkeys(layer.storage for layer in self.layers))
        names = ("weights", "kept", "stored", "values", "base")
        weights, kept, stored, values, base = (
            sum(getattr(one, name) for one in self.layers) for name in names
        )
        flops = [_sum(getattr(one, name) for one in self.layers) for name in ("dense_flops", "sparse_flops")]
        return LayerSummary("total", (), weights, kept, storages, stored, values, base, *flops)

    def __str__(self) -> str:
        if not self.layers:
            return "No linear or convolutional weights."
        with_flops = self.flops is not None
        bytes_where = _HEADER[-1] if self.file is None else "in the file"
        header = (*_HEADER[:-1], bytes_where, *(_OF_FLOPS if with_flops else ()))
        rows = [_cells(layer, with_flops) for layer in self.layers]
        lines = [
            render_table(header, rows, _cells(self.total, with_flops)),
            _bytes_in_words(self.total, self.file),
        ]
        return "\n".join(
            [*lines, *([str(self.flops)] if with_flops else []), *([self.note] if self.note else [])]
        )


def summary(
    module: nn.Module,
    input_size: Sequence[int] | None = None,
    *,
    example_input: ExampleInput | None = None,
) -> NetSummary:
    """Say how sparse a net is now: entries, kept ones, density, storage and bytes; at an input FLOPs too.

    Masks are counted where there are any; weights without one by their entries that are not zero. Bytes are
    those in memory: masked weights take more than dense ones. Dense FLOPs are counted by torch on a pass of a
    dense copy in eval mode, forward and backward; sparse ones are theory. The module stays as it is.

    Args:
        module: Any module.
        input_size: Shape of the input, the batch's size first, such as ``(1, 3, 224, 224)``: a tensor of the
            parameters' type.
        example_input: The input itself, where it is another: a tensor, a tuple of arguments, or a dict of
            them by name. Without either, a LightningModule's ``example_input_array`` is taken if it has one.

    Raises:
        SparsityError: If both are given, or the net cannot be run with it.

    Examples:
        >>> from lightning_sparse import sparsify_
        >>> net = nn.Sequential(nn.Linear(20, 10), nn.Linear(10, 5))
        >>> _ = sparsify_(net, "erk", density=0.1)
        >>> report = summary(net, (1, 20))
        >>> report.total.kept, report.total.weights, report.layers[0].storage
        (25, 250, 'masked')
        >>> report.flops.dense.forward, report.flops.sparse.forward
        (500, 50.0)
    """
    check_kind("module", module, nn.Module)
    found = sparse_weights(module)
    others = [weight for weight in weights_by_zeros(module) if weight.name not in found]
    rows = {weight.name: _summarise(weight, weight.stored_as) for weight in found.values()}
    rows |= {weight.name: _summarise(weight, "dense") for weight in others}
    count, note = _count(module, rows, input_size, example_input)
    sparse = _in_theory(rows, found, count) if count else {}
    place = {plain_name(path): i for i, (path, _) in enumerate(module.named_modules())}
    layers = tuple(
        replace(rows[name], dense_flops=count.weights[name].scaled(1.0), sparse_flops=sparse[name])
        if count and name in sparse
        else rows[name]
        for name in sorted(rows, key=lambda name: place[name.rpartition(".")[0]])
    )
    return NetSummary(layers, count.net(sparse) if count else None, note)


def _count(
    module: nn.Module,
    names: Collection[str],
    input_size: Sequence[int] | None,
    example_input: ExampleInput | None,
) -> tuple[FlopCount | None, str]:
    """Count FLOPs at the input that there is; where nobody asked for them, say why that cannot be."""
    if input_size is not None and example_input is not None:
        raise SparsityError("`input_size` must come without `example_input`, got both. Leave one out.")
    if input_size is not None:
        return count_flops(module, input_of_size(module, input_size), names, "input_size"), ""
    if example_input is not None:
        return count_flops(module, example_input, names), ""
    own = module.example_input_array if is_lightning(module, "core.LightningModule") else None
    try:
        return (None if own is None else count_flops(module, own, names, "example_input_array")), ""
    except SparsityError as error:
        return None, f"FLOPs are not counted: {error}"


def _in_theory(
    rows: Mapping[str, LayerSummary], found: Mapping[str, SparseWeight], count: FlopCount
) -> dict[str, Flops]:
    offsets = {name: weight.offset_work / weight.shape.numel() for name, weight in found.items()}
    return {
        name: flops.scaled(rows[name].density, offsets.get(name, 0.0))
        for name, flops in count.weights.items()
    }


def _summarise(weight: SparseWeight, storage: str) -> LayerSummary:
    values, base = weight.parameter.nbytes, 0 if weight.base is None else weight.base.nbytes
    size, shape = weight.shape.numel(), tuple(weight.shape)
    return LayerSummary(
        layer_name(weight.name), shape, size, weight.nnz, storage, weight.stored, values, base
    )


def _sum(flops: Iterable[Flops | None]) -> Flops | None:
    there = [one for one in flops if one is not None]
    if not there:
        return None
    trained = [one.training for one in there if one.training is not None]
    return Flops(sum(one.forward for one in there), sum(trained) if trained else None)


def _cells(layer: LayerSummary, with_flops: bool) -> tuple[str, ...]:
    shape = " x ".join(map(str, layer.shape))
    numbers = (f"{layer.weights:,}", f"{layer.kept:,}", f"{layer.density:.4%}")
    flops = ["" if one is None else f"{one.forward:,.0f}" for one in (layer.dense_flops, layer.sparse_flops)]
    stored = (layer.storage, f"{layer.stored:,}")
    return (layer.name, shape, *numbers, *stored, *(flops if with_flops else ()))


def _bytes_in_words(total: LayerSummary, file: BytesInFile | None) -> str:
    base = f", {total.base:,} of fixed dense parts" if total.base else ""
    where, rest = ("", "") if file is None else (" in the file", f"; {file}")
    words = f"{total.values:,} of values, {total.positions:,} of positions and masks{base}{rest}"
    return f"Bytes{where}, measured: {words}."
