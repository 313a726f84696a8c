"""Modules whose parameters change their sizes."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["resize_"]


def resize_(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put parameters and buffers of other sizes into a module; its layers say their new sizes.

    Args:
        module: Changed in place.
        tensors: By name; a bias may be new to its layer.
    """
    changed = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
    for name, tensor in tensors.items():
        path, _, key = name.rpartition(".")
        layer = module.get_submodule(path)
        if key in layer._buffers:
            layer._buffers[key] = tensor
        else:
            old = layer._parameters.get(key)
            trained = layer.weight.requires_grad if old is None else old.requires_grad
            layer._parameters[key] = nn.Parameter(tensor, bool(trained))
    for path in changed:
        for attribute, size in _sizes(module.get_submodule(path)):
            setattr(module.get_submodule(path), attribute, size)


def _sizes(layer: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield what a layer of PyTorch's says about its own size, read off its tensors."""
    if isinstance(layer, nn.Linear):
        yield "out_features", layer.weight.shape[0]
        yield "in_features", layer.weight.shape[1]
    elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        outputs, inputs = layer.weight.shape[:2]
        depthwise = layer.groups > 1 and inputs == 1
        if depthwise:
            yield "groups", outputs // (layer.out_channels // layer.in_channels)
        yield "out_channels", outputs
        yield "in_channels", inputs * layer.groups  # of the new number of groups, which comes first
    elif isinstance(layer, _BatchNorm):
        yield "num_features", next(iter([*layer.parameters(), *layer.buffers()])).shape[0]
    elif isinstance(layer, nn.PReLU):
        yield "num_parameters", layer.weight.shape[0]
