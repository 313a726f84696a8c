"""N:M worked by hand, its counts, and that a new pattern is one class."""

import itertools
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from devices import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_sparse import Magnitude, PruningProblem, Random, SynFlow
from lightning_sparse.functional.growth import SET, ActiveWeights, RigL, move
from lightning_sparse.functional.growth.moves import drop_and_grow, drop_and_grow_at_random
from lightning_sparse.functional.masks import count_kept, global_masks, layerwise_masks
from lightning_sparse.functional.patterns import NM, UNSTRUCTURED, Pattern, pattern_from_name
from lightning_sparse.functional.pruning import masks_from_scores, plan_budgets, prune_along
from lightning_sparse.functional.ranking import positions_of


def bools(*rows):
    return torch.tensor([[c == "x" for c in row] for row in rows])


def per_group(mask, m):
    return mask.reshape(-1, m).sum(1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("pattern", "scores", "expected"),
    [
        (NM(2, 4), [[1, 2, 3, 4], [4, 3, 2, 1]], ["..xx", "xx.."]),
        (NM(2, 4), [[1, 1, 1, 1], [0, 5, 5, 5]], ["xx..", ".xx."]),  # ties: the first
        (NM(2, 4), [[9, 9, 9, 9, 1, 1, 2, 3]], ["xx....xx"]),  # each group by itself, within a row too
        (NM(1, 4), [[-1, -2, -3, -4], [0, 0, 0, -0.0]], ["x...", "x..."]),
        (NM(1, 2), [[1, 2, 2, 1]], [".xx."]),
        (NM(2, 2), [[1, 2, 2, 1]], ["xxxx"]),
        (NM(2, 4), [[-torch.inf, -torch.inf, 0, -torch.inf]], ["x.x."]),
    ],
)
def test_hand_worked(device, pattern, scores, expected):
    scores = torch.tensor(scores, dtype=torch.float32, device=device)
    budget = int(scores.numel() * pattern.n / pattern.m)
    [mask] = layerwise_masks({"w": scores}, {"w": budget}, pattern=pattern).values()
    assert torch.equal(mask.cpu(), bools(*expected))
    assert torch.equal(pattern.best({"w": scores.to(torch.bfloat16)}, budget)["w"].cpu(), mask.cpu())


def test_groups_run_along_inputs():
    """Two channels at one tap are a group: of each tap the better channel is kept."""
    scores = torch.tensor([[[1.0, 4.0], [3.0, 2.0]], [[9.0, 1.0], [2.0, 8.0]]])
    mask = NM(1, 2).best({"w": scores}, 4)["w"]
    assert mask.tolist() == [[[False, True], [True, False]], [[True, False], [False, True]]]
    kernel = torch.randn(6, 8, 3, 3)
    kept = NM(2, 4).best({"w": kernel}, kernel.numel() // 2)["w"]
    assert kept.unflatten(1, (2, 4)).sum(2).eq(2).all()


def test_both_ways_to_share_a_budget_out():
    torch.manual_seed(0)
    scores = {"a": torch.rand(6, 8), "b": torch.rand(4, 4, 3, 3)}
    separately = {name: NM(2, 4).best({name: s}, s.numel() // 2)[name] for name, s in scores.items()}
    for ranking in ("global", "uniform"):
        masks = masks_from_scores(scores, 0.5, ranking, pattern=NM(2, 4))
        assert all(torch.equal(masks[name], separately[name]) for name in scores)
    assert list(masks) == ["a", "b"]
    assert count_kept(global_masks(scores, 48, pattern=NM(1, 4))) == 48


SHAPES = {"fc": torch.Size([5, 8]), "conv": torch.Size([4, 3, 3, 3])}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: plan_budgets(SHAPES, 0.5, "global", pattern=NM(2, 4)),
            r"`pattern` 2:4 needs a multiple of 4 inputs, got shape .4, 3, 3, 3. of 'conv'.*`exclude`",
        ),
        (
            lambda: plan_budgets({"fc": SHAPES["fc"]}, 0.4, "global", pattern=NM(2, 4)),
            r"`pattern` 2:4 keeps 20 of the 40 weights of fc, got 16 to keep. Set `density` to 0.5, with",
        ),
        (
            lambda: plan_budgets(
                {"fc": SHAPES["fc"], "in": torch.Size([2, 4])}, 0.5, "erk", pattern=NM(2, 4)
            ),
            r"`pattern` 2:4 keeps 20 of the 40 weights of fc, got 16 to keep.*'uniform'",
        ),
        (
            lambda: plan_budgets({"bias": torch.Size([8])}, 0.5, "global", pattern=NM(2, 4)),
            r"multiple of 4 inputs, got shape \(8,\) of 'bias'",
        ),
        (
            lambda: masks_from_scores(
                {"a": torch.rand(2, 4), "b": torch.rand(2, 4)},
                0.5,
                "global",
                fixed={"a": 1.0},
                min_weights=0,
                pattern=NM(2, 4),
            ),
            r"`pattern` 2:4 keeps 4 of the 8 weights of a, got 8 to keep",
        ),
        (
            lambda: NM(2, 4).best({"w": torch.tensor([[1.0, torch.nan, 1.0, 1.0]])}, 2),
            r"`scores` must not contain NaN, got 1 in 'w'",
        ),
        (lambda: NM(5, 4), r"`n` must be at most `m`, 4, got 5"),
        (lambda: NM(0, 4), r"`n` must be an integer of at least 1, got 0"),
        (
            lambda: pattern_from_name("2x4"),
            r"must be unstructured, or N:M such as '2:4', got '2x4'",
        ),
        (
            lambda: drop_and_grow(bools("xxx."), torch.ones(1, 4), torch.ones(1, 4), 0.0, pattern=NM(2, 4)),
            r"`pattern` 2:4 keeps 2 of the 4 weights",
        ),
        (
            lambda: drop_and_grow(
                bools("xxx.", "x..."), torch.ones(2, 4), torch.ones(2, 4), 0.0, pattern=NM(2, 4)
            ),
            r"`pattern` 2:4 lets 2 of every 4 weights be active, got more in a group. Start from masks of",
        ),
    ],
)
def test_what_is_not_legal_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_names():
    assert pattern_from_name("1:16") == NM(1, 16)
    assert pattern_from_name("unstructured") is UNSTRUCTURED
    assert pattern_from_name(NM(2, 4)) == NM(2, 4)
    assert repr(NM(2, 4)) == "NM(n=2, m=4)"


def test_budgets_of_a_pattern():
    shapes = {"a": torch.Size([5, 8]), "b": torch.Size([3, 4])}
    assert plan_budgets(shapes, 0.5, "uniform", pattern=NM(2, 4)) == {"a": 20, "b": 6}
    assert plan_budgets(shapes, 0.5, "global", pattern=NM(2, 4)) == {}
    assert plan_budgets(shapes, 0.5, "global", fixed={"b": 0.5}, pattern=NM(1, 2)) == {"b": 6}


def counted(net):
    """Return a problem, and how often its input was asked for."""
    asked = []

    def inputs():
        asked.append(1)
        return torch.zeros(1, 8)

    weights = {name: p for name, p in net.named_parameters() if p.ndim > 1}
    return PruningProblem(net, weights, torch.Generator().manual_seed(0), inputs=inputs), asked


def test_methods_prune_to_a_pattern():
    torch.manual_seed(0)
    problem, asked = counted(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3)))
    for method in (Magnitude(), Random("uniform"), SynFlow(1)):
        [masks] = prune_along(method, problem, 0.5, pattern=NM(2, 4))
        assert all((per_group(mask, 4) == 2).all() for mask in masks.values())
    [lowest] = prune_along(Magnitude(), problem, 0.5, keep_lowest=True, pattern=NM(2, 4))
    [highest] = prune_along(Magnitude(), problem, 0.5, pattern=NM(2, 4))
    assert all(torch.equal(lowest[name], ~highest[name]) for name in highest)
    asked.clear()
    with pytest.raises(ValueError, match=r"keeps 66 of the 132 .* got 105 to keep.*method of one iteration"):
        list(prune_along(SynFlow(3), problem, 0.5, pattern=NM(2, 4)))
    assert not asked  # before anything was scored


@pytest.mark.parametrize(
    ("mask", "drop", "grow", "fraction", "expected"),
    [
        # Two of four active ones go, one of each group; the best of the same group takes its place.
        ("xx..xx..", [1, 9, 0, 0, 9, 2, 0, 0], [0, 0, 1, 2, 0, 0, 9, 8], 0.5, ".x.xx.x."),
        # Both go in the same group: it is filled up by its own best, though the other group scores higher.
        ("xx..xx..", [1, 2, 0, 0, 8, 9, 0, 0], [0, 0, 1, 2, 0, 0, 9, 8], 0.5, "..xxxx.."),
        # A dropped one comes back, where it scores best.
        ("xx..xx..", [1, 9, 0, 0, 9, 2, 0, 0], [7, 0, 1, 2, 0, 9, 3, 8], 0.5, "xx..xx.."),
        # What is kept stays, however high others score.
        ("xx..xx..", [1, 2, 0, 0, 8, 9, 0, 0], [0, 0, 9, 9, 0, 0, 9, 9], 0.25, ".xx.xx.."),
        ("xx..xx..", [1, 2, 0, 0, 8, 9, 0, 0], [0, 0, 9, 9, 0, 0, 9, 9], 0.0, "xx..xx.."),
    ],
)
def test_growth_within_groups(mask, drop, grow, fraction, expected):
    new = drop_and_grow(
        bools(mask), torch.tensor([drop]).float(), torch.tensor([grow]).float(), fraction, pattern=NM(2, 4)
    )
    assert torch.equal(new, bools(expected))


@settings(deadline=None, max_examples=50)
@given(
    pattern=st.sampled_from([NM(2, 4), NM(1, 4), NM(4, 4), NM(3, 6)]),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_rules_keep_to_a_pattern(pattern, fraction, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = torch.Size([3, 2 * pattern.m])
    size = shape.numel()
    weight, gradient = torch.randn((2, *shape), generator=generator)
    mask = pattern.best({"w": torch.rand(shape, generator=generator)}, size * pattern.n // pattern.m)["w"]
    positions = positions_of(mask)
    active = ActiveWeights(weight.view(-1)[positions], positions, shape, generator, lambda: gradient)
    survivors = set(
        positions[active.values.abs().argsort(descending=True)][
            : len(positions) - int(fraction * len(positions))
        ].tolist()
    )
    for rule in (RigL(), SET()):
        new = move(rule, active, fraction, pattern=pattern)
        moved = torch.zeros(size, dtype=torch.bool).index_fill_(0, new, True)
        assert (per_group(moved, pattern.m) == pattern.n).all()
        assert (new[1:] > new[:-1]).all()
        assert survivors <= set(new.tolist())


def test_random_growth_within_a_group_prefers_none():
    old, scores, generator = bools("xx...."), torch.arange(6.0).view(1, 6), torch.Generator().manual_seed(0)
    grown = Counter(
        tuple(positions_of(drop_and_grow_at_random(old, scores, 1.0, generator, pattern=NM(2, 6))).tolist())
        for _ in range(3000)
    )
    assert set(grown) == set(itertools.combinations(range(6), 2))
    expected = 3000 / 15
    assert sum((n - expected) ** 2 / expected for n in grown.values()) < 14 + 5 * 28**0.5


def test_a_new_pattern_is_one_class():
    @dataclass(frozen=True)
    class Rows(Pattern):
        """Whole rows are kept, those that score highest in all."""

        def check(self, shapes, k):
            if k % sum(shape[1] for shape in shapes.values()):
                raise ValueError("whole rows only")

        def best(self, scores, k):
            self.check({name: score.shape for name, score in scores.items()}, k)
            [(name, score)] = scores.items()
            rows = UNSTRUCTURED.best({"rows": score.sum(1)}, k // score.shape[1])["rows"]
            return {name: rows[:, None].expand(score.shape).clone()}

        def filled(self, kept, scores, k):
            rows = scores.clone()
            rows.view(-1)[kept] = torch.finfo(scores.dtype).max
            return self.best({"w": rows}, k)["w"]

        def filled_at_random(self, kept, shape, k, generator):
            return self.filled(kept, torch.rand(shape, generator=generator), k)

    weights = {"w": torch.tensor([[1.0, 1.0], [0.0, 9.0], [2.0, 3.0]])}
    problem = PruningProblem(nn.Module(), weights, torch.Generator())
    [masks] = prune_along(Magnitude(), problem, 0.66, pattern=Rows())
    assert masks["w"].tolist() == [[False, False], [True, True], [True, True]]
