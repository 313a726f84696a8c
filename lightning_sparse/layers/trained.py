"""What an optimizer has to hold of Dense-plus-Sparse layers."""

from torch import nn

from lightning_sparse.layers.base import compact_layers

__all__ = ["trained_parameters"]


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the values and alphas of Dense-plus-Sparse layers that are not frozen, by name.

    >>> from lightning_sparse.layers import convert_
    >>> net = nn.Sequential(nn.Linear(20, 10))
    >>> _ = convert_(net, 0.1, alpha_requires_grad=False)
    >>> list(trained_parameters(net))
    ['0.values']
    """
    return {
        f"{path}.{name}" if path else name: parameter
        for path, layer in compact_layers(module).items()
        for name, parameter in (("values", layer.values), ("alpha", layer.alpha))
        if parameter is not None and parameter.requires_grad and parameter.numel()
    }
