"""A rule and what is made of it: the same moves as by the functions, and no tensor more than they need."""

import math
import weakref
from dataclasses import dataclass

import pytest
import torch
from ops import Ops

from lightning_sparse.functional.growth import (
    GROWTH_RULES,
    SET,
    ActiveWeights,
    GrowthRule,
    RigL,
    move,
    move_together,
    register_rule,
    rule_from_name,
    together,
)
from lightning_sparse.functional.growth.moves import (
    draws_of,
    move_support,
    move_support_at_random,
    positions_of,
)
from lightning_sparse.functional.ranking import first_of_sorted


def active(shape=(40, 30), density=0.2, seed=0, dtype=torch.int64):
    """Return active weights at random and the gradient of all of them."""
    generator = torch.Generator().manual_seed(seed)
    positions = positions_of(torch.rand(shape, generator=generator) < density).to(dtype)
    values = torch.randn(len(positions), generator=generator)
    gradient = torch.randn(shape, generator=generator)
    return ActiveWeights(
        values, positions, torch.Size(shape), draws_of(seed, 7, "w"), lambda: gradient
    ), gradient


def as_on_a_gpu(monkeypatch, most=200):
    """Rank layers together, in groups of so many weights."""
    monkeypatch.setattr(together, "computes_later", lambda _: True)
    monkeypatch.setattr(together, "_MOST_WEIGHTS", most)


@pytest.mark.parametrize("values", ["apart", "many equal", "all equal", "half precision"])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_layers_move_together_as_each_would_by_itself(monkeypatch, values, fraction):
    as_on_a_gpu(monkeypatch)
    shapes = [(40, 30), (3, 2, 3, 3), (1, 1), (10, 10), (5, 4), (6, 6)]
    rounded = {"apart": lambda x: x, "many equal": torch.round, "all equal": torch.ones_like}
    change = rounded.get(values, lambda x: x.half())
    layers = []
    for seed, shape in enumerate(shapes):
        density = [0.2, 0.9, 1.0, 0.0, 0.5, 1.0][seed]
        made, gradient = active(shape, density, seed, [torch.int32, torch.int64][seed % 2])
        dense = change(gradient)
        layers.append(
            ActiveWeights(
                change(made.values), made.positions, made.shape, made.draws, lambda dense=dense: dense
            )
        )
    names = [str(seed) for seed in range(len(shapes))]
    expected = [move(RigL(), layer, fraction) for layer in layers]
    found = move_together(RigL(), layers, fraction, names)
    assert [one.dtype for one in found] == [layer.positions.dtype for layer in layers]
    assert all(map(torch.equal, found, expected))
    assert all(map(torch.equal, move_together(SET(), layers, 0.0, names), [x.positions for x in layers]))


def test_layers_larger_than_a_group_are_ranked_by_themselves(monkeypatch):
    """What is laid end to end takes three times the memory, which a wait is not worth there."""
    as_on_a_gpu(monkeypatch, 500)
    ranked, groups = together.ranked_together, []

    def ranks(rule, layers, *others):
        groups.append([layer.shape.numel() for layer in layers])
        return ranked(rule, layers, *others)

    monkeypatch.setattr(together, "ranked_together", ranks)
    layers = [active(shape)[0] for shape in [(40, 30), (10, 10), (20, 10), (40, 30)]]
    move_together(RigL(), layers, 0.3, [""] * len(layers))
    assert groups == [[100, 200]]


def test_layers_that_move_together_are_waited_for_once(monkeypatch):
    """A look at a number, or a tensor whose size depends on one, would be a wait for a GPU."""
    as_on_a_gpu(monkeypatch, 10**6)
    monkeypatch.setattr(together, "positions_of", first_of_sorted)
    layers = [active(seed=seed)[0] for seed in range(20)]
    with Ops() as ops:
        move_together(RigL(), layers, 0.3, [""] * len(layers))
    assert [ops.names.count(name) for name in ("_local_scalar_dense", "nonzero")] == [1, 0]
    assert len([name for name in ops.names if name not in ("view", "detach", "split")]) < 3 * len(layers) + 70


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ({"values": math.nan}, "Weights must be finite and not NaN, got 1 in 'b'"),
        ({"gradient": math.inf}, "`grow_scores` must be finite, got 1"),
        ({"position": 5000}, "`support` must be within the 1200 weights"),
        ({"position": 0}, "`support` must be ascending"),
    ],
)
def test_what_one_of_several_layers_cannot_be_moved_by(monkeypatch, harm, message):
    as_on_a_gpu(monkeypatch, 10**6)
    (first, _), (made, gradient) = active(seed=1), active(seed=2)
    values, positions, dense = made.values.clone(), made.positions.clone(), gradient.clone()
    values[3] = harm.get("values", 1.0)
    dense[3, 3] = harm.get("gradient", 1.0)
    positions[-1] = harm.get("position", 1199)
    second = ActiveWeights(values, positions, made.shape, made.draws, lambda: dense)
    with pytest.raises(ValueError, match=message):
        move(RigL(), second, 0.3, name="b")
    with pytest.raises(ValueError, match=message):
        move_together(RigL(), [first, second], 0.3, ["a", "b"])


def test_weights_of_layers_that_are_not_ranked_together_are_looked_at_too(monkeypatch):
    @dataclass(frozen=True)
    class Newest(GrowthRule):
        """Keeps the last positions, and grows anywhere."""

        name = "newest"
        needs_gradient = True
        needs_draws = True

        def drop_scores(self, active):
            return torch.arange(len(active.values)).float()

        def grow_scores(self, active):
            return None

    as_on_a_gpu(monkeypatch, 10**6)
    (first, _), (second, _) = active(seed=1), active(seed=2)
    second.values[3] = math.nan
    with pytest.raises(ValueError, match="Weights must be finite and not NaN, got 1 in 'b'"):
        move_together(Newest(), [first, second], 0.3, ["a", "b"])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_rules_move_as_the_functions_do(dtype, fraction):
    weights, gradient = active(dtype=dtype)
    scores = weights.values.abs()
    expected = move_support(weights.positions, scores, gradient.abs(), fraction)
    assert torch.equal(move(RigL(), weights, fraction), expected)
    size = gradient.numel()
    expected = move_support_at_random(weights.positions, scores, size, fraction, draws_of(0, 7, "w"))
    moved = move(SET(), weights, fraction)
    assert torch.equal(moved, expected)
    assert moved.dtype == dtype


def test_the_gradient_is_let_go_before_positions_are_ranked():
    held = []

    class Watched(GrowthRule):
        name = "watched"
        needs_gradient = True

        def drop_scores(self, active):
            return active.values.abs()

        def grow_scores(self, active):
            scores = RigL().grow_scores(active)
            held.append(gradients[0]() is not None)
            return scores

    weights, _ = active()
    sums = {"w": torch.randn(weights.shape)}
    gradients = [weakref.ref(sums["w"])]
    weights = ActiveWeights(
        weights.values, weights.positions, weights.shape, weights.draws, lambda: sums.pop("w")
    )
    move(Watched(), weights, 0.3)
    assert held == [False]


def test_a_rule_that_says_nothing_of_gradients_gets_none():
    weights, _ = active()
    weights = ActiveWeights(weights.values, weights.positions, weights.shape, weights.draws)
    assert len(move(SET(), weights, 0.3)) == len(weights.positions)
    with pytest.raises(ValueError, match=r"needs the dense gradient. Set `needs_gradient = True`"):
        move(RigL(), weights, 0.3)


def test_a_new_rule_is_one_class():
    """Grow next to what is active: the gradient of a neighbour is not asked for."""

    @register_rule
    @dataclass(frozen=True)
    class Neighbours(GrowthRule):
        width: int = 1
        name = "neighbours"

        def drop_scores(self, active):
            return active.values.abs()

        def grow_scores(self, active):
            near = torch.zeros(active.shape.numel())
            for shift in range(-self.width, self.width + 1):
                near[(active.positions + shift).clamp(0, len(near) - 1)] = 1
            return near

    try:
        assert rule_from_name("neighbours") == Neighbours()
        assert repr(Neighbours(2)) == f"{Neighbours.__qualname__}(width=2)"
        register_rule(Neighbours)  # again, as in a notebook
        weights = ActiveWeights(
            torch.tensor([1.0, 0.1]), torch.tensor([2, 6]), torch.Size([8]), torch.Generator()
        )
        assert move(Neighbours(), weights, 0.5).tolist() == [1, 2]  # the first of 1, 3, 5, 6, 7
    finally:
        del GROWTH_RULES["neighbours"]


def test_names_are_taken_once():
    assert rule_from_name("set") == SET()
    assert rule_from_name(RigL()) == RigL()
    with pytest.raises(ValueError, match=r"`rule` must be one of .*rigl.*, got 'rigel'; did you mean rigl"):
        rule_from_name("rigel")

    class Other(GrowthRule):
        name = "rigl"

    with pytest.raises(ValueError, match=r"`name` must be new, got 'rigl', which is .*growth\.rigl\.RigL"):
        register_rule(Other)
