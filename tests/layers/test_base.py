import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layers_toy import BACKENDS, CONVOLUTIONS, convolution, dense_twin, inputs_of, linear, results
from torch import Tensor, nn

from lightning_sparse.layers import DensePlusSparseConv2d, DensePlusSparseLinear, NoOffset
from lightning_sparse.layers.support import draw_support


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_the_weight_is_differentiable_and_read_only() -> None:
    layer = linear()
    target = torch.randn(17, 20, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *_: (layer.weight * target).sum(), (layer.values, layer.alpha))
    (layer.weight * target).sum().backward()
    assert torch.equal(layer.values.grad, target.flatten()[layer.indices.long()])
    for other in (target, nn.Parameter(target)):
        with pytest.raises((AttributeError, KeyError)):
            layer.weight = other


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_dense_gradient_is_made_only_when_asked_for(backend: str) -> None:
    for layer, x in [
        (linear(backend=backend), torch.randn(6, 20, dtype=torch.float64)),
        *(
            (convolution(backend=backend, dimensions=d, kernel_size=3, groups=2), inputs_of(d))
            for d in CONVOLUTIONS
        ),
    ]:
        layer(x).sum().backward()
        with pytest.raises(RuntimeError, match="`dense_grad` must follow `ask_for_dense_grad`"):
            layer.dense_grad()
        layer.ask_for_dense_grad()
        expected = results(dense_twin(layer), x)["weight"]
        results(layer, x)
        torch.testing.assert_close(layer.dense_grad(), expected)
        results(layer, x)
        torch.testing.assert_close(layer.dense_grad(), 2 * expected)  # passes add up
        taken: list[Tensor] = []
        layer.ask_for_dense_grad(taken.append)
        results(layer, x)
        torch.testing.assert_close(taken, [expected])
        layer.forget_dense_grad()
        results(layer, x)
        assert len(taken) == 1
        assert layer.dense_gradient.total is None


def test_the_dense_gradient_may_be_asked_for_after_the_forward_pass() -> None:
    layer, x = linear(), torch.ones(3, 20, dtype=torch.float64)
    loss = layer(x).sum()
    layer.ask_for_dense_grad()
    loss.backward()
    assert layer.dense_grad().eq(3).all()


def test_a_dense_gradient_comes_out_of_the_weight_too() -> None:
    layer = linear()
    layer.ask_for_dense_grad()
    (2 * layer.weight).sum().backward()
    assert layer.dense_grad().eq(2).all()


def test_moving_the_support_keeps_values_that_stay() -> None:
    layer = DensePlusSparseLinear(4, 3, torch.tensor([1, 5, 9]))
    layer.values.data.copy_(torch.tensor([1.0, 2.0, 3.0]))
    parameter = layer.values
    before = layer(torch.eye(4)).clone()
    places = layer.move_(torch.tensor([9, 0, 5]))
    assert places.tolist() == [-1, 1, 2]
    assert layer.indices.tolist() == [0, 5, 9]
    assert layer.values is parameter
    assert layer.values.tolist() == [0, 2, 3]
    expected = before.clone()
    expected[1, 0] -= 1
    torch.testing.assert_close(layer(torch.eye(4)), expected)
    for wrong in ([0, 1], [0, 1, 12], [0, 1, 1]):
        with pytest.raises(ValueError, match="`indices` must be"):
            layer.move_(torch.tensor(wrong))


def test_support_counts_and_names() -> None:
    layer = convolution(kernel_size=3, groups=2)
    mask = layer.support()
    assert (mask.shape, mask.dtype, int(mask.sum())) == ((8, 2, 3, 3), torch.bool, layer.nnz)
    assert torch.equal(mask.flatten().nonzero().flatten(), layer.indices.long())
    assert list(layer.state_dict()) == ["values", "alpha", "bias", "indices", "_extra_state"]
    assert list(linear(offset=NoOffset(), bias=False).state_dict()) == ["values", "indices", "_extra_state"]


def test_indices_are_int32_where_that_is_enough() -> None:
    small = DensePlusSparseLinear(4, 3, torch.tensor([5, 1]), device="meta")
    large = DensePlusSparseLinear(2**16, 2**16, torch.tensor([2**32 - 1]), device="meta")
    assert (small.indices.dtype, large.indices.dtype) == (torch.int32, torch.int64)


@pytest.mark.parametrize(
    ("make", "sides"),
    [
        (lambda: linear(), (2, 4, 6, 20)),
        (lambda: convolution(kernel_size=3, padding="same"), (2, 4, 6, 20)),
        (lambda: convolution(dimensions=1, kernel_size=3, padding="same"), (2, 4, 20)),
        (lambda: convolution(dimensions=3, kernel_size=3, padding="same"), (2, 4, 3, 6, 5)),
    ],
)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_independent_and_leave_caches_behind(
    make: Any, sides: tuple[int, ...], copied: Any
) -> None:
    layer = make()
    x = torch.randn(sides, dtype=torch.float64)
    y = layer(x)
    size = len(pickle.dumps(make()))
    assert abs(len(pickle.dumps(layer)) - size) < 200  # the product that it has built is not in it
    layer.ask_for_dense_grad(lambda grad: None)  # a function that cannot be pickled
    twin = copied(layer)
    torch.testing.assert_close(twin(x), y)
    twin.values.data.zero_()
    assert not torch.equal(twin(x), y)
    torch.testing.assert_close(layer(x), y)


def test_a_checkpoint_with_another_k_resizes_the_layer() -> None:
    old, new = linear(k=33), linear(k=90)
    new(torch.randn(2, 20, dtype=torch.float64)).sum().backward()
    values = new.values
    buffer = io.BytesIO()
    torch.save(nn.Sequential(old).state_dict(), buffer)
    buffer.seek(0)
    nn.Sequential(new).load_state_dict(torch.load(buffer, weights_only=True))
    assert new.nnz == 33
    assert new.values is values
    assert new.values.grad is None
    x = torch.randn(2, 20, dtype=torch.float64)
    torch.testing.assert_close(new(x), old(x))
    torch.testing.assert_close(results(new, x)["values"], results(old, x)["values"])


@pytest.mark.parametrize("shape", [(20, 3), (6, 4), (3, 8)])
def test_a_checkpoint_of_another_shape_is_refused(shape: tuple[int, int]) -> None:
    """Also where its positions are within the weight: they are other places there."""
    saved, layer = nn.Sequential(linear(*shape, 12, bias=False)), nn.Sequential(linear(4, 6, 2, bias=False))
    match = rf"0: `shape` must be \({shape[1]}, {shape[0]}\), .* got a layer of shape \(6, 4\)"
    with pytest.raises(RuntimeError, match=match):
        layer.load_state_dict(saved.state_dict())


def test_a_checkpoint_without_a_shape_is_held_to_its_positions() -> None:
    """As those were that other versions saved."""
    state = linear(20, 3, 50, bias=False).state_dict()
    state["_extra_state"] = torch.tensor(list(b'{"name": "dct"}'), dtype=torch.uint8)
    linear(20, 3, 2, bias=False).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"`indices` must be distinct positions from 0 to 11"):
        linear(4, 3, 2, bias=False).load_state_dict(state)


def test_a_checkpoint_can_be_assigned_to_a_layer_on_the_meta_device() -> None:
    old = linear(k=33)
    new = DensePlusSparseLinear(20, 17, torch.arange(5), device="meta")
    new.load_state_dict(old.state_dict(), assign=True)
    x = torch.randn(2, 20, dtype=torch.float64)
    assert torch.equal(new(x), old(x))


def test_writing_to_the_indices_is_noticed() -> None:
    for backend in BACKENDS:
        layer = linear(k=30, backend=backend)
        x = torch.randn(2, 20, dtype=torch.float64)
        layer(x)
        layer.indices.copy_(draw_support(340, 30, torch.Generator().manual_seed(9)))
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_a_layer_follows_to_another_dtype() -> None:
    layer = linear(dtype=torch.float32, backend="transform")
    x = torch.randn(3, 20)
    layer(x)
    layer.double()
    torch.testing.assert_close(layer(x.double()), F.linear(x.double(), layer.weight, layer.bias))
    with pytest.raises(
        TypeError, match=r"`input` must be torch\.float64 as the layer is, got torch\.float32"
    ):
        layer(x)


def test_inference_mode_leaves_nothing_that_training_cannot_use() -> None:
    for backend in BACKENDS:
        layer = linear(31, 29, 40, backend=backend)  # sizes of their own: nothing is cached yet
        x = torch.randn(3, 31, dtype=torch.float64)
        with torch.inference_mode():
            y = layer(x)
        torch.testing.assert_close(results(layer, x)["y"], y)


def test_second_derivatives_are_refused() -> None:
    for backend in BACKENDS:
        layer = linear(backend=backend)
        x = torch.randn(3, 20, dtype=torch.float64, requires_grad=True)
        with pytest.raises(RuntimeError, match="`create_graph` must be False with Dense-plus-Sparse layers"):
            torch.autograd.grad(layer(x).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="`create_graph` must be False"):
            torch.autograd.grad(layer.weight.sum(), layer.values, create_graph=True)


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
def test_the_meta_device_gives_shapes(backend: str) -> None:
    layer = DensePlusSparseLinear(2**14, 2**14, torch.arange(9), device="meta", backend=backend)
    assert layer(torch.empty(3, 2**14, device="meta")).shape == (3, 2**14)
    assert layer.weight.is_meta
    conv = DensePlusSparseConv2d(8, 6, 3, torch.arange(9), padding=1, device="meta", backend=backend)
    assert conv(torch.empty(2, 8, 5, 5, device="meta")).shape == (2, 6, 5, 5)
