import math
from collections.abc import Iterator
from dataclasses import replace
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
from lightning_sparse.layers.offsets import DCTOffset, NoOffset, PretrainedOffset, SignedDCTOffset
from lightning_sparse.layers.products import Materialized

CPU = torch.device("cpu")


M, T = "materialize", "transform"


@pytest.mark.parametrize(
    ("shape", "density", "rows", "threads", "expected"),
    [  # of the DCT, no offset, a stored weight
        ((4096, 4096), 0.05, 128, 2, (T, T, T)),
        ((1024, 1024), 0.05, 1024, 1, (T, T, T)),
        ((1024, 1024), 0.8, 128, 1, (M, M, M)),
        ((300, 784), 0.01, 32, 1, (T, T, T)),
        ((2560, 640), 0.05, 1024, 1, (T, T, T)),
        ((10, 784), 0.1, 128, 2, (M, M, M)),  # a thin head
        ((10, 784), 0.001, 128, 2, (M, T, M)),  # of seven values
        ((100, 300), 0.01, 1, 1, (M, M, M)),
        ((512, 512), 0.01, 1, 1, (T, T, T)),  # building the weight twice takes longer still
        ((3, 3), 0.5, 8, 1, (M, M, M)),  # calls are all there is
        ((2, 2), 1.0, 0, 1, (M, M, M)),  # an empty batch
        ((256, 256, 3, 3), 0.01, 2048, 1, (T, T, T)),
        ((512, 512, 3, 3), 0.05, 512, 1, (T, T, T)),
        ((128, 128, 3, 3), 0.15, 8192, 1, (M, T, M)),
        ((64, 64, 3, 3), 0.03, 32768, 1, (M, T, M)),
        ((64, 64, 3, 3), 0.5, 32768, 1, (M, M, M)),
        ((2048, 512, 1, 1), 0.01, 512, 1, (T, T, T)),
        ((64, 256, 1, 1), 0.2, 32768, 1, (M, T, M)),
        ((256, 256, 9), 0.01, 2048, 1, (T, T, T)),
        ((2048, 512, 1), 0.01, 512, 1, (T, T, T)),
        ((256, 256, 1, 3, 3), 0.01, 2048, 1, (T, T, T)),
    ],
)
def test_the_rule(
    shape: tuple[int, ...], density: float, rows: int, threads: int, expected: tuple[str, ...]
) -> None:
    work = torch.Size(shape), int(density * math.prod(shape)), rows, CPU, threads
    choices = tuple(choose_backend(*work, offset=offset) for offset in ("dct", "none", "pretrained"))
    assert choices == expected
    for offset in (DCTOffset("chw"), SignedDCTOffset()):
        assert choose_backend(*work, offset=offset) == expected[0]


@pytest.mark.parametrize("shape", [(512, 512), (64, 64, 3, 3), (64, 64, 1, 1), (64, 64, 9)])
def test_estimates_grow_with_the_work(shape: tuple[int, ...]) -> None:
    """More rows or values take longer, an offset takes longer than none, threads take no longer."""
    for row in BACKEND_ROWS.values():
        for offset in (NoOffset(), DCTOffset(), PretrainedOffset()):
            small = Work(torch.Size(shape), 1000, 64, CPU, 1, 1, offset)
            time = row().time(small)
            if time == math.inf:  # nobody has measured it
                continue
            assert time < row().time(replace(small, rows=640))
            assert time < row().time(replace(small, nnz=4000))
            assert time >= row().time(replace(small, offset=NoOffset()))
            assert time >= row().time(replace(small, threads=2))


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
    assert BACKENDS == ("auto", "kernels", "materialize", "transform") == ("auto", *BACKEND_ROWS)
