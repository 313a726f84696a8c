"""Weights whose connections can move, masked or stored compactly, behind one interface."""

from torch import nn

from lightning_sparse.layers import compact_layers
from lightning_sparse.weights.base import Connections
from lightning_sparse.weights.compact import CompactWeight
from lightning_sparse.weights.masked import MaskedWeight
from lightning_sparse.weights.state import state_of

__all__ = ["movable"]


def movable(module: nn.Module) -> dict[str, Connections]:
    """Return the masked weights and the Dense-plus-Sparse layers of a module by name of the weight."""
    state = state_of(module)
    masked = {name: MaskedWeight(name, mask, state) for name, mask in state.masks.items()}
    layers = {f"{path}.weight": layer for path, layer in compact_layers(module).items()}
    return {**masked, **{name: CompactWeight(name, layer) for name, layer in layers.items()}}
