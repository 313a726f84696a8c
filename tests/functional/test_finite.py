"""NaN has no rank and no sign: weights that hold it are refused wherever something is made of them."""

import math

import pytest
import torch
from torch import nn

from lightning_sparse import FORCE, SNIP, Magnitude, PruningProblem, SynFlow, sparsify_
from lightning_sparse.functional.centroids import centroids, reinitialise_, signs
from lightning_sparse.functional.finite import check_finite, check_no_nan
from lightning_sparse.functional.growth import ActiveWeights, RigL, move
from lightning_sparse.functional.growth.set import SET
from lightning_sparse.functional.pruning import prune_along
from lightning_sparse.functional.rewinding import prune_by_magnitude, rewind_, snapshot

BAD = [math.nan, math.inf, -math.inf]
WAY_OUT = (
    r"If training has diverged, resume from the last checkpoint before it, with a lower learning rate or"
)


def refused(count, name):
    return pytest.raises(ValueError, match=rf"finite and not NaN, got {count} in '{name}'.*{WAY_OUT}")


def weights_with(bad):
    weights = {"a": torch.ones(2, 3), "b": torch.tensor([[1.0, -2.0, 3.0, 4.0]])}
    weights["b"][0, 1:3] = bad
    return weights, {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


@pytest.mark.parametrize("bad", BAD)
def test_neither_pruned_nor_made_into_signs(bad):
    weights, masks = weights_with(bad)
    with refused(2, "b"):
        prune_by_magnitude(weights, masks, 4)
    with refused(2, "b"):
        signs(weights, masks)


def test_what_is_pruned_does_not_matter():
    weights, masks = weights_with(math.nan)
    masks["b"][0, 1:3] = False
    assert sum(int(m.sum()) for m in prune_by_magnitude(weights, masks, 4).values()) == 4
    assert signs(weights, masks)["b"].tolist() == [1, 1]


def test_finite_weights_whose_sum_is_not():
    check_finite({"a": torch.full((4,), 3e38)})
    check_no_nan({"a": torch.tensor([math.inf])})


def test_centroids_of_a_ruined_layer_are_no_zeros():
    weights, masks = weights_with(math.nan)
    found = centroids(weights, masks)
    assert found["b"].isnan().all()
    assert found["a"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("bad", BAD)
def test_no_net_starts_from_ruined_centroids(bad):
    net = nn.Sequential(nn.Linear(3, 2))
    before = net[0].weight.detach().clone()
    mask = {"0.weight": torch.ones(2, 3, dtype=torch.bool)}
    ones = {"0.weight": torch.ones(6, dtype=torch.int8)}
    with refused(1, "centroids of 0.weight"):
        reinitialise_(net, mask, ones, {"0.weight": torch.tensor([bad, -1.0])})
    assert torch.equal(net[0].weight, before)


def test_nobody_goes_back_to_nan():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    net.register_buffer("unset", torch.full((2,), math.nan))  # a placeholder may be meant
    net[0].bias.data[0] = math.inf
    rewind_(net, snapshot(net), {})
    net[1].weight.data[0] = math.nan
    with pytest.raises(ValueError, match=rf"must not be NaN, got 1 in '1.weight' \(of 2\).*{WAY_OUT}"):
        snapshot(net)
    snapshot(net, leave_out=["1.weight"])
    net[1].weight.requires_grad_(False)
    snapshot(net)


@pytest.mark.parametrize("rule", [RigL(), SET()])
@pytest.mark.parametrize("bad", BAD)
def test_ruined_connections_do_not_move(rule, bad):
    active = ActiveWeights(
        values=torch.tensor([0.1, bad]),
        positions=torch.tensor([0, 1]),
        shape=torch.Size([1, 4]),
        draws=torch.Generator(),
        gradient=lambda: torch.ones(1, 4),
    )
    with refused(1, "net.fc"):
        move(rule, active, 0.5, name="net.fc")


def problem_of(net):
    x, y = torch.randn(8, 3), torch.arange(8) % 2
    return PruningProblem(
        net,
        {"0.weight": net[0].weight, "1.weight": net[1].weight},
        torch.Generator(),
        losses=lambda count: [lambda: nn.functional.cross_entropy(net(x), y)] * count,
        inputs=lambda: x,
    )


@pytest.mark.parametrize("fixed", [{}, {"1.weight": 0.5}])
@pytest.mark.parametrize("method", [Magnitude(), Magnitude("erk"), SNIP(), FORCE(2, 1), SynFlow(2)], ids=repr)
def test_scores_of_ruined_weights(method, fixed):
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    net[1].weight.data[0, :2] = math.nan
    with refused(2, "1.weight"):
        list(prune_along(method, problem_of(net), 0.5, fixed=fixed))


def test_scores_that_overflow_in_a_layer_of_its_own_density():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"scores of '0.weight' are not finite"):
        sparsify_(
            net,
            "snip",
            0.5,
            loss_fn=lambda m, x: m(x).sum() * math.inf,
            batches=[torch.ones(2, 3)],
            density_overrides={"0.weight": 0.5, "1.weight": 0.5},
        )
