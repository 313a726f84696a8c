"""How sparse a net is now, layer by layer."""

from dataclasses import dataclass

from torch import nn

from lightning_sparse.checks import check_kind
from lightning_sparse.reporting.layers import render_table
from lightning_sparse.selection import layer_name, plain_name
from lightning_sparse.weights.base import SparseWeight
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.masked import weights_by_zeros

__all__ = ["LayerSummary", "NetSummary", "summary"]

_HEADER = ("layer", "shape", "weights", "kept", "density", "stored as", "bytes")


@dataclass(frozen=True)
class LayerSummary:
    """One weight.

    Attributes:
        name: Of its layer.
        shape: Of the whole weight.
        weights: Number of its entries.
        kept: How many of them are active: kept by a mask, trained in a compact layer, else not zero.
        storage: ``"masked"``, ``"compact"`` or ``"dense"``.
        stored: Bytes of its values, and of positions, in memory.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    storage: str
    stored: int

    @property
    def density(self) -> float:
        """Share of the entries that are active; 1 where there are none."""
        return self.kept / self.weights if self.weights else 1.0


@dataclass(frozen=True)
class NetSummary:
    """All linear and convolutional weights of a net, and all that are sparse; prints as a table."""

    layers: tuple[LayerSummary, ...]

    @property
    def total(self) -> LayerSummary:
        """All layers together."""
        storages = " + ".join(dict.fromkeys(layer.storage for layer in self.layers))
        sums = [sum(getattr(layer, name) for layer in self.layers) for name in ("weights", "kept", "stored")]
        return LayerSummary("total", (), sums[0], sums[1], storages, sums[2])

    def __str__(self) -> str:
        if not self.layers:
            return "No linear or convolutional weights."
        return render_table(_HEADER, [_cells(layer) for layer in self.layers], _cells(self.total))


def summary(module: nn.Module) -> NetSummary:
    """Say how sparse a net is now: entries, kept ones, density, how they are stored, and bytes in memory.

    Masks are counted where there are any; weights without one by their entries that are not zero. Masked
    weights take the memory of dense ones: see ``stored``.

    Args:
        module: Any module.

    Examples:
        >>> from lightning_sparse import sparsify_
        >>> net = nn.Sequential(nn.Linear(20, 10), nn.Linear(10, 5))
        >>> _ = sparsify_(net, "erk", density=0.1)
        >>> report = summary(net)
        >>> report.total.kept, report.total.weights, report.layers[0].storage
        (25, 250, 'masked')
    """
    check_kind("module", module, nn.Module)
    found = sparse_weights(module)
    others = [weight for weight in weights_by_zeros(module) if weight.name not in found]
    layers = [
        *(_summarise(weight, weight.storage_name) for weight in found.values()),
        *(_summarise(weight, "dense") for weight in others),
    ]
    place = {plain_name(path): i for i, (path, _) in enumerate(module.named_modules())}
    return NetSummary(tuple(sorted(layers, key=lambda layer: place.get(layer.name, len(place)))))


def _summarise(weight: SparseWeight, storage: str) -> LayerSummary:
    size = weight.shape.numel()
    return LayerSummary(
        layer_name(weight.name), tuple(weight.shape), size, weight.nnz, storage, weight.stored
    )


def _cells(layer: LayerSummary) -> tuple[str, ...]:
    shape = " x ".join(map(str, layer.shape))
    numbers = (f"{layer.weights:,}", f"{layer.kept:,}", f"{layer.density:.4%}")
    return (layer.name, shape, *numbers, layer.storage, f"{layer.stored:,}")
