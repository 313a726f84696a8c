import copy
import io
import json
import math
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import DEVICES
from layers_toy import BACKENDS, dense_twin, fill_, results
from torch import Tensor, nn

from lightning_sparse.layers import (
    DCTOffset,
    DensePlusSparse,
    DensePlusSparseConv2d,
    DensePlusSparseLinear,
    NoOffset,
    convert_,
)
from lightning_sparse.layers.offsets import OFFSETS, Offset, OffsetOptions, register_offset
from lightning_sparse.layers.offsets.state import OFFSET_KEY, offset_from_state, offset_state

GOLDEN = Path(__file__).parents[1] / "golden"
CASE: dict[str, Any] = json.loads((GOLDEN / "dct_modules.json").read_text())
ARRAYS = {key: torch.from_numpy(array) for key, array in np.load(GOLDEN / "dct_modules.npz").items()}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def golden_layer(spec: dict[str, Any], backend: str) -> DensePlusSparse:
    arrays = {key: ARRAYS[f"{spec['name']}.{key}"] for key in ("sparse_weight", "alpha")}
    indices = arrays["sparse_weight"].flatten().nonzero().flatten()
    options = {"alpha": float(arrays["alpha"]), "bias": spec["bias"], "backend": backend}
    if spec["type"] == "linear":
        layer: Any = DensePlusSparseLinear(spec["in_features"], spec["out_features"], indices, **options)
    else:
        options |= {key: spec[key] for key in ("stride", "padding", "groups")}
        layer = DensePlusSparseConv2d(spec["cin"], spec["cout"], spec["kernel"], indices, **options)
    layer.values.data.copy_(arrays["sparse_weight"].flatten()[indices])
    if spec["bias"]:
        layer.bias.data.copy_(ARRAYS[f"{spec['name']}.bias"])
    return layer


@pytest.mark.parametrize("spec", CASE["layers"], ids=[spec["name"] for spec in CASE["layers"]])
def test_the_offset_is_that_of_the_reference_code(spec: dict[str, Any]) -> None:
    expected = ARRAYS[f"{spec['name']}.dct_weight"]
    matrix = DCTOffset().matrix(expected.shape, torch.float32, torch.device("cpu"))
    assert (matrix - expected).abs().max() < 1e-6
    assert DCTOffset().norm(expected.shape) == pytest.approx(float(expected.norm()), rel=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("spec", CASE["layers"], ids=[spec["name"] for spec in CASE["layers"]])
def test_outputs_and_gradients_are_those_of_the_reference_code(
    spec: dict[str, Any], backend: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    golden = {key.partition(".")[2]: a for key, a in ARRAYS.items() if key.startswith(spec["name"] + ".")}
    layer = golden_layer(spec, backend).to(device)
    x = golden["x"].clone().to(device).requires_grad_()
    y = layer(x)
    (y * golden["r"].to(device)).sum().backward()
    values = golden["grad_sparse_weight_dense"].flatten()[layer.indices.long().cpu()]
    pairs = [(y, "y"), (x.grad, "grad_x"), (layer.alpha.grad, "grad_alpha"), (layer.values.grad, values)]
    if spec["bias"]:
        pairs.append((layer.bias.grad, "grad_bias"))
    for result, expected in pairs:
        expected = golden[expected] if isinstance(expected, str) else expected
        torch.testing.assert_close(result.detach().cpu(), expected, atol=1e-4, rtol=1e-5)


def test_patches_are_read_in_the_order_height_width_channel() -> None:
    kernel = DCTOffset().matrix(torch.Size((1, 2, 1, 3)), torch.float64, torch.device("cpu"))
    flat = DCTOffset().matrix(torch.Size((1, 6)), torch.float64, torch.device("cpu"))
    assert torch.equal(kernel[0, 1, 0], flat[0, 1::2])


def test_or_in_the_order_of_the_weight_itself() -> None:
    kernel = DCTOffset("chw").matrix(torch.Size((1, 2, 1, 3)), torch.float64, torch.device("cpu"))
    flat = DCTOffset().matrix(torch.Size((1, 6)), torch.float64, torch.device("cpu"))
    assert torch.equal(kernel.flatten(), flat.flatten())


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match="`patch_order` must be one of hwc, chw, got 'whc'"):
        DCTOffset("whc")  # type: ignore[arg-type]


# An offset of one's own: one class.


@pytest.fixture
def ones() -> Iterator[type[Offset]]:
    """An offset without a fast transform, as a user would write it."""

    @register_offset
    @dataclass(frozen=True)
    class Ones(Offset):
        name = "ones"

        size: float = 0.1

        def options(self, shape: torch.Size) -> OffsetOptions:
            return {"size": self.size}

        def matrix(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
            return torch.full(shape, self.size, dtype=dtype, device=device)

        def transform(self, *args: Any) -> None:
            return None

        def transform_time(self, shape: torch.Size, rows: int, threads: int) -> float:
            return math.inf

        def norm(self, shape: torch.Size) -> float:
            return self.size * math.sqrt(math.prod(shape))

    yield Ones
    OFFSETS.pop("ones", None)


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
def test_a_registered_offset_is_converted_to_by_name(ones: Any, backend: str) -> None:
    net = nn.Sequential(nn.Linear(20, 17), nn.Conv2d(4, 8, 3))
    norms = [layer.weight.norm() for layer in net]
    convert_(net, 0.2, offset="ones", alpha="match_norm", backend=backend)
    for layer, norm in zip(net, norms, strict=True):
        assert layer.offset == ones(0.1)
        torch.testing.assert_close(layer.weight.norm(), norm)
    fill_(net)
    for layer, x in ((net[0], torch.randn(3, 20)), (net[1], torch.randn(2, 4, 5, 6))):
        compact, dense = results(layer, x), results(dense_twin(layer), x)
        torch.testing.assert_close(compact["y"], dense["y"])
        torch.testing.assert_close(compact["x"], dense["x"])
        torch.testing.assert_close(compact["alpha"], 0.1 * dense["weight"].sum(), rtol=1e-4, atol=1e-4)


def test_a_name_belongs_to_one_offset(ones: Any) -> None:
    with pytest.raises(ValueError, match="`name` must be new, got 'dct'"):
        register_offset(type("Other", (ones,), {"name": "dct"}))


# What a checkpoint says of the offset.


def test_weights_do_not_load_with_another_offset(ones: Any) -> None:
    nets = {}
    for offset in (DCTOffset(), NoOffset(), ones(0.1), ones(0.2)):
        nets[offset] = nn.Sequential(nn.Linear(4, 4))
        convert_(nets[offset], 0.5, offset=offset)
    for ours, net in nets.items():
        for theirs, other in nets.items():
            if ours == theirs:
                net.load_state_dict(other.state_dict())
                continue
            names = [f"{offset.name}({'size=' * (offset.name == 'ones')}" for offset in (theirs, ours)]
            with pytest.raises(
                RuntimeError, match=r".*".join(["0: `offset` must be", *map(re.escape, names)])
            ):
                net.load_state_dict(other.state_dict(), strict=False)


def test_options_that_make_no_difference_do_not_matter() -> None:
    layers = [DensePlusSparseLinear(4, 4, torch.arange(3), offset=DCTOffset(o)) for o in ("hwc", "chw")]
    layers[0].load_state_dict(layers[1].state_dict())
    kernels = [DensePlusSparseConv2d(4, 4, 1, torch.arange(3), offset=DCTOffset(o)) for o in ("hwc", "chw")]
    kernels[0].load_state_dict(kernels[1].state_dict())


@pytest.mark.parametrize("offset", [DCTOffset(), DCTOffset("chw"), NoOffset()], ids=str)
def test_a_state_gives_the_offset_back(offset: Any) -> None:
    layer = DensePlusSparseConv2d(4, 8, 3, torch.arange(5), offset=offset, device="meta")
    state = layer.state_dict()[OFFSET_KEY]
    assert (state.dtype, state.device.type) == (torch.uint8, "cpu")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    assert offset_from_state(torch.load(buffer, weights_only=True)) == offset
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.half()):
        assert torch.equal(twin.state_dict()[OFFSET_KEY], state)
    assert OFFSET_KEY not in dict(layer.named_buffers())


def test_a_state_of_an_unknown_offset(ones: Any) -> None:
    state = offset_state(ones(0.2), torch.Size((4, 4)))
    assert offset_from_state(state) == ones(0.2)
    del OFFSETS["ones"]
    with pytest.raises(
        ValueError, match="`offset` must be one of dct, hadamard, none, signed_dct, got 'ones'"
    ):
        offset_from_state(state)
    layer = DensePlusSparseLinear(4, 4, torch.arange(3))
    with pytest.raises(RuntimeError, match=r"must be ones\(size=0\.2\), .* got a layer with dct\(\)"):
        layer.load_state_dict(layer.state_dict() | {OFFSET_KEY: state})
    for damaged in (torch.tensor([1, 2], dtype=torch.uint8), torch.tensor(3), state[:-1]):
        with pytest.raises(ValueError, match="`offset` must be described by name and options, got tensor"):
            offset_from_state(damaged)


def test_a_state_without_its_offset_is_incomplete() -> None:
    layer = DensePlusSparseLinear(4, 4, torch.arange(3))
    state = layer.state_dict()
    del state[OFFSET_KEY]
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict(state)
    layer.load_state_dict(state, strict=False)
