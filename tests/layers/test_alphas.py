import copy
import math

import pytest
import torch
from layers_toy import Block
from torch import nn

from lightning_sparse.layers import alpha_groups, compact_layers, convert_, to_dense_
from lightning_sparse.models import FixupResNet110, LeNet5, LeNet300100


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_layers_of_zeros_get_alpha_zero() -> None:
    net = FixupResNet110()
    dense = copy.deepcopy(net)
    convert_(net, 0.01, alpha={"layer*.conv1": 0.4, "layer3.0.conv1": 0.3})
    alphas = {name: round(layer.alpha.item(), 4) for name, layer in compact_layers(net).items()}
    assert {alphas.pop("conv1"), alphas.pop("layer3.0.conv1"), alphas.pop("fc")} == {1.0, 0.3, 0.0}
    assert {alphas.pop(f"layer{i}.{j}.conv1") for i in (1, 2, 3) for j in range(18) if (i, j) != (3, 0)} == {
        0.4
    }
    assert set(alphas.values()) == {0.0}
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(net(x), dense(x))  # both are zero
    named = LeNet300100()
    nn.init.zeros_(named.fcs[0].weight)
    convert_(named, 0.01, alpha={"fcs.0": 0.7})  # a pattern that names it wins
    assert named.fcs[0].alpha.item() == pytest.approx(0.7)


def test_match_norm_gives_the_offset_the_norm_of_the_weight() -> None:
    net, dense = Block(), Block()
    dense.load_state_dict(net.state_dict())
    convert_(net, 0.1, alpha={"*": "match_norm", "head": 2.0})
    for name, layer in compact_layers(net).items():
        expected = (
            dense.get_submodule(name).weight.norm() if name != "head" else torch.tensor(2 * math.sqrt(5))
        )
        assert float(layer.weight.norm().detach()) == pytest.approx(expected.item(), rel=1e-5), name


def test_frozen_layers_and_fixed_alpha() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    net[1].weight.requires_grad_(False)
    convert_(net, 0.1, include=["*"], alpha_requires_grad=True)
    assert [p.requires_grad for p in (net[0].values, net[0].alpha, net[1].values, net[1].alpha)] == [
        True,
        True,
        False,
        False,
    ]
    net = nn.Sequential(nn.Linear(8, 8))
    convert_(net, 0.1, alpha_requires_grad=False)
    assert (net[0].alpha.requires_grad, net[0].values.requires_grad) == (False, True)
    to_dense_(net)
    assert net[0].weight.requires_grad


def test_weight_decay_is_kept_off_alpha() -> None:
    net = LeNet300100()
    convert_(net, 0.1)
    optimizer = torch.optim.SGD(alpha_groups(net, 0.1), lr=1.0)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(net.parameters()))
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
        p.data.fill_(1.0)
    optimizer.step()
    for layer in compact_layers(net).values():
        assert layer.alpha.item() == 1.0
        assert layer.values.eq(0.9).all()
        assert layer.bias.eq(0.9).all()
    assert len(alpha_groups(LeNet5(), 0.1)) == 1
