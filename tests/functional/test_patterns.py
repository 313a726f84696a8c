"""N:M worked by hand, its counts, and that a new pattern is one class."""

import itertools
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
import yaml
from devices import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_sparse import Magnitude, PruningProblem, Random, SynFlow
from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.allocation import ALLOCATIONS, allocate
from lightning_sparse.functional.budgets import total_budget
from lightning_sparse.functional.growth import SET, ActiveWeights, RigL, move
from lightning_sparse.functional.growth.moves import drop_and_grow, drop_and_grow_at_random
from lightning_sparse.functional.masks import count_kept, global_masks, layerwise_masks
from lightning_sparse.functional.patterns import (
    NM,
    UNSTRUCTURED,
    LayerwiseNM,
    Pattern,
    density_within,
    pattern_from_name,
    weights_within,
)
from lightning_sparse.functional.planned import reserving
from lightning_sparse.functional.pruning import masks_from_scores, plan_budgets, prune_along
from lightning_sparse.functional.ranking import positions_of


def bools(*rows):
    return torch.tensor([[c == "x" for c in row] for row in rows])


def per_group(mask, m):
    return mask.reshape(-1, m).sum(1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(700, 320), (40, 320, 3, 3), (3, 0), (0, 64)])
@pytest.mark.parametrize("pattern", [NM(2, 4), NM(5, 16), NM(3, 32), NM(7, 64)])
def test_pairs_and_sorts_keep_the_same(device, pattern, shape):
    """Small groups are compared pair by pair, large ones sorted; here beside Python's sort, with ties."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-9, 9, shape, generator=generator).float().to(device)
    mask = pattern.best({"w": scores}, scores.numel() // pattern.m * pattern.n)["w"]
    assert mask.shape == shape
    assert mask.is_contiguous()
    rows = scores.movedim(1, -1).reshape(-1, pattern.m).tolist()
    kept = mask.movedim(1, -1).reshape(-1, pattern.m).tolist()
    for row, keep in list(zip(rows, kept, strict=True))[-500:]:
        first = sorted(range(pattern.m), key=lambda i: -row[i])[
            : pattern.n
        ]  # stable: of equal ones the first
        assert [i for i in range(pattern.m) if keep[i]] == sorted(first)


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
            r"must be unstructured, N:M such as '2:4', or n:M such as 'n:4', got '2x4'",
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
    assert pattern_from_name("n:16") == LayerwiseNM(16)
    for text in ("2:4", "1:8", "4:4", "n:4", "3:59"):
        read = yaml.safe_load(text)  # 2:4 without quotes is a number to the base 60
        assert str(pattern_from_name(read)) == str(pattern_from_name(text)) == text
    for wrong in (True, 4, 60, 2.5, None, "n:0", "0:4", "5:4", ":4", "n:m"):
        with pytest.raises(SparsityError, match=r"^`(pattern|n|m)` must be"):
            pattern_from_name(wrong)


def test_budgets_of_a_pattern():
    shapes = {"a": torch.Size([5, 8]), "b": torch.Size([3, 4])}
    assert plan_budgets(shapes, 0.5, "uniform", pattern=NM(2, 4)) == {"a": 20, "b": 6}
    assert plan_budgets(shapes, 0.5, "global", pattern=NM(2, 4)) == {"a": 20, "b": 6}  # known without scores
    assert plan_budgets(shapes, 0.5, "global", fixed={"b": 0.5}, pattern=NM(1, 2)) == {"a": 20, "b": 6}


# n:M, with an n for each layer.


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        # Groups: 8 and 2. 15 is 1.875 of 8, 5 is 2.5 of 2: 8 + 4 = 12 of 20, so the first is rounded up.
        ({"a": 15, "b": 5}, {"a": 16, "b": 4}),
        ({"a": 8, "b": 2}, {"a": 8, "b": 2}),
        ({"a": 11, "b": 3}, {"a": 8, "b": 4}),  # 14: 0.5 of 2 first, then 8 more would be further away
        ({"a": 12, "b": 2}, {"a": 8, "b": 2}),  # 8 up or 8 down would be as near: down
        ({"a": 13, "b": 2}, {"a": 16, "b": 2}),
        ({"a": 31, "b": 8}, {"a": 32, "b": 8}),
        ({"a": 3, "b": 1}, {"a": 8, "b": 2}),  # of every four at least one
    ],
)
def test_nearest_counts_by_hand(budgets, expected):
    assert LayerwiseNM(4).nearest({"a": torch.Size([4, 8]), "b": torch.Size([2, 4])}, budgets) == expected


@settings(deadline=None, max_examples=60)
@given(
    m=st.sampled_from([2, 3, 4, 8]),
    outs=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    ins=st.lists(st.integers(1, 5), min_size=5, max_size=5),
    density=st.floats(0.05, 1),
    allocation=st.sampled_from(sorted(ALLOCATIONS)),
    least=st.integers(0, 30),
)
def test_layerwise_counts_are_legal_and_near(m, outs, ins, density, allocation, least):
    """Each a multiple of its groups, and enough; the sum off by half a layer's groups at most."""
    shapes = {
        f"l{i}": torch.Size([out, many * m]) for i, (out, many) in enumerate(zip(outs, ins, strict=False))
    }
    groups = {name: shape.numel() // m for name, shape in shapes.items()}
    lowest = sum(LayerwiseNM(m).least(shape, least) for shape in shapes.values())
    if total_budget(sum(shape.numel() for shape in shapes.values()), density) < lowest:
        with pytest.raises(SparsityError, match="`density` must keep at least"):
            allocate(shapes, density, allocation, min_weights=least, pattern=LayerwiseNM(m))
        return
    budgets = allocate(shapes, density, allocation, min_weights=least, pattern=LayerwiseNM(m))
    for name, budget in budgets.items():
        assert budget % groups[name] == 0
        assert max(groups[name], min(least, shapes[name].numel())) <= budget <= shapes[name].numel()
        LayerwiseNM(m).check({name: shapes[name]}, budget)
    total = sum(allocate(shapes, density, allocation, min_weights=0).values())
    assert abs(sum(budgets.values()) - total) <= max(groups.values()) / 2


def test_layerwise_masks_keep_n_of_every_group():
    torch.manual_seed(0)
    scores = {"conv": torch.rand(16, 8, 3, 3), "grouped": torch.rand(8, 4, 5), "fc": torch.rand(10, 64)}
    shapes = {name: score.shape for name, score in scores.items()}
    budgets = allocate(shapes, 0.4, "erk", pattern=LayerwiseNM(4))
    masks = masks_from_scores(scores, 0.4, "erk", pattern=LayerwiseNM(4))
    ns = {}
    for name, mask in masks.items():
        [ns[name]] = mask.unflatten(1, (-1, 4)).sum(2).unique().tolist()
        assert count_kept({name: mask}) == budgets[name]
    assert ns == {"conv": 1, "grouped": 2, "fc": 3}  # 288 at least, then 92.1 of 40 groups, 400.9 of 160
    fixed = masks_from_scores(scores, 0.6, "erk", fixed={"fc": 0.7}, min_weights=0, pattern=LayerwiseNM(4))
    assert fixed["fc"].sum() == 3 * 160  # 0.7 is nearest to 3 of 4
    with pytest.raises(SparsityError, match=r"n:4 needs a count for each layer.*SNIP\(allocation='erk'\)"):
        masks_from_scores(scores, 0.4, "global", pattern=LayerwiseNM(4))
    with pytest.raises(SparsityError, match=r"keep at least 488 weights \(`pattern` is n:4\), got 0.2"):
        plan_budgets(shapes, 0.2, "erk", pattern=LayerwiseNM(4))


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 6),
    more=st.integers(0, 6),
    shape=st.sampled_from([(3, 2), (1, 1), (2, 3, 3), (4, 1, 2, 2), (2, 2, 1, 3, 2)]),
    levels=st.sampled_from([1, 2, 1000]),
    seed=st.integers(0, 99),
)
def test_groups_are_exact_for_any_shape_and_ties(n, more, shape, levels, seed):
    """Every group keeps n, its best; of equal scores the first. Slow and plain: group by group in Python."""
    m = n + more
    generator = torch.Generator().manual_seed(seed)
    size = torch.Size([shape[0], shape[1] * m, *shape[2:]])
    scores = torch.randint(0, levels, size, generator=generator).double()
    mask = NM(n, m).best({"w": scores}, size.numel() // m * n)["w"]
    rows, kept = (t.movedim(1, -1).reshape(-1, m).tolist() for t in (scores, mask))
    for row, got in zip(rows, kept, strict=True):
        first = sorted(range(m), key=lambda i: (-row[i], i))[:n]
        assert [i for i in range(m) if got[i]] == sorted(first)


def test_a_matrix_is_laid_out_as_the_semi_structured_kernels_want_it():
    """Of each four in a row of the matrix two, which then survive being packed and unpacked."""
    packing = pytest.importorskip("torch.sparse._semi_structured_conversions")
    torch.manual_seed(0)
    weight = torch.randn(64, 128)
    mask = NM(2, 4).best({"w": weight.abs()}, weight.numel() // 2)["w"]
    assert mask.view(64, -1, 4).sum(2).eq(2).all()
    dense = (weight * mask).half()
    packed = packing.sparse_semi_structured_from_dense_cutlass(dense)
    assert torch.equal(packing.sparse_semi_structured_to_dense_cutlass(*packed), dense)
    top = UNSTRUCTURED.best({"w": weight.abs()}, weight.numel() // 2)["w"]
    lost = packing.sparse_semi_structured_from_dense_cutlass((weight * top).half())
    assert not torch.equal(packing.sparse_semi_structured_to_dense_cutlass(*lost), (weight * top).half())


def test_what_cannot_have_a_pattern_stays_dense():
    weights = {
        "conv": torch.zeros(8, 3, 3, 3),
        "depthwise": torch.zeros(8, 1, 3, 3),
        "fc": torch.zeros(10, 8),
    }
    message = r"without a multiple of 4 inputs stay dense under `pattern` 2:4: conv, depthwise \(2 in all\). "
    with pytest.warns(UserWarning, match=message + r"They hold 288 weights, 78.26% of those selected"):
        assert list(weights_within(weights, NM(2, 4))) == ["fc"]
    assert list(weights_within(weights, UNSTRUCTURED)) == list(weights)
    with pytest.raises(SparsityError, match=r"`pattern` n:7 needs a multiple of 7 inputs, and no selected"):
        weights_within(weights, LayerwiseNM(7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.1, "uniform"), "`density` must be 0.5 with `pattern` 2:4, or left out, got 0.1"),
        ((2.0, "uniform"), r"`density` must be in \(0, 1\]"),
        ((None, "uniform", {"*": 1.0}), "`density_overrides` must be left out with `pattern` 2:4"),
        ((0.5, "erk"), "`allocation` must be 'uniform' or 'global' with `pattern` 2:4.*write 'n:M'"),
    ],
)
def test_arguments_that_a_pattern_contradicts(arguments, message):
    with pytest.raises(SparsityError, match=message):
        density_within(NM(2, 4), *arguments)
    assert density_within(NM(2, 4), None, "global") == density_within(NM(2, 4), 0.5, "uniform") == 0.5
    assert density_within(NM(1, 3), 0.333, "uniform") == 1 / 3
    assert density_within(LayerwiseNM(4), 0.37, "erk", {"*": 1.0}) == 0.37


def test_a_minimum_that_a_pattern_cannot_have():
    with pytest.raises(SparsityError, match=r"`min_weights_per_layer` must be at most 20.*got 30"):
        plan_budgets({"a": torch.Size([5, 8])}, 0.5, "uniform", min_weights=30, pattern=NM(2, 4))


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
    with pytest.raises(ValueError, match=r"keeps 48 of the 96 weights of 0.weight, got 39 to keep"):
        list(prune_along(SynFlow(3), problem, 0.4, pattern=NM(2, 4)))
    assert not asked  # before anything was scored


def test_an_iterative_method_ends_in_a_pattern():
    """On the way the n best of every group stay, so the last iteration never brings back what was pruned."""
    torch.manual_seed(0)
    problem, _ = counted(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4)))
    for pattern, allocation in ((NM(1, 4), "global"), (NM(1, 4), "uniform"), (LayerwiseNM(4), "erk")):
        steps = list(prune_along(SynFlow(5, allocation=allocation), problem, 0.25, pattern=pattern))
        counts = [count_kept(masks) for masks in steps]
        assert counts == sorted(counts, reverse=True)
        assert counts[-1] == 36
        for before, after in itertools.pairwise(steps):
            assert all((after[name] & ~before[name]).sum() == 0 for name in after)
            assert all(per_group(mask, 4).min() >= 1 for mask in before.values())
        assert any(per_group(mask, 4).unique().numel() > 1 for mask in steps[0].values())  # not yet
        assert all((per_group(mask, 4) == 1).all() for mask in steps[-1].values())


def test_what_is_reserved_by_hand():
    """The best of each group is above all others, which keep their order."""
    scores = {"fc": torch.tensor([[1.0, 2.0, 9.0, 8.0]])}
    assert reserving(scores, {"fc": 2}, NM(1, 2))["fc"].tolist() == [[1.0, torch.inf, torch.inf, 8.0]]
    assert scores["fc"].tolist() == [[1.0, 2.0, 9.0, 8.0]]


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
