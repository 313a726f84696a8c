"""The nets of golden case `models_forward`: weights by rule from their names, logits of the authors' code."""

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lightning_sparse.layers import DensePlusSparseConv2d, DensePlusSparseLinear, compact_layers

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "models_forward.npz"))
SEED = 71
IMAGES = torch.from_numpy(GOLDEN["x"])


def fill_dense_(net: nn.Module, gain: float = 1.0) -> None:
    """Give an ordinary net the weights that the rule says, rounded to float32."""
    state = {name: _tensor(name, t.shape, gain) for name, t in net.state_dict().items()}
    net.load_state_dict(state)


def fill_compact_(net: nn.Module, gain: float = 1.0) -> None:
    """Give a converted net weights, supports and alphas by the rule, under the names of the authors' code."""
    layers = compact_layers(net)
    for name, tensor in net.state_dict().items():
        if name.rpartition(".")[0] not in layers:
            tensor.copy_(_tensor(name, tensor.shape, gain))
    for path, layer in layers.items():
        part = f"{path}.{'linear' if isinstance(layer, DensePlusSparseLinear) else 'conv'}"
        mask = _rng(f"{part}.weight#mask").random_sample(layer.shape.numel()) < 0.05
        indices = torch.from_numpy(mask.nonzero()[0])
        values = _tensor(f"{part}.weight", layer.shape, gain).flatten()[indices]
        state = {
            "indices": indices,
            "values": values,
            "alpha": _tensor(f"{path}.scaling", torch.Size(), gain),
        }
        if layer.bias is not None:
            state["bias"] = _tensor(f"{part}.bias", layer.bias.shape, gain)
        layer.load_state_dict(layer.state_dict() | state)
        assert layer.nnz == mask.sum()
        assert isinstance(layer, (DensePlusSparseConv2d, DensePlusSparseLinear))


def logits(net: nn.Module) -> Tensor:
    with torch.no_grad():
        return net.double().eval()(IMAGES.double())


def relative_error(result: Tensor, case: str) -> float:
    expected = torch.from_numpy(GOLDEN[f"{case}.logits_eval_f64"])
    return float((result - expected).abs().max() / expected.abs().max())


def _rng(name: str) -> np.random.RandomState:
    return np.random.RandomState((zlib.crc32(name.encode()) + SEED) % 2**32)


def _tensor(name: str, shape: torch.Size, gain: float) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    z = _rng(name).standard_normal(shape.numel()).reshape(shape)
    last = name.rpartition(".")[2]
    if len(shape) == 4:
        z = z * np.sqrt(2 / np.prod(shape[1:])) * gain
    elif len(shape) == 2:
        z = z * np.sqrt(1 / shape[1])
    elif "bias" in last or last == "running_mean":
        z = 0.1 * z
    elif last == "running_var":
        z = np.exp(0.1 * z)
    else:  # norm weights, Fixup scales, alphas
        z = (1 + 0.1 * z) * (gain if last == "scaling" else 1)
    return torch.from_numpy(np.asarray(z, dtype=np.float32))
