"""Supports drawn again by a note of how they were drawn."""

import copy

import torch
from torch import nn

from lightning_sparse import convert_
from lightning_sparse.layers import compact_layers
from lightning_sparse.layers.draws import Draw, draw_again


def converted(**options):
    module = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 10), nn.Linear(10, 5))
    convert_(module, 0.1, **options)
    return module


def again(module):
    return draw_again({p: (one.drawn, one.shape, one.nnz) for p, one in compact_layers(module).items()})


def assert_drawn_again(module):
    supports = again(module)
    assert len(supports) == 3
    for path, layer in compact_layers(module).items():
        assert torch.equal(supports[path], layer.indices.long()), path


def test_what_a_conversion_drew_is_drawn_again():
    for allocation, kind in (("erk", "any"), ("epf", "equal_rows")):
        module = converted(allocation=allocation, generator=5)
        assert {layer.drawn for layer in compact_layers(module).values()} == {Draw(5, kind)}
        assert_drawn_again(module)
        assert_drawn_again(copy.deepcopy(module))
        assert_drawn_again(converted(allocation=allocation, generator=torch.Generator().manual_seed(5)))


def test_layers_of_two_calls_and_layers_without_a_note():
    module = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 10), nn.Linear(10, 5))
    convert_(module, 0.1, include=["0.weight", "2.weight"], generator=1)
    convert_(module, 0.1, include=["1.weight"], generator=2)
    assert_drawn_again(module)
    module[1].drawn = None
    assert again(module).keys() == {"0", "2"}


def test_other_draws_from_the_same_generator_show():
    generator = torch.Generator().manual_seed(5)
    torch.rand(1, generator=generator)
    module = converted(generator=generator)
    assert not torch.equal(again(module)["0"], module[0].indices.long())
