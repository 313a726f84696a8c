from typing import Any

import pytest
import torch
from layers_toy import BACKENDS, CONVOLUTIONS, OFFSETS, convolution, dense_twin, inputs_of, linear, results
from torch import Tensor

from lightning_sparse.layers import DensePlusSparse, DensePlusSparseConv2d, DensePlusSparseLinear, NoOffset

OPTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": (2, 3), "padding": (0, 1), "stride": (2, 1)},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": (2, 4), "padding": "same"},
    {"kernel_size": (2, 4), "padding": "same", "padding_mode": "circular"},
    {"kernel_size": 3, "padding": "valid"},
    {"kernel_size": 3, "padding": (1, 2), "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"},
    {"kernel_size": 3, "groups": 2, "padding": 1, "dilation": (1, 2)},
    {"kernel_size": 3, "groups": 4, "stride": 2, "bias": False},
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2, "padding": (1, 0)},
    {"kernel_size": 1, "groups": 2},
    {"kernel_size": (1, 5), "bias": False},
    {"dimensions": 1, "kernel_size": 3},
    {"dimensions": 1, "kernel_size": 5, "padding": 2, "stride": 2},
    {"dimensions": 1, "kernel_size": 3, "padding": "same", "dilation": 3},
    {"dimensions": 1, "kernel_size": 4, "padding": "same", "padding_mode": "circular"},
    {"dimensions": 1, "kernel_size": (2,), "padding": "valid", "stride": (3,)},
    {"dimensions": 1, "kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
    {"dimensions": 1, "kernel_size": 3, "padding": (1,), "padding_mode": "replicate", "groups": 2},
    {"dimensions": 1, "kernel_size": 4, "groups": 4, "stride": 2, "bias": False},
    {"dimensions": 1, "kernel_size": 1},
    {"dimensions": 1, "kernel_size": 1, "stride": 2, "padding": 1, "bias": False},
    {"dimensions": 1, "kernel_size": 1, "groups": 2},
    {"dimensions": 3, "kernel_size": 2},
    {"dimensions": 3, "kernel_size": (1, 3, 2), "padding": (2, 0, 1), "stride": (1, 2, 3)},
    {"dimensions": 3, "kernel_size": (3, 1, 2), "padding": "same", "dilation": (1, 2, 3)},
    {"dimensions": 3, "kernel_size": (2, 1, 3), "padding": "same", "padding_mode": "circular"},
    {"dimensions": 3, "kernel_size": (2, 3, 1), "padding": "valid", "bias": False},
    {"dimensions": 3, "kernel_size": 2, "padding": (2, 0, 1), "padding_mode": "reflect"},
    {"dimensions": 3, "kernel_size": (1, 2, 3), "padding": 1, "padding_mode": "replicate"},
    {"dimensions": 3, "kernel_size": 2, "groups": 2, "padding": 1, "dilation": (1, 2, 1)},
    {"dimensions": 3, "kernel_size": (3, 1, 1), "groups": 4, "stride": (2, 1, 1)},
    {"dimensions": 3, "kernel_size": 1},
    {"dimensions": 3, "kernel_size": 1, "stride": (1, 2, 3), "padding": (1, 0, 2)},
    {"dimensions": 3, "kernel_size": 1, "groups": 2},
]
LAYOUTS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def compare_with_dense(layer: DensePlusSparse, x: Tensor, tolerance: float) -> None:
    """The compact layer does what the ordinary layer of the same weight does, gradients included."""
    compact, dense = results(layer, x), results(dense_twin(layer), x)
    expected = {"y": dense["y"], "x": dense["x"], "values": dense["weight"].flatten()[layer.indices.long()]}
    if layer.bias is not None:
        expected["bias"] = dense["bias"]
    scales = {name: tensor.norm().clamp(min=1) for name, tensor in expected.items()}
    if layer.alpha is not None:
        matrix = layer.offset.matrix(layer.shape, layer.values.dtype, layer.values.device)
        expected["alpha"] = (dense["weight"] * matrix).sum()
        scales["alpha"] = dense["weight"].norm() * matrix.norm()  # the sum may cancel
    assert compact.keys() == expected.keys()
    for name, tensor in expected.items():
        assert compact[name].dtype == tensor.dtype
        error = (compact[name] - tensor).norm() / scales[name]
        assert error < tolerance, (name, float(error))


@pytest.mark.parametrize("offset", OFFSETS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k", [0, 1, 20, 60, 340])
def test_linear_gradcheck(backend: str, offset: Any, k: int) -> None:
    layer = linear(k=k, backend=backend, offset=offset)
    x = torch.randn(5, 20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


@pytest.mark.parametrize("offset", OFFSETS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_convolution_gradcheck(options: dict[str, Any], backend: str, offset: Any) -> None:
    layer = convolution(backend=backend, offset=offset, **options)
    x = inputs_of(layer.dimensions, batch=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()), fast_mode=True)


@pytest.mark.parametrize("offset", OFFSETS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("shape", [(6, 20), (20,), (2, 3, 20), (0, 20), (2, 0, 20)])
def test_linear_is_the_dense_layer(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float, backend: str, offset: Any
) -> None:
    for bias in (True, False):
        for k in (0, 9, 200):
            layer = linear(k=k, dtype=dtype, backend=backend, offset=offset, bias=bias)
            x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
            if not x.numel():
                assert layer(x).shape == (*shape[:-1], 17)
                assert results(layer, x)["values"].eq(0).all()
            else:
                compare_with_dense(layer, x, tolerance)


@pytest.mark.parametrize("offset", OFFSETS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # nn.Conv2d's own
def test_convolution_is_the_dense_layer(
    options: dict[str, Any], dtype: torch.dtype, tolerance: float, backend: str, offset: Any
) -> None:
    layer = convolution(dtype=dtype, backend=backend, offset=offset, **options)
    x = inputs_of(layer.dimensions, dtype=dtype)
    compare_with_dense(layer, x, tolerance)
    compare_with_dense(layer, x[0], tolerance)
    compare_with_dense(layer, x.to(memory_format=LAYOUTS[layer.dimensions]), tolerance)
    assert layer(x[:0]).shape == (0, *layer(x).shape[1:])
    assert results(layer, x[:0])["values"].eq(0).all()


@pytest.mark.parametrize("q", [64, 509, 784, 2049])
def test_backends_agree_on_larger_layers(q: int) -> None:
    for m, n, k in [(q, q, 3 * q), (q, q // 2, q), (q // 3, q, q * q // 60)]:
        results_of = {}
        for backend in BACKENDS:
            layer = linear(n, m, k, torch.float32, backend=backend)
            x = torch.randn(32, n, generator=torch.Generator().manual_seed(2))
            results_of[backend] = results(layer, x)
        gradient = results(dense_twin(layer), x)["weight"]
        matrix = layer.offset.matrix(layer.shape, torch.float32, torch.device("cpu"))
        for name, tensor in results_of["materialize"].items():
            # Alpha's gradient is a sum that cancels: what is rounded are its terms.
            size = gradient.norm() * matrix.norm() if name == "alpha" else tensor.norm()
            error = (results_of["transform"][name] - tensor).norm() / size
            limit = 3e-8 if name == "alpha" else 1e-6
            assert error < limit, (m, n, k, name, float(error))


def test_frozen_tensors_get_no_gradient() -> None:
    for backend in BACKENDS:
        layer = linear(backend=backend, alpha_requires_grad=False)
        x = torch.randn(5, 20, dtype=torch.float64)
        layer(x).sum().backward()
        assert layer.alpha.grad is None
        layer.values.requires_grad_(False)
        x.requires_grad_()
        layer(x).sum().backward()
        torch.testing.assert_close(x.grad, layer.weight.detach().sum(0).expand(5, -1))


def test_repr_tells_the_arguments() -> None:
    assert repr(DensePlusSparseLinear(20, 10, torch.arange(4))) == (
        "DensePlusSparseLinear(in_features=20, out_features=10, bias=True, nnz=4 (0.02 of 200), "
        "offset=DCTOffset(patch_order='hwc'), backend='auto')"
    )
    layer = DensePlusSparseConv2d(4, 8, 3, torch.arange(4), padding="same", groups=2, offset=NoOffset())
    assert repr(layer) == (
        "DensePlusSparseConv2d(4, 8, kernel_size=(3, 3), padding='same', groups=2, bias=True, nnz=4 "
        "(0.0278 of 144), offset=NoOffset(), backend='auto')"
    )
    volumes = convolution(dimensions=3, kernel_size=(1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 0))
    assert repr(volumes).startswith(
        "DensePlusSparseConv3d(4, 8, kernel_size=(1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 0), bias=True"
    )
    assert repr(convolution(dimensions=1, kernel_size=1, stride=1, padding=0)).startswith(
        "DensePlusSparseConv1d(4, 8, kernel_size=(1,), bias=True"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out_features": 0}, "`out_features` must be an integer of at least 1, got 0"),
        ({"in_features": True}, "`in_features` must be an integer of at least 1, got True"),
        ({"bias": "no"}, "`bias` must be True or False, got 'no'"),
        ({"alpha": float("inf")}, "`alpha` must be finite, got inf"),
        ({"alpha_requires_grad": 1}, "`alpha_requires_grad` must be True or False, got 1"),
        ({"offset": "dft"}, "got 'dft'; did you mean dct?"),
        ({"backend": "fft"}, "`backend` must be one of auto, kernels, materialize, transform, got 'fft'"),
        (
            {"indices": torch.tensor([0, 0])},
            "`indices` must be distinct positions from 0 to 11, got 2 from 0 to 0",
        ),
        ({"indices": torch.tensor([12])}, "`indices` must be distinct positions from 0 to 11, got 1 from 12"),
        ({"indices": torch.tensor([-1])}, "`indices` must be distinct positions from 0 to 11, got 1 from -1"),
        ({"indices": torch.tensor([0.0])}, "`indices` must be a vector of int32 or int64, got"),
    ],
)
def test_wrong_arguments_of_linear(arguments: dict[str, Any], message: str) -> None:
    usual = {"in_features": 4, "out_features": 3, "indices": torch.arange(3)}
    with pytest.raises(ValueError, match=message):
        DensePlusSparseLinear(**(usual | arguments))


@pytest.mark.parametrize("dimensions", CONVOLUTIONS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 0}, "`kernel_size` must be an integer of at least 1, got 0"),
        ({"groups": 3}, "`groups` must divide 4 input and 8 output channels, got 3"),
        ({"padding": "some"}, "`padding` must be 'same', 'valid' or numbers, got 'some'"),
        ({"padding": -1}, "`padding` must be an integer of at least 0, got -1"),
        ({"padding": "same", "stride": 2}, r"`padding='same'` must come with `stride=1`, got \(2,"),
        (
            {"kernel_size": (3,) * 4},
            r"`kernel_size` must be one number, or one for each of \d sides, got \(3, ",
        ),
        ({"padding": (1,) * 4}, r"`padding` must be one number, or one for each of \d sides, got \(1, 1"),
        ({"padding_mode": "zero"}, "`padding_mode` must be one of zeros, reflect, replicate, circular, got"),
    ],
)
def test_wrong_arguments_of_convolutions(arguments: dict[str, Any], message: str, dimensions: int) -> None:
    usual = {"in_channels": 4, "out_channels": 8, "kernel_size": 3, "indices": torch.arange(3)}
    with pytest.raises(ValueError, match=message):
        CONVOLUTIONS[dimensions](**(usual | arguments))


def test_wrong_inputs() -> None:
    with pytest.raises(ValueError, match=r"`input` must end in 20 features, got shape \(3, 19\)"):
        linear()(torch.zeros(3, 19))
    layer = convolution(kernel_size=3, dilation=2)
    with pytest.raises(
        ValueError, match=r"`input` must be \(N, 4, H, W\) or \(4, H, W\), got \(1, 5, 6, 6\)"
    ):
        layer(torch.zeros(1, 5, 6, 6, dtype=torch.float64))
    for dimensions, text in ((1, "N, 4, L"), (3, "N, 4, D, H, W")):
        other = convolution(dimensions=dimensions, kernel_size=1)
        for wrong in (
            torch.zeros(2, 3, *[5] * dimensions),
            torch.zeros(5),
            torch.zeros(1, *inputs_of(dimensions).shape),
        ):
            with pytest.raises(ValueError, match=rf"`input` must be \({text}\) or \({text[3:]}\), got"):
                other(wrong.double())
    with pytest.raises(ValueError, match=r"`input` must be at least as large as the kernel, got \(4, 6\)"):
        layer(torch.zeros(1, 4, 4, 6, dtype=torch.float64))
