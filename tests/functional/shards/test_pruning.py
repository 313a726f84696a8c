"""Masks of one-shot methods on several processes are those of one."""

import pytest
import torch
from shards_toy import on_each
from torch import nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.pruning import prune_along, random_masks
from lightning_sparse.functional.saliency import (
    SNIP,
    Magnitude,
    PruningMethod,
    PruningProblem,
    Random,
    SynFlow,
    method_from_name,
)
from lightning_sparse.functional.shards.pruning import (
    needs_whole_weights,
    prune_anywhere,
    random_masks_anywhere,
)

WEIGHTS = {
    "a.weight": torch.randn(7, 4),
    "b.weight": torch.randn(1, 7),
    "c.weight": torch.randint(0, 3, (5, 6)) * 1.0,
}


class OfRows(PruningMethod):
    """Stands in for scores of gradients: those of this process's rows, whatever the weights are."""

    takes_shards = needs_loss = True

    def __init__(self, of_whole):
        super().__init__("global")
        self.of_whole = of_whole

    def scores(self, problem):
        shards = problem.shards
        return {n: s if shards is None else shards.of(s) for n, s in self.of_whole.items()}


def problem(shards=None, weights=WEIGHTS):
    return PruningProblem(nn.Module(), weights, torch.Generator().manual_seed(3), shards=shards)


def joined(parts):
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", ["random", "erk", "uniform", "epl", "of rows"])
@pytest.mark.parametrize("fixed", [{}, {"b.weight": 0.5}])
def test_as_in_one_process(name, count, fixed):
    method = OfRows({n: w.abs() for n, w in WEIGHTS.items()}) if name == "of rows" else method_from_name(name)
    how = {"fixed": fixed, "min_weights": 2}
    (expected,) = prune_along(method, problem(), 0.3, prunes=False, **how)
    found, _ = on_each(count, lambda s: list(prune_anywhere(method, problem(s), 0.3, **how))[-1])
    masks = joined(found)
    assert all(torch.equal(masks[n], expected[n]) for n in WEIGHTS)


@pytest.mark.parametrize("ranking", ["global", "erk"])
def test_draws_of_rigl(ranking):
    draws = torch.Generator().manual_seed(3)
    expected = random_masks(WEIGHTS, 0.3, ranking, draws, fixed={})
    masks = joined(on_each(2, lambda s: random_masks_anywhere(problem(s), 0.3, ranking, {}))[0])
    assert all(torch.equal(masks[n], expected[n]) for n in WEIGHTS)


@pytest.mark.parametrize(
    ("score", "message"),
    [(torch.nan, "1 scores of 'c.weight' are not finite"), (0.0, "Only 0 scores are not zero")],
)
def test_every_process_refuses_scores_that_cannot_rank(score, message):
    scores = {n: torch.zeros_like(w) for n, w in WEIGHTS.items()}
    scores["c.weight"][4, 5] = score

    def act(shards):
        with pytest.raises(SparsityError, match=message):
            list(prune_anywhere(OfRows(scores), problem(shards), 0.3, fixed={}, min_weights=1))
        return True

    assert on_each(2, act)[0] == [True, True]


@pytest.mark.parametrize(
    ("method", "how", "reason"),
    [
        (SynFlow(), {}, "SynFlow needs the net and its weights whole"),
        (SNIP(conformance="reference"), {}, "`conformance` 'reference' of SNIP"),
        (Random("epf"), {}, "`allocation` 'epf' counts by filter"),
        (Magnitude(), {"keep_lowest": True}, "'invert' is not there"),
    ],
)
def test_what_needs_whole_weights_says_so(method, how, reason):
    assert reason in needs_whole_weights(method, **how)
    shards = on_each(1, lambda s: s)[0][0]
    with pytest.raises(SparsityError, match=f"`method` cannot be used on sharded weights: .*{reason}"):
        list(prune_anywhere(method, problem(shards), 0.3, fixed={}, min_weights=1, **how))


def test_what_is_scored_lowest_is_no_overflow():
    """As in one process: a method may say so of what it never keeps."""
    scores = {n: w.abs() + 1 for n, w in WEIGHTS.items()}
    scores["c.weight"][0] = -torch.inf
    how = {"fixed": {}, "min_weights": 1}
    (expected,) = prune_along(OfRows(scores), problem(), 0.3, prunes=False, **how)
    masks = joined(on_each(2, lambda s: list(prune_anywhere(OfRows(scores), problem(s), 0.3, **how))[-1])[0])
    assert all(torch.equal(masks[n], expected[n]) for n in WEIGHTS)


def test_what_does_not():
    for method in ("random", "erk", "uniform", "epl", "magnitude", "snip", "gradient"):
        assert not needs_whole_weights(method_from_name(method)), method
