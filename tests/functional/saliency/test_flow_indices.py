"""SynFlow: shifts that are picked by indices, made with constants, or added by functions with an index."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_sparse.functional.saliency.synflow import synflow

X = torch.zeros(2, 3)


class Net(nn.Module):
    """Two layers of ones, and a parameter of fives that a function uses in between."""

    def __init__(self, use):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)
        self.theta, self.use = nn.Parameter(torch.full((4,), 5.0)), use
        for layer in (self.a, self.b):
            nn.init.ones_(layer.weight)

    def forward(self, x):
        return self.b(self.use(self.a(x), self.theta))


def scores_of(use):
    net = Net(use)
    scores = synflow(net, {"a": net.a.weight, "b": net.b.weight}, X)
    return scores["a"].unique().tolist(), scores["b"].unique().tolist()


def places():
    return torch.arange(4)


def filled(x, t):
    out = torch.zeros_like(x)
    out[:] = t
    return x + out


SHIFTS = {
    "index": lambda x, t: x + t[places()],
    "index of booleans": lambda x, t: x + t[places() >= 0],
    "index_select": lambda x, t: x + t.index_select(0, places()),
    "gather": lambda x, t: x + torch.gather(t, 0, places()),
    "embedding": lambda x, t: x + F.embedding(torch.tensor([0]), t[None]),
    "index from the data": lambda x, t: x + t[x.argsort(1)],
    "times ones_like": lambda x, t: x + t * torch.ones_like(x),
    "ones_like times": lambda x, t: x + torch.ones_like(x) * 2 * t,
    "new_ones": lambda x, t: x + x.new_ones(4) * t,
    "times a made tensor": lambda x, t: x + t * torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "times ones": lambda x, t: x + torch.ones(4, dtype=x.dtype).mul(t),
    "plus zeros": lambda x, t: x + (torch.zeros_like(x) + t),
    "written into zeros": filled,
    "copied into zeros": lambda x, t: x + torch.zeros_like(x).copy_(t),
    "type_as": lambda x, t: x + t.float().type_as(x),
    "to": lambda x, t: x + t.float().to(x),
    "index_add": lambda x, t: x.index_add(1, places(), t[None]),
    "index_add_": lambda x, t: x.clone().index_add_(1, places(), t[None]),
    "index_add to it": lambda x, t: t[None].clone().index_add(1, places(), x),
    "scatter_add": lambda x, t: x.scatter_add(1, places()[None], t[None]),
    "scatter_add_": lambda x, t: x.clone().scatter_add_(1, places()[None], src=t[None]),
}


@pytest.mark.parametrize("name", SHIFTS)
def test_shifts_contribute_nothing(name):
    assert scores_of(SHIFTS[name]) == ([2.0], [3.0])


def augmented(x, t):
    out = t * torch.zeros_like(x)
    out += x
    return torch.zeros_like(x) + out


def set_into_constant(x, t):
    out = torch.zeros_like(x)
    out[:] = x
    return x * 0 + out * t / 5


FLOWS = {
    "constants": lambda x, t: x + torch.ones_like(x) - 1,
    "augmented": augmented,
    "a row of it": lambda x, t: x * 0 + torch.zeros_like(x).copy_(x),
    "set into a constant": set_into_constant,
    "by index": lambda x, t: x * t[places()] / 5,
    "by a constant": lambda x, t: x * (t * torch.ones_like(x)) / 5,
}


@pytest.mark.parametrize("name", FLOWS)
def test_what_flows_and_what_multiplies_it_stays(name):
    assert scores_of(FLOWS[name]) == ([2.0], [3.0])


def test_constants_that_the_net_adds_act_as_they_are():
    assert scores_of(lambda x, t: x + torch.ones_like(x)) == ([2.0], [4.0])


def test_position_embeddings():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.position, self.fc = nn.Embedding(5, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(x + self.position(torch.arange(x.shape[1])))

    net = Embedded()
    nn.init.ones_(net.fc.weight)
    scores = synflow(net, {"fc": net.fc.weight}, torch.zeros(1, 5, 3))
    assert scores["fc"].eq(5).all()
    scores = synflow(net, {"fc": net.fc.weight, "position": net.position.weight}, torch.zeros(1, 5, 3))
    assert scores["position"].gt(0).all()
