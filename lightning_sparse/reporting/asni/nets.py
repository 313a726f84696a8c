"""The nets of a finished ASNI run: what is kept of each layer, and the weights that are not zero."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray
from torch import Tensor

from lightning_sparse.functional.centroids import centroids
from lightning_sparse.reporting.asni.runs import ASNI, Part, best, masks_of
from lightning_sparse.reporting.layers import LayerCount, count_layers
from lightning_sparse.reporting.runs import Checkpoint

__all__ = ["Layer", "Net", "layers_of", "net_of", "write_table"]

Net: TypeAlias = dict[str, NDArray[Any]]
"""The weights of each layer that are not zero, flat, by the layer's name."""

COLUMNS = ("layer", "weights", "non-zeros", "sparsity %", "c_plus", "c_minus")


@dataclass(frozen=True)
class Layer:
    """A layer of the sparse net.

    Args:
        parameter: Name of its weight.
        count: How many of its weights are kept.
        centroids: ``(c_plus, c_minus)``, the means of its positive and of its negative survivors when the
            search ends; ``None`` where there is no checkpoint of the run that searched.
    """

    parameter: str
    count: LayerCount
    centroids: tuple[float, float] | None


def layers_of(parts: Sequence[Part]) -> list[Layer]:
    """Return the layers of the sparse net: of A if its search is over, else of C, of A as it stands, of S."""
    found = [part for variant in ("A", "C", "S") if (part := best(parts, variant)) is not None]
    for part in sorted(found, key=lambda part: (part.variant == "S", not part.finished)):
        if part.checkpoint is not None and (masks := masks_of(part.checkpoint)):
            means = _centroids(part.checkpoint, masks)
            counts = count_layers(masks, masks)
            return [Layer(name, count, means.get(name)) for name, count in zip(masks, counts, strict=True)]
    return []


def net_of(checkpoint: Checkpoint, layers: Sequence[Layer]) -> Net | str:
    """Return the weights of a checkpoint in these layers, or why they cannot be shown."""
    weights = checkpoint.weights([layer.parameter for layer in layers])
    for layer in layers:
        weight = weights.get(layer.parameter)
        if weight is None or tuple(weight.shape) != layer.count.shape:
            return (
                f"{checkpoint.path} is of another net: no {layer.parameter!r} of shape {layer.count.shape}."
            )
        if not weight.isfinite().all():
            return f"{layer.parameter!r} is not finite in {checkpoint.path}."
    net = {layer.count.name: _not_zero(weights[layer.parameter]) for layer in layers}
    return net if any(map(len, net.values())) else f"all weights are zero in {checkpoint.path}."


def write_table(path: Path, layers: Sequence[Layer]) -> None:
    """Write the layers as CSV: weights, non-zeros, sparsity in percent, centroids (appendix B)."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for layer in layers:
            count, means = layer.count, layer.centroids
            plus_minus = ("", "") if means is None else (f"{mean:.9g}" for mean in means)
            sparsity = f"{100 * (1 - count.density):.4f}"
            writer.writerow([count.name, count.weights, count.kept, sparsity, *plus_minus])


def _centroids(checkpoint: Checkpoint, masks: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Return the centroids: stored when the search ended, or of the weights of a search."""
    state = checkpoint.callbacks.get(ASNI)
    if state is None:
        return {}
    means = state["centroids"] or centroids(checkpoint.weights(masks), masks)
    return {name: (float(plus), float(minus)) for name, (plus, minus) in means.items()}


def _not_zero(weight: Tensor) -> NDArray[Any]:
    values: NDArray[Any] = weight[weight != 0].float().numpy()
    return values
