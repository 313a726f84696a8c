"""SynFlow gives nets back as they were: modules with two names, and weights that two modules share."""

import pytest
import torch
from torch import nn

from lightning_sparse import SynFlow, sparsify_
from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.saliency.synflow import synflow


class TwoNames(nn.Module):
    """One layer under two names, as in NBeats."""

    def __init__(self):
        super().__init__()
        self.first = self.second = nn.Linear(6, 6)

    def forward(self, x):
        return self.second(self.first(x))


class TwoParents(nn.Module):
    """A block with buffers under two names, in two parents."""

    def __init__(self):
        super().__init__()
        block = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
        self.first, self.second = nn.ModuleDict({"of": block}), nn.ModuleList([block])

    def forward(self, x):
        return self.second[0](self.first["of"](x))


class Tied(nn.Module):
    """Two layers that share a weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


class Once(nn.Module):
    """The same net with one name for each."""

    def __init__(self, net):
        super().__init__()
        self.layer = net.first["of"] if isinstance(net, TwoParents) else net.first

    def forward(self, x):
        return self.layer(self.layer(x))


def held_by(net):
    """What a module holds at each place, and its values."""
    places = {
        (name, key): value
        for name, part in net.named_modules(remove_duplicate=False)
        for key, value in {**part._parameters, **part._buffers}.items()
    }
    return places, {place: value.detach().clone() for place, value in places.items()}


@pytest.mark.parametrize("kind", [TwoNames, TwoParents, Tied])
def test_what_was_held_at_each_place_is_there_again(kind):
    torch.manual_seed(0)
    net = kind()
    places, values = held_by(net)
    scores = synflow(net, {"weight": next(net.parameters())}, torch.ones(1, 6))
    again, _ = held_by(net)
    assert all(again[place] is value for place, value in places.items())
    assert all(torch.equal(again[place], value) for place, value in values.items())
    alone = Once(net)
    expected = synflow(alone, {"weight": next(alone.parameters())}, torch.ones(1, 6))
    assert torch.equal(scores["weight"], expected["weight"])


@pytest.mark.parametrize("kind", [TwoNames, TwoParents, Tied])
def test_signs_stay_over_all_iterations(kind):
    torch.manual_seed(0)
    net = kind()
    weight = next(net.parameters())
    before = weight.detach().clone()
    sparsify_(net, SynFlow(iterations=3, input_shape=[6]), density=0.5)
    assert next(net.parameters()) is weight
    assert int(weight.count_nonzero()) == 18
    assert torch.equal(weight, before * (weight != 0))


@pytest.mark.parametrize("kind", [TwoNames, TwoParents])
def test_an_error_of_the_net_is_told_and_changes_nothing(kind):
    class Fails(kind):
        def forward(self, x):
            return super().forward(x)[:, :, 0]

    net = Fails()
    places, _ = held_by(net)
    with pytest.raises(SparsityError, match="too many indices"):
        sparsify_(net, SynFlow(iterations=2, input_shape=[6]), density=0.5)
    again, _ = held_by(net)
    assert all(again[place] is value for place, value in places.items())
