"""Files of sparse fine-tuning: what was trained beside a net that others have."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import nn

from lightning_sparse.checks import SparsityError, check_kind, check_patterns
from lightning_sparse.files.adapter_content import AdaptedLayer, adapter_of, from_file, tensors_of, to_file
from lightning_sparse.files.adapter_fit import parts_by_name, refuse_other_net, refuse_unadapted
from lightning_sparse.files.tensors import read_tensors, write_tensors
from lightning_sparse.layers.base import DensePlusSparse, compact_layers
from lightning_sparse.layers.conversion import replace_layers_
from lightning_sparse.layers.convertible import Convertible
from lightning_sparse.layers.offsets import PretrainedOffset
from lightning_sparse.layers.support import index_dtype
from lightning_sparse.selection.names import did_you_mean, matches

__all__ = ["load_adapter", "save_adapter"]

_KIND, _VERSION = "adapter", 1


def save_adapter(module: nn.Module, path: str | Path, *, buffers: Sequence[str] = ("*",)) -> None:
    """Write what sparse fine-tuning has made of a net to a file; the net itself stays where it was.

    The file, in the safetensors format, holds

    - the values of each layer converted with the offset ``"pretrained"``, in their dtype, and their positions
      in about as few bits as these can have (9.4 each at 0.4%). Where a support was drawn and has not moved,
      a seed takes the place of positions;
    - all other parameters that are trained (``requires_grad``), whole: biases, a new head. So freeze what is
      not trained;
    - the module's persistent buffers, since training may have changed them: running statistics of batch norms
      follow the new data even if nothing else of the layer is trained;
    - a checksum of everything else, frozen weights above all, by which `load_adapter` knows the net again.

    In a LightningModule the net has a name before its own, such as ``model.``. Save ``module.model`` if it
    will be loaded into the bare net. With several processes, one of them writes.

    Args:
        module: A net with such layers, of any sparse support: drawn, scored or moved.
        path: Its folder is made if it is not there.
        buffers: Patterns (``fnmatch``) of the buffers to hold. Of the others the file has checksums, as of
            frozen weights: leave out large ones that never change.

    Raises:
        SparsityError: If the module has no such layer, has layers with another offset, holds tensors without
            values, a pattern matches nothing, or no file can be written there.

    Examples:
        See `load_adapter`.
    """
    check_kind("module", module, nn.Module)
    check_patterns("buffers", buffers)
    refuse_unadapted(module)
    _refuse_unmatched(module, buffers)
    write_tensors(*to_file(adapter_of(module, buffers)), path, _KIND, _VERSION)


def load_adapter(module: nn.Module, path: str | Path) -> list[str]:
    """Give a net what sparse fine-tuning has made of another one with the same weights.

    Its layers are converted as those were, with the offset ``"pretrained"``, and its output is then that of
    the net that was saved, to the bit: for the same input on the same machine. Everything is checked before
    anything is changed.

    What was trained is trained again (``requires_grad``), all else is frozen: the module can be trained on or
    saved again. An adapter that was loaded before is replaced, if it has the same layers.

    Args:
        module: The net that the adapter was trained from, with the weights of then; before an optimizer is
            made.
        path: A file of `save_adapter`.

    Returns:
        Names of the layers that have a sparse part now.

    Raises:
        SparsityError: If the file is no adapter, newer, damaged or not there; or if the module is another
            net: it lacks a layer, or a frozen weight is not what it was. It names the layer.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning_sparse import convert_
        >>> net = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10)).requires_grad_(False)
        >>> weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        >>> _ = convert_(net, density=0.01, offset="pretrained", include=["*.weight"])
        >>> _ = net[0].values.data.normal_()  # in the place of training
        >>> other = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10))
        >>> _ = other.load_state_dict(weights)
        >>> with TemporaryDirectory() as folder:
        ...     save_adapter(net, f"{folder}/mine.safetensors")
        ...     load_adapter(other, f"{folder}/mine.safetensors")
        ['0', '2']
        >>> torch.equal(net(torch.ones(1, 784)), other(torch.ones(1, 784)))
        True
    """
    check_kind("module", module, nn.Module)
    adapter = from_file(*read_tensors(path, _KIND, _VERSION))
    refuse_other_net(module, adapter)
    parts, before = parts_by_name(module), compact_layers(module)
    plain = {
        f"{name}.weight": cast(Convertible, parts[name]) for name in adapter.layers if name not in before
    }
    supports = {f"{name}.weight": layer.support for name, layer in adapter.layers.items()}
    replace_layers_(module, plain, supports, torch.Generator(), offset=PretrainedOffset())
    for name, tensor in tensors_of(module)[0].items():
        found = adapter.trained.get(name, adapter.buffers.get(name))
        if found is not None:
            tensor.data.copy_(found)
        if isinstance(tensor, nn.Parameter):
            tensor.requires_grad_(name in adapter.trained)
    for name, layer in compact_layers(module).items():
        _take_(layer, adapter.layers[name])
    return list(adapter.layers)


def _refuse_unmatched(module: nn.Module, buffers: Sequence[str]) -> None:
    names = [name for name, found in tensors_of(module)[0].items() if not isinstance(found, nn.Parameter)]
    for pattern in buffers:
        if pattern != "*" and not any(matches(name, pattern) for name in names):
            raise SparsityError(
                f"`buffers` must match persistent buffers, got {pattern!r}. Leave it out."
                f"{did_you_mean(pattern, names)}"
            )


def _take_(layer: DensePlusSparse, adapted: AdaptedLayer) -> None:
    """Give a layer the values and positions of a file, whatever it had."""
    device = layer.values.device
    layer.values.data, layer.values.grad = adapted.values.to(device), None
    layer.values.requires_grad_(adapted.trained)
    layer.indices = adapted.support.to(device, index_dtype(layer.shape.numel()))
    layer.backend, layer.drawn = adapted.backend, adapted.draw
