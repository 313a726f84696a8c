"""EPF on layers of other packages: outputs are where the layer has them, and a name alone says nothing."""

import pytest
import torch
from torch import nn

from lightning_sparse.functional.filters import OUTPUTS_FIRST, Filters, equal_mask, filters_of
from lightning_sparse.selection import output_dim


def conv1d_of(base, **attributes):
    """Make a class that is called as transformers' linear layer is."""
    return type("Conv1D", (base,), {"__module__": "mine", **attributes})


def layer_of(path, shape, bias=None):
    module, _, name = path.rpartition(".")
    layer = type(name, (nn.Module,), {"__module__": module})()
    layer.weight = nn.Parameter(torch.randn(shape))
    layer.bias = None if bias is None else nn.Parameter(torch.zeros(bias))
    return layer


def with_nf(nf):
    layer = layer_of("mine.Conv1D", (5, 7))
    layer.nf = nf
    return layer


OUTPUTS = {
    "child of Conv1d": (lambda: conv1d_of(nn.Conv1d)(6, 20, 3), 0, OUTPUTS_FIRST, 20),
    "child of Conv2d": (lambda: conv1d_of(nn.Conv2d)(6, 6, 3), 0, OUTPUTS_FIRST, 6),
    "child of Linear": (lambda: conv1d_of(nn.Linear, nf=6)(6, 4), 0, OUTPUTS_FIRST, 4),
    "transposed": (lambda: conv1d_of(nn.ConvTranspose1d)(6, 4, 3, groups=2), 1, Filters(2), 4),
    "transformers": (lambda: layer_of("transformers.pytorch_utils.Conv1D", (5, 7)), 1, Filters(1), 7),
    "copy with a bias": (lambda: layer_of("mine.Conv1D", (5, 7), 7), 1, Filters(1), 7),
    "copy with nf": (lambda: with_nf(7), 1, Filters(1), 7),
    "nf of the rows": (lambda: with_nf(5), 0, OUTPUTS_FIRST, 5),
    "bias of the rows": (lambda: layer_of("mine.Conv1D", (5, 7), 5), 0, OUTPUTS_FIRST, 5),
    "without either": (lambda: layer_of("mine.Conv1D", (5, 7)), 0, OUTPUTS_FIRST, 5),
    "three dimensions": (lambda: layer_of("mine.Conv1D", (5, 7, 3), 7), 0, OUTPUTS_FIRST, 5),
    "types": (
        lambda: layer_of("torch_geometric.nn.dense.linear.HeteroLinear", (4, 5, 3)),
        2,
        Filters(stacked=True),
        12,
    ),
    "of PyG": (lambda: layer_of("torch_geometric.nn.dense.linear.Linear", (5, 7)), 0, OUTPUTS_FIRST, 5),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_are_where_the_layer_has_them(name):
    make, dimension, expected, count = OUTPUTS[name]
    layer = make()
    filters = filters_of(nn.Sequential(layer), ["0.weight"])["0.weight"]
    assert (output_dim(layer), filters) == (dimension, expected)
    assert filters.count(layer.weight.shape) == count


@pytest.mark.parametrize("share", [0.1, 0.45, 1.0])
def test_each_output_of_each_type_keeps_its_share(share):
    torch.manual_seed(0)
    scores = torch.rand(4, 5, 3)
    k = int(share * scores.numel())
    mask = equal_mask(scores, k, Filters(stacked=True))
    counts = mask.sum(1)
    assert int(counts.sum()) == k
    assert int(counts.max() - counts.min()) <= 1
    for kind in range(4):
        for out in range(3):
            kept, column = mask[kind, :, out], scores[kind, :, out]
            assert not kept.any() or kept.all() or column[kept].min() >= column[~kept].max()
