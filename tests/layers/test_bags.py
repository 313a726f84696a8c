"""Sums of weighted rows, and what they are compared with: products with the dense matrix in float64."""

import pytest
import torch

from lightning_sparse.layers import bags as bags_module
from lightning_sparse.layers.bags import Bags, transposed
from lightning_sparse.layers.support import draw_support


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("has_mkl", [True, False])
@pytest.mark.parametrize("k", [0, 1, 40, 500])
def test_products_are_those_of_the_dense_matrix(
    k: int, has_mkl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bags_module, "_HAS_MKL", has_mkl and bags_module._HAS_MKL)
    m, n, p = 23, 31, 11
    flat = draw_support(m * n, k, generator(k))
    by_output, by_input = Bags(flat // n, flat % n, (m, n)), Bags(flat % n, flat // n, (n, m))
    values, columns, grad, total = (
        torch.randn(s, generator=generator(s[0]), dtype=torch.float64) for s in [(k,), (n, p), (m, p), (k,)]
    )
    matrix = torch.zeros(m, n, dtype=torch.float64)
    matrix.view(-1)[flat] = values
    torch.testing.assert_close(by_output.weighted(values).sum(columns), matrix @ columns)
    torch.testing.assert_close(by_input.weighted(values).sum(grad), matrix.T @ grad)
    sampled = (grad @ columns.T).flatten()[flat]
    torch.testing.assert_close(by_output.sample(grad, columns), sampled)
    torch.testing.assert_close(by_output.sample(grad, columns, total.clone()), sampled + total)
    assert by_output.weighted(values).sum(columns[:, :0]).shape == (m, 0)


@pytest.mark.parametrize("columns", [2**15, 2**15 + 1])
def test_positions_are_short_where_they_can_be(columns: int) -> None:
    last = torch.tensor([columns - 1])
    bags = Bags(torch.tensor([0]), last, (1, columns))
    assert bags.ids.element_size() == (2 if columns == 2**15 else 4)
    table = torch.zeros(columns, 3)
    table[-1] = 2.0
    assert bags.weighted(torch.tensor([3.0])).sum(table).tolist() == [[6.0] * 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(0, 3), (3, 0), (1, 5), (5, 1), (16, 16), (17, 33), (100, 65)])
def test_transposing_changes_no_entry(size: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = torch.randn(size, generator=generator(), dtype=dtype)
    wide = torch.randn(size[0], 2 * size[1], generator=generator(1), dtype=dtype)
    for some in (matrix, wide[:, ::2], wide[:, : size[1]], matrix.t(), matrix.sum(0).expand(4, -1)):
        assert torch.equal(transposed(some), some.t())
        assert transposed(some).is_contiguous()
