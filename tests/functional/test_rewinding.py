"""Magnitude pruning of what is left, and the way back."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_sparse.functional.masks import count_kept
from lightning_sparse.functional.rewinding import (
    budgets_on_the_way,
    prune_by_magnitude,
    rewind_,
    round_budgets,
    snapshot,
)


def test_rounds_by_hand():
    assert round_budgets(1000, 125, 3) == [500, 250, 125]
    assert round_budgets(1000, 10, 1) == [10]
    assert round_budgets(10, 10, 2) == [10, 10]
    # 266,200 * 0.6762433 = 180,015.97 and 266,200 * 0.6762433 ** 2 = 121,734.6
    assert round_budgets(266_200, 5324, 10)[:2] == [180_016, 121_735]


@pytest.mark.parametrize("alive", [2, 999, 266_200, 23_000_000])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.9])
@pytest.mark.parametrize("rounds", [1, 7, 30])
def test_each_round_loses_the_same_share(alive, share, rounds):
    kept = max(int(alive * share), 1)
    budgets = round_budgets(alive, kept, rounds)
    assert len(budgets) == rounds
    assert budgets[-1] == kept
    assert all(a >= b for a, b in zip([alive, *budgets], budgets, strict=False))
    for r, budget in enumerate(budgets, 1):
        assert abs(budget - np.exp(np.log(alive) + (np.log(kept) - np.log(alive)) * r / rounds)) <= 0.5 + 1e-6


@pytest.mark.parametrize("kept", [0, 11])
def test_rounds_that_cannot_be(kept):
    with pytest.raises(ValueError, match=f"`density` must leave between 1 and the 10 .* got {kept}"):
        round_budgets(10, kept, 2)


def test_budgets_on_the_way_by_hand():
    final = {"a": 50, "b": 50}
    half = budgets_on_the_way({"a": 90, "b": 100}, final, removed=60, planned=120)
    assert half == {"a": 70, "b": 75}
    assert budgets_on_the_way({"a": 90, "b": 100}, final, removed=120, planned=120) == final
    nothing = budgets_on_the_way({"a": 90}, {"a": 100}, removed=7, planned=9)
    assert nothing == {"a": 90}  # it has fewer than its budget is
    assert budgets_on_the_way({"a": 90}, {"a": 90}, removed=0, planned=0) == {"a": 90}


def test_budgets_of_all_layers_sum_to_what_is_kept():
    alive, final = {"a": 61, "b": 7, "c": 33}, {"a": 10, "b": 7, "c": 1}
    for removed in range(84):
        on_the_way = budgets_on_the_way(alive, final, removed, 83)
        assert sum(on_the_way.values()) == 101 - removed
        assert on_the_way["b"] == 7


def test_no_count_ever_rises_on_the_way():
    """One weight at a time: shares rounded each by itself would at times take more than there is to take."""
    alive = {"a": 60, "b": 60, "c": 60, "rest": 120}
    removals = {"a": 30, "b": 30, "c": 30, "rest": 30}
    before = alive
    for removed in range(sum(removals.values()) + 1):
        own = budgets_on_the_way(alive, dict.fromkeys("abc", 30), removed, sum(removals.values()))
        now = {**own, "rest": sum(alive.values()) - removed - sum(own.values())}
        assert all(now[name] <= before[name] for name in alive), removed
        assert all(abs(alive[n] - now[n] - removals[n] * removed / 120) <= 3 for n in alive), removed
        before = now
    assert before == {"a": 30, "b": 30, "c": 30, "rest": 90}


def oracle(weights, masks, kept, least):
    """Reserve the best of each layer, then fill up over all layers; ties go by layer and place."""
    entries = []
    for layer, (name, weight) in enumerate(weights.items()):
        w, m = np.abs(weight.double().numpy().ravel()), masks[name].numpy().ravel()
        own = sorted((-w[i], i) for i in np.flatnonzero(m))
        entries += [(rank >= least, value, layer, i) for rank, (value, i) in enumerate(own)]
    chosen = {(layer, i) for _, _, layer, i in sorted(entries)[:kept]}
    return {
        name: np.array([(layer, i) in chosen for i in range(w.numel())]).reshape(w.shape)
        for layer, (name, w) in enumerate(weights.items())
    }


@pytest.mark.parametrize("seed", range(30))
def test_any_pruning(seed):
    random = np.random.default_rng(seed)
    shapes = {"a": (3, 4), "b": (5,), "c": (2, 2, 3)}
    # Few values, zeros among them: nearly everything ties.
    weights = {n: torch.from_numpy(random.integers(-2, 3, shape).astype("f4")) for n, shape in shapes.items()}
    masks = {n: torch.from_numpy(random.random(shape) < 0.7) for n, shape in shapes.items()}
    masks["b"][:] &= seed % 3 > 0  # a layer without survivors
    least = int(random.integers(0, 3))
    floor = sum(min(least, int(mask.sum())) for mask in masks.values())
    kept = int(random.integers(floor, count_kept(masks) + 1))
    pruned = prune_by_magnitude(weights, masks, kept, min_weights=least)
    expected = oracle(weights, masks, kept, least)
    for name, mask in pruned.items():
        assert mask.dtype == torch.bool
        assert np.array_equal(mask.numpy(), expected[name]), name
        assert not (mask & ~masks[name]).any()
    assert count_kept(pruned) == kept


def test_what_is_pruned_stays_so_whatever_its_weight():
    weights = {"a": torch.tensor([9.0, 0.0, 0.0, -1.0])}
    masks = {"a": torch.tensor([False, True, True, True])}
    assert prune_by_magnitude(weights, masks, 2)["a"].tolist() == [False, True, False, True]


def test_budgets_of_their_own():
    weights = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([10.0, 20.0, 30.0])}
    masks = {name: torch.ones(3, dtype=torch.bool) for name in weights}
    pruned = prune_by_magnitude(weights, masks, 3, fixed={"a": 2})
    assert {name: mask.tolist() for name, mask in pruned.items()} == {
        "a": [False, True, True],
        "b": [False, False, True],
    }


def test_weights_and_masks_are_left_as_they_are():
    weight = torch.randn(10)
    mask = torch.rand(10) < 0.8
    before = weight.clone(), mask.clone()
    prune_by_magnitude({"a": weight}, {"a": mask}, 2)
    assert torch.equal(weight, before[0])
    assert torch.equal(mask, before[1])


@pytest.mark.parametrize(
    ("kept", "least", "message"),
    [(7, 0, "`k` must leave between 0 .* and 6 weights"), (3, 2, r"between 4 \(2 in each of 2 layers\)")],
)
def test_prunings_that_cannot_be(kept, least, message):
    weights = {"a": torch.ones(3), "b": torch.ones(3)}
    masks = {name: torch.ones(3, dtype=torch.bool) for name in weights}
    with pytest.raises(ValueError, match=message):
        prune_by_magnitude(weights, masks, kept, min_weights=least)


def test_a_weight_that_is_no_number_is_named():
    weights = {"a": torch.ones(3), "b": torch.tensor([1.0, float("nan")])}
    masks = {name: torch.ones(len(weight), dtype=torch.bool) for name, weight in weights.items()}
    with pytest.raises(ValueError, match="NaN, got 1 in 'b'"):
        prune_by_magnitude(weights, masks, 2)
    masks["b"][1] = False  # a pruned one is nobody's business
    assert count_kept(prune_by_magnitude(weights, masks, 2)) == 2


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 4)
        self.head.weight = self.body[0].weight  # tied
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("scratch", torch.ones(2), persistent=False)


@pytest.mark.parametrize("compiled", [False, True])
def test_there_and_back(compiled):
    torch.manual_seed(0)
    net = Net()
    if compiled:
        net.body = torch.compile(net.body)
    saved = snapshot(net)
    assert set(saved) == {
        "body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias", "body.1.running_mean",
        "body.1.running_var", "body.1.num_batches_tracked", "head.bias", "kept",
    }  # fmt: skip
    before = {name: value.clone() for name, value in net.state_dict().items()}
    addresses = {name: value.data_ptr() for name, value in net.state_dict(keep_vars=True).items()}
    with torch.no_grad():
        for value in (*net.parameters(), *net.buffers()):
            value.add_(1)
    mask = torch.rand(4, 4) < 0.5
    rewind_(net, saved, {"body.0.weight": mask})
    after = net.state_dict(keep_vars=True)
    for name, value in after.items():
        expected = before[name] * mask if name.endswith(("0.weight", "head.weight")) else before[name]
        assert torch.equal(value, expected), name
        assert value.data_ptr() == addresses[name]
    assert after["body._orig_mod.0.bias" if compiled else "body.0.bias"].requires_grad
    assert net.scratch.tolist() == [2.0, 2.0]  # no part of the state dict


def test_a_snapshot_may_leave_out():
    net = nn.Linear(2, 2)
    saved = snapshot(net, leave_out={"weight"})
    assert set(saved) == {"bias"}
    with torch.no_grad():
        net.weight.fill_(5)
        net.bias.fill_(5)
    rewind_(net, saved, {"weight": torch.zeros(2, 2, dtype=torch.bool)})
    assert net.weight.eq(5).all()
    assert torch.equal(net.bias.detach(), saved["bias"])
