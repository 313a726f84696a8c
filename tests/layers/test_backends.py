from collections.abc import Iterator
from typing import Any

import pytest
import torch
from layers_toy import convolution, linear, results

from lightning_sparse.layers.backends import (
    BACKEND_ROWS,
    BACKENDS,
    BackendRow,
    LayerParts,
    Work,
    choose_backend,
    register_backend,
)
from lightning_sparse.layers.offsets import DCTOffset, SignedDCTOffset
from lightning_sparse.layers.products import Materialized

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("shape", "density", "rows", "threads", "expected"),
    [
        ((4096, 4096), 0.05, 128, 2, "transform"),
        ((1024, 1024), 0.05, 1024, 1, "transform"),
        ((1024, 1024), 0.6, 128, 1, "materialize"),
        ((300, 784), 0.01, 32, 1, "transform"),
        ((300, 784), 0.01, 1024, 1, "materialize"),
        ((10, 784), 0.001, 128, 2, "materialize"),  # a thin head
        ((128, 128), 0.001, 128, 1, "materialize"),
        ((512, 512), 0.01, 1, 1, "transform"),  # building the weight twice takes longer still
        ((100, 300), 0.01, 1, 1, "materialize"),
        ((2, 2), 1.0, 0, 1, "materialize"),  # an empty batch
        ((256, 256, 3, 3), 0.01, 2048, 1, "transform"),
        ((256, 256, 3, 3), 0.01, 2048, 2, "materialize"),  # threads share matrix products above all
        ((128, 128, 3, 3), 0.01, 8192, 1, "materialize"),
        ((64, 64, 3, 3), 0.01, 32768, 1, "materialize"),
        ((512, 512, 3, 3), 0.05, 512, 1, "transform"),
        ((2048, 512, 1, 1), 0.01, 512, 1, "transform"),
        ((64, 256, 1, 1), 0.01, 32768, 1, "materialize"),
        ((256, 256, 9), 0.01, 2048, 1, "transform"),  # as for as many places in two dimensions
        ((64, 64, 9), 0.01, 32768, 1, "materialize"),
        ((2048, 512, 1), 0.01, 512, 1, "transform"),
        ((256, 256, 1, 3, 3), 0.01, 2048, 1, "transform"),
        ((64, 64, 3, 3, 3), 0.01, 32768, 1, "materialize"),
    ],
)
def test_the_rule(shape: tuple[int, ...], density: float, rows: int, threads: int, expected: str) -> None:
    size = torch.Size(shape)
    for offset in ("dct", DCTOffset("chw"), SignedDCTOffset()):
        choice = choose_backend(size, int(density * size.numel()), rows, CPU, threads, offset=offset)
        assert choice == expected


def test_groups_and_gpus_take_the_weight_as_a_whole() -> None:
    shape = torch.Size((512, 512, 3, 3))
    assert choose_backend(shape, 100, 512, CPU, 1, groups=2) == "materialize"
    assert choose_backend(torch.Size((4096, 4096)), 100, 128, torch.device("cuda"), 1) == "materialize"


# A backend of one's own: one class.


@pytest.fixture
def instant() -> Iterator[list[LayerParts]]:
    """A backend that says that it is fastest from two rows on; what it built its products of."""
    built: list[LayerParts] = []

    @register_backend
    class Instant(BackendRow):
        name = "instant"

        def available(self, work: Work) -> bool:
            return work.rows > 1

        def time(self, work: Work) -> float:
            return 0.0

        def build(self, parts: LayerParts) -> Materialized | None:
            built.append(parts)
            if parts.geometry is not None:
                return None
            matrix = parts.offset.matrix(parts.shape, parts.dtype, parts.indices.device)
            return Materialized(parts.shape, parts.geometry, parts.indices, matrix)

    yield built
    del BACKEND_ROWS["instant"]
    choose_backend.cache_clear()


def test_auto_takes_a_registered_backend_where_it_is_available(instant: list[Any]) -> None:
    layer, expected = linear(), linear(backend="materialize")
    for rows, count in ((1, 0), (2, 1), (3, 1)):
        x = torch.randn(rows, 20, dtype=torch.float64)
        torch.testing.assert_close(results(layer, x), results(expected, x))
        assert len(instant) == count  # built once
    with pytest.raises(ValueError, match="`name` must be new, got 'transform'"):
        register_backend(type("Other", (Materialized,), {"name": "transform"}))  # type: ignore[arg-type]


def test_a_backend_without_a_product_for_a_layer_leaves_it_to_the_weight(instant: list[Any]) -> None:
    layer, expected = (convolution(backend=b, kernel_size=3) for b in ("instant", "materialize"))
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(results(layer, x), results(expected, x))
    assert len(instant) == 1


def test_names_come_from_the_table() -> None:
    assert BACKENDS == ("auto", "materialize", "transform") == ("auto", *BACKEND_ROWS)
