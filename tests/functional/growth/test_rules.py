"""A rule and what is made of it: the same moves as by the functions, and no tensor more than they need."""

import weakref
from dataclasses import dataclass

import pytest
import torch

from lightning_sparse.functional.growth import (
    GROWTH_RULES,
    SET,
    ActiveWeights,
    GrowthRule,
    RigL,
    move,
    register_rule,
    rule_from_name,
)
from lightning_sparse.functional.growth.moves import (
    draws_of,
    move_support,
    move_support_at_random,
    positions_of,
)


def active(shape=(40, 30), density=0.2, seed=0, dtype=torch.int64):
    """Return active weights at random and the gradient of all of them."""
    generator = torch.Generator().manual_seed(seed)
    positions = positions_of(torch.rand(shape, generator=generator) < density).to(dtype)
    values = torch.randn(len(positions), generator=generator)
    gradient = torch.randn(shape, generator=generator)
    return ActiveWeights(
        values, positions, torch.Size(shape), draws_of(seed, 7, "w"), lambda: gradient
    ), gradient


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
