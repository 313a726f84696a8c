"""From scores to masks: exact counts for every method, density and pattern of ties."""

import math
import warnings
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lightning_sparse import (
    FORCE,
    SNIP,
    GraSP,
    IterativeSNIP,
    Magnitude,
    PruningMethod,
    PruningProblem,
    Random,
    SynFlow,
)
from lightning_sparse.functional.masks import count_kept
from lightning_sparse.functional.pruning import prune_along

EVERY = [Random, Magnitude, SNIP, GraSP, SynFlow]
ITERATED = [FORCE, IterativeSNIP]


def weights_of(net):
    return {name: p for name, p in net.named_parameters() if p.ndim > 1}


def make(widths, levels, seed):
    """Return a net, and a problem; weights and data of few distinct values make many scores equal."""
    torch.manual_seed(seed)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
    net = nn.Sequential(*layers[:-1])
    x, y = torch.randn(16, widths[0]), torch.randint(0, widths[-1], (16,))
    if levels:
        with torch.no_grad():
            for weight in weights_of(net).values():
                weight.copy_((weight.sign() * (1 + torch.randint_like(weight, levels))) / 4)
        x = x.sign()
    batches = [(x[:8], y[:8]), (x[8:], y[8:])]
    problem = PruningProblem(
        net,
        weights_of(net),
        torch.Generator().manual_seed(seed),
        losses=lambda n: [lambda x=x, y=y: F.cross_entropy(net(x), y) for x, y in batches[:n]],
        inputs=lambda: x,
    )
    return net, problem


def last_or_refused(steps):
    """Return the last masks, or None if the net was cut through on the way, and that was said."""
    try:
        *_, masks = steps
    except ValueError as error:
        if "scores are not zero" not in str(error) and "cut through" not in str(error):
            raise
        return None
    return masks


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.integers(2, 12), min_size=3, max_size=5),
    levels=st.sampled_from([0, 1, 2]),
    density=st.floats(0.02, 1.0),
    method=st.sampled_from(EVERY + ITERATED),
    allocation=st.sampled_from(["global", "uniform", "erk", "epl", "epf"]),
    minimum=st.integers(0, 2),
    seed=st.integers(0, 5),
)
def test_counts_are_exact(widths, levels, density, method, allocation, minimum, seed):
    net, problem = make(widths, levels, seed)
    size = sum(weight.numel() for weight in problem.weights.values())
    if density * size < minimum * len(problem.weights) + 1:
        return
    options = {"iterations": 4} if method in (SynFlow, *ITERATED) else {}
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    steps = prune_along(method(allocation=allocation, **options), problem, density, min_weights=minimum)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few scores
        masks = last_or_refused(steps)
    if masks is not None:
        assert count_kept(masks) == math.floor(density * size + 0.5)
        for name, mask in masks.items():
            assert mask.shape == problem.weights[name].shape
            assert int(mask.sum()) >= min(minimum, mask.numel())
    assert all(torch.equal(weight, before[name]) for name, weight in net.state_dict().items())


@pytest.mark.parametrize("method", [SynFlow(10), FORCE(10, 2), IterativeSNIP(10, 2, "linear"), Magnitude()])
@pytest.mark.parametrize("fixed", [{"2.weight": 0.05}, {"0.weight": 0.1, "4.weight": 0.5}])
def test_layers_of_their_own_density_are_on_their_way_all_along(method, fixed):
    """The wide layer is half the net: early on the path, the others could not hold the rest."""
    _, problem = make([20, 40, 40, 5], 0, 0)
    size = sum(weight.numel() for weight in problem.weights.values())
    kept = []
    for masks in prune_along(method, problem, 0.1, fixed=fixed):
        kept.append({name: int(mask.sum()) for name, mask in masks.items()})
    assert sum(kept[-1].values()) == math.floor(0.1 * size + 0.5)
    for name, density in fixed.items():
        assert kept[-1][name] == math.floor(density * problem.weights[name].numel() + 0.5)
        assert [counts[name] for counts in kept] == sorted((counts[name] for counts in kept), reverse=True)
    assert len(kept) == len(method.path(0.1))


@pytest.mark.parametrize("method", [SynFlow(8), IterativeSNIP(8, 2)])
def test_what_is_pruned_stays_pruned(method):
    _, problem = make([10, 20, 5], 0, 0)
    last = None
    for masks in prune_along(method, problem, 0.1):
        assert last is None or all((mask <= last[name]).all() for name, mask in masks.items())
        last = masks


@pytest.mark.parametrize("method", [SynFlow(8), IterativeSNIP(8, 2), Magnitude()])
def test_lowest_scores_instead_of_highest(method):
    _, problem = make([10, 20, 5], 0, 0)
    *_, masks = prune_along(method, problem, 0.1, keep_lowest=True)
    assert count_kept(masks) == 30
    scores = method.scores(problem)
    every = torch.cat([score.flatten() for score in scores.values()])
    kept = torch.cat([scores[name][mask] for name, mask in masks.items()])
    assert kept.mean() < every.mean() / 2


def test_magnitude_by_hand_and_its_opposite():
    weights = {"a": torch.tensor([[1.0, -4.0], [0.5, 2.0]]), "b": torch.tensor([[3.0, -0.25]])}
    problem = PruningProblem(nn.Module(), weights, torch.Generator())
    [masks] = prune_along(Magnitude(), problem, 0.5)
    assert masks["a"].tolist() == [[False, True], [False, True]]
    assert masks["b"].tolist() == [[True, False]]
    [masks] = prune_along(Magnitude(), problem, 0.5, keep_lowest=True)
    assert masks["a"].tolist() == [[True, False], [True, False]]
    assert masks["b"].tolist() == [[False, True]]


def test_dropout_draws_anew_for_each_iteration_and_the_same_for_the_same_seed():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 50), nn.Dropout(0.5), nn.Linear(50, 2))
    x, draws = torch.randn(4, 6), []

    def loss():
        draws.append(torch.rand(1).item())
        return net(x).square().mean()

    def masks(seed):
        problem = PruningProblem(
            net, weights_of(net), torch.Generator().manual_seed(seed), losses=lambda n: [loss] * n
        )
        *_, masks = prune_along(FORCE(4, 1), problem, 0.3)
        return torch.cat([mask.flatten() for mask in masks.values()])

    state = torch.get_rng_state()
    first = masks(1)
    assert len(set(draws)) == 5  # and one to see that the net is whole
    assert torch.equal(first, masks(1))
    assert not torch.equal(first, masks(2))
    assert torch.equal(state, torch.get_rng_state())


class Few(PruningMethod):
    def scores(self, problem):
        return {"w": torch.tensor([3.0, 0.0, 2.0, 0.0])}


def test_fewer_scores_than_weights_are_named():
    problem = PruningProblem(nn.Module(), {"w": torch.ones(4)}, torch.Generator())
    with pytest.warns(UserWarning, match="Only 2 scores are not zero, but 3 weights are kept"):
        [masks] = prune_along(Few(), problem, 0.75)
    assert masks["w"].tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SNIP(0), "`num_batches` must be an integer of at least 1, got 0"),
        (lambda: SNIP(num_batches=True), "`num_batches` must be an integer"),
        (lambda: SNIP(scoring_mode="test"), "`scoring_mode` must be one of train, eval, None, got 'test'"),
        (lambda: GraSP(temperature=0), "`temperature` must be in .0, inf., got 0. `None` switches it off"),
        (lambda: GraSP(conformance="original"), "`conformance` must be one of paper, reference, got"),
        (lambda: FORCE(iterations=2.5), "`iterations` must be an integer of at least 1, got 2.5"),
        (lambda: FORCE(schedule="cosine"), "`schedule` must be one of exponential, linear, got 'cosine'"),
        (lambda: IterativeSNIP(allocation="er"), "`allocation` must be one of global, uniform"),
        (lambda: SynFlow(iterations=0), "`iterations` must be an integer of at least 1, got 0"),
        (lambda: SynFlow(input_shape=[3, -1]), "`input_shape` must be an integer of at least 1, got -1"),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_methods_without_what_they_need():
    problem = PruningProblem(nn.Module(), {"w": torch.ones(4)}, torch.Generator())
    with pytest.raises(ValueError, match="needs a loss; give `losses`"):
        SNIP().scores(problem)
    with pytest.raises(ValueError, match="needs an input of the net; give `inputs`"):
        SynFlow().scores(problem)
