"""Batches that the transform goes through in parts."""

import weakref
from typing import Any

import pytest
import torch
from layers_toy import OFFSETS, convolution, dense_twin, inputs_of, linear, results
from torch import Tensor

from lightning_sparse.layers.transformed import Transformed
from lightning_sparse.layers.transformed_convolution import TransformedConvolution, TransformedPointwise
from lightning_sparse.layers.transformed_linear import TransformedFew, TransformedLinear


@pytest.fixture(autouse=True)
def parts_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two vectors of 20 numbers or two images of 4 x 9 x 8 make a part; here outputs are smaller."""
    for kind in (TransformedFew, TransformedLinear):
        monkeypatch.setattr(kind, "floats_at_a_time", 2 * 20)
    for kind in (TransformedConvolution, TransformedPointwise):
        monkeypatch.setattr(kind, "floats_at_a_time", 2 * 4 * 9 * 8)


def layers_and_inputs(dtype: torch.dtype = torch.float64, **options: Any) -> list[tuple[Any, Tensor]]:
    generator, options = torch.Generator().manual_seed(1), options | {"dtype": dtype, "backend": "transform"}
    vectors, images = (
        torch.randn(*size, generator=generator, dtype=dtype) for size in [(7, 20), (5, 4, 9, 8)]
    )
    return [
        (linear(k=5, **options), vectors),
        (linear(k=200, **options), vectors),
        (convolution(kernel_size=3, stride=2, groups=2, **options), images),
        (convolution(kernel_size=1, stride=2, density=0.1, **options), images),
        *(
            (convolution(dimensions=d, kernel_size=2, padding=1, **options), inputs_of(d, 150 // 4**d, dtype))
            for d in (1, 3)
        ),
    ]


@pytest.mark.parametrize("offset", OFFSETS, ids=str)
def test_parts_make_one_whole(offset: Any) -> None:
    for layer, x in layers_and_inputs(offset=offset):
        taken: list[Tensor] = []
        layer.ask_for_dense_grad(taken.append)
        ours, dense = results(layer, x), results(dense_twin(layer), x)
        for name in ("y", "x", "bias"):
            torch.testing.assert_close(ours[name], dense[name])
        torch.testing.assert_close(ours["values"], dense["weight"][layer.support()])
        torch.testing.assert_close(taken, [dense["weight"]])  # once, for all parts together
        if layer.alpha is not None:
            matrix = layer.offset.matrix(layer.shape, torch.float64, x.device)
            torch.testing.assert_close(ours["alpha"], (dense["weight"] * matrix).sum())


def test_parts_in_bfloat16() -> None:
    for layer, x in layers_and_inputs(torch.float32):
        exact = results(layer, x)
        rough = results(layer.bfloat16(), x.bfloat16())
        assert {tensor.dtype for tensor in rough.values()} == {torch.bfloat16}
        for name in ("y", "x", "values", "bias"):
            assert (rough[name] - exact[name]).norm() < 0.03 * exact[name].norm(), name


def test_gradients_of_parts_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Tensor]] = []
    alive = []
    whole = Transformed._gradients

    def watched(*args: Any) -> Any:
        alive.append(sum(ref() is not None for ref in made))
        gradients = whole(*args)
        made.append(weakref.ref(gradients[1]))
        return gradients

    monkeypatch.setattr(Transformed, "_gradients", watched)
    layer = linear(k=200, backend="transform")
    results(layer, torch.randn(40, 20, dtype=torch.float64))
    assert len(alive) == 20  # parts
    assert max(alive) <= 2  # the sum so far, and that of the part before
