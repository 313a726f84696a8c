"""Which layers multiply with a matrix of their own, and by what name they hold it.

Those of PyTorch are known by their classes. Some packages have linear layers that inherit from none of them:
they are known by module and name, so that nothing has to be imported.
"""

from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

__all__ = ["SPARSE_LAYERS", "is_sparse_layer", "matrices_of", "output_dim"]

SPARSE_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
"""PyTorch's own, which hold it as ``weight``."""

_LAYERS_ELSEWHERE = {
    "transformers.pytorch_utils.Conv1D": 1,  # (in, out)
    "transformers.modeling_utils.Conv1D": 1,  # where older versions have it
    "torch_geometric.nn.dense.linear.Linear": 0,  # (out, in)
    "torch_geometric.nn.dense.linear.HeteroLinear": 2,  # (types, in, out)
}
"""Layers of other packages that hold it as ``weight``, and the dimension of it that counts outputs."""

_EXPERTS = "transformers.models.*Experts"
"""Mixtures of experts: one matrix an expert, stacked in three dimensions; their order differs by model."""

_MATRICES_OF_EXPERTS = ("weight", "gate_up_proj", "gate_proj", "up_proj", "down_proj")


def is_sparse_layer(layer: nn.Module) -> bool:
    """Tell whether a layer is linear or convolutional: its matrices are selected without being named."""
    return bool(matrices_of(layer))


def matrices_of(layer: nn.Module) -> tuple[str, ...]:
    """Return by what names a linear or convolutional layer holds its matrices; of others nothing.

    >>> matrices_of(nn.Conv2d(3, 8, 3)), matrices_of(nn.LSTM(3, 4))
    (('weight',), ())
    """
    if isinstance(layer, SPARSE_LAYERS) or any(name in _LAYERS_ELSEWHERE for name in _class_names(layer)):
        return ("weight",)
    if not any(fnmatchcase(name, _EXPERTS) for name in _class_names(layer)):
        return ()
    held = {name: layer._parameters.get(name) for name in _MATRICES_OF_EXPERTS}
    return tuple(
        name
        for name, weight in held.items()
        if weight is not None and not isinstance(weight, UninitializedParameter) and weight.ndim == 3
    )


def output_dim(layer: nn.Module) -> int:
    """Return the dimension of a layer's weight that counts its outputs: 0 but for few layers.

    A layer that is no child of PyTorch's and is called ``Conv1D`` is taken for a copy of transformers' if its
    bias, or ``nf`` in their words, counts the second dimension of its matrix.

    Of experts that are stacked in one tensor it is 0 as well, the expert: how a model orders the other two
    dimensions cannot be told from shapes.

    >>> output_dim(nn.Linear(3, 8)), output_dim(nn.ConvTranspose2d(3, 8, 3))
    (0, 1)
    """
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return 1  # (in, out / groups, *kernel)
    if isinstance(layer, SPARSE_LAYERS):
        return 0
    known = (_LAYERS_ELSEWHERE[name] for name in _class_names(layer) if name in _LAYERS_ELSEWHERE)
    return next(known, 1 if _is_copy_of_conv1d(layer) else 0)


def _is_copy_of_conv1d(layer: nn.Module) -> bool:
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if not any(kind.__name__ == "Conv1D" for kind in type(layer).__mro__):
        return False
    if not isinstance(weight, Tensor) or isinstance(weight, UninitializedParameter) or weight.ndim != 2:
        return False
    outputs = weight.shape[1]
    return getattr(layer, "nf", None) == outputs or (isinstance(bias, Tensor) and bias.shape == (outputs,))


def _class_names(layer: nn.Module) -> list[str]:
    """Return module and name of a layer's class, and of all it inherits from."""
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(layer).__mro__]
