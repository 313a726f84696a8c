"""Smaller nets read back into the class that they are of."""

from collections.abc import Mapping

from torch import Tensor, nn

from lightning_sparse.checks import SparsityError, check_kind
from lightning_sparse.export.units.sizes import resize_
from lightning_sparse.files.reading import Source, read_dict

__all__ = ["load_small_"]


def load_small_(module: nn.Module, path: Source) -> nn.Module:
    """Make a net as small as a file of the format ``dense-small``, and give it the weights in there.

    Args:
        module: A net of the class that was exported, with its full sizes; changed in place. Make optimizers
            after it, if the net is to be trained further.
        path: The file.

    Returns:
        The module, in eval mode: that is what the file is of.

    Raises:
        SparsityError: If there is no such file, or it is of another net; nothing is changed then.

    Examples:
        >>> import tempfile, torch
        >>> from lightning_sparse.export import export
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> torch.nn.init.zeros_(net[0].weight[:2].data)
        tensor([[0., 0., 0., 0.],
                [0., 0., 0., 0.]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = export(net, f"{folder}/net", "dense-small", example_input=torch.zeros(1, 4))
        ...     load_small_(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), file)[0]
        Linear(in_features=4, out_features=1, bias=True)
    """
    check_kind("module", module, nn.Module)
    state = read_dict(path, "path")
    there = dict(module.state_dict())
    _refuse_other(module, there, state)
    changed = {n: t for n, t in state.items() if n not in there or t.shape != there[n].shape}
    resize_(module, {name: _like(module, name, tensor) for name, tensor in changed.items()})
    module.load_state_dict(state)
    return module.eval()


def _refuse_other(module: nn.Module, there: Mapping[str, object], state: Mapping[str, object]) -> None:
    wrong = [name for name in there if name not in state]
    wrong += [name for name, value in state.items() if not _fits(module, there, name, value)]
    if wrong or not state:
        names = (
            f"{wrong[0]!r} and {len(wrong) - 1} more" if len(wrong) > 1 else repr((wrong or ["nothing"])[0])
        )
        raise SparsityError(
            f"`path` must be a file of the format 'dense-small' of {type(module).__name__}, got one that "
            f"does not fit at {names}. Make the net with the arguments that it was trained with."
        )


def _fits(module: nn.Module, there: Mapping[str, object], name: str, value: object) -> bool:
    """Tell whether a tensor is as large as that of the module, or smaller; a bias may be new to its layer."""
    if name not in there:
        path, _, key = name.rpartition(".")
        layers = dict(module.named_modules())
        return key == "bias" and path in layers and layers[path]._parameters.get(key, 0) is None
    old = there[name]
    if not isinstance(old, Tensor) or not isinstance(value, Tensor):
        return isinstance(old, Tensor) == isinstance(value, Tensor)
    return old.dim() == value.dim() and all(a >= b for a, b in zip(old.shape, value.shape, strict=True))


def _like(module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Return a tensor of the same size on the device and in the type that the module has there."""
    path, _, key = name.rpartition(".")
    layer = module.get_submodule(path)
    tensors = {**layer._parameters, **layer._buffers}
    old = tensors.get(key)
    like = tensors["weight"] if old is None else old
    return tensor if like is None else tensor.to(like.device, like.dtype)
