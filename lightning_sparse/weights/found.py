"""All sparse weights of a module, however they are stored."""

from torch import nn

from lightning_sparse import weights
from lightning_sparse.registry import modules_in
from lightning_sparse.weights.base import STORAGES, SparseWeight

__all__ = ["sparse_weights"]

modules_in(weights.__name__, weights.__path__)  # every storage registers itself


def sparse_weights(module: nn.Module) -> dict[str, SparseWeight]:
    """Return the masked weights and the weights of compact layers, by name; there may be none.

    Args:
        module: Any module.

    Returns:
        One `SparseWeight` per weight; of each storage in the order of masks or layers.

    Examples:
        >>> from lightning_sparse.layers import convert_
        >>> net = nn.Sequential(nn.Linear(20, 10), nn.Linear(10, 5))
        >>> _ = convert_(net, 0.1, include=["0"])
        >>> {name: (weight.storage_name, weight.nnz) for name, weight in sparse_weights(net).items()}
        {'0.weight': ('compact', 20)}
    """
    found = (weight for storage in STORAGES.values() for weight in storage.found_in(module))
    return {weight.name: weight for weight in found}
