import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import DEVICES
from layers_toy import BACKENDS

from lightning_sparse.layers import DCTOffset, DensePlusSparse, DensePlusSparseConv2d, DensePlusSparseLinear

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
    with pytest.raises(ValueError, match=r"`patch_order` must be one of \('hwc', 'chw'\), got 'whc'"):
        DCTOffset("whc")  # type: ignore[arg-type]
