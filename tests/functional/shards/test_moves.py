"""Connections that move on several processes are those that move in one."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shards_toy import on_each

from lightning_sparse.callbacks.moving.gradients import usable_gradients
from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.growth import ActiveWeights, RigL, move, rule_from_name
from lightning_sparse.functional.growth.shards import move_in_shards, needs_whole_layers
from lightning_sparse.functional.ranking import mask_at, positions_of


def active(weight, mask, gradient):
    positions = positions_of(mask)
    return ActiveWeights(
        values=weight.reshape(-1)[positions],
        positions=positions,
        shape=weight.shape,
        draws=torch.Generator(),
        gradient=lambda: gradient,
    )


def draw_layer(seed, rows):
    """Weights and gradients of few values: most of them tie, and many are zero."""
    draws = torch.Generator().manual_seed(seed)
    weight, gradient = (torch.randint(-2, 3, (rows, 5), generator=draws).float() for _ in range(2))
    return weight, torch.rand(rows, 5, generator=draws) < 0.4, gradient


def moved(layers, fraction, count, rule=None):
    def act(shards):
        mine = [active(*(shards.of(tensor).contiguous() for tensor in layer)) for layer in layers]
        names = [str(number) for number in range(len(layers))]
        found = move_in_shards(rule or RigL(), mine, fraction, names, shards)
        shapes = [shards.of(layer[0]).shape for layer in layers]
        return [mask_at(positions, shape) for positions, shape in zip(found, shapes, strict=True)]

    return [torch.cat(parts) for parts in zip(*on_each(count, act)[0], strict=True)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 999), min_size=1, max_size=3), st.floats(0, 1), st.integers(1, 4))
def test_as_in_one_process(seeds, fraction, count):
    layers = [draw_layer(seed, 1 + seed % 6) for seed in seeds]
    for layer, found in zip(layers, moved(layers, fraction, count), strict=True):
        expected = mask_at(move(RigL(), active(*layer), fraction), layer[0].shape)
        assert torch.equal(found, expected)


def test_by_hand():
    """Of four active weights the two smallest go, wherever they are; the largest gradients grow."""
    weight = torch.tensor([[4.0, 1.0, 0.0], [3.0, 2.0, 0.0]])
    gradient = torch.tensor([[0.0, 5.0, 1.0], [0.0, 0.0, 4.0]])
    (found,) = moved([(weight, weight != 0, gradient)], 0.5, 2)
    assert found.tolist() == [[True, True, False], [True, False, True]]


@pytest.mark.parametrize("where", ["weight", "gradient"])
def test_every_process_refuses_what_is_not_finite_on_one(where):
    weight, gradient = torch.ones(2, 3), torch.ones(2, 3)
    {"weight": weight, "gradient": gradient}[where][1, 2] = torch.nan

    def act(shards):
        mine = active(shards.of(weight), shards.of(weight).isnan() | True, shards.of(gradient))
        with pytest.raises(SparsityError, match="of 'fc' must be finite, got 1"):
            move_in_shards(RigL(), [mine], 0.5, ["fc"], shards)
        return True

    assert on_each(2, act)[0] == [True, True]


@pytest.mark.parametrize("broken", ["gradient", "weight"])
def test_a_step_is_unusable_on_every_process_or_none(broken):
    """One process has what is not finite: those that went on without it would wait for it."""

    def act(shards):
        bad = torch.nan if shards.number == 1 else 1.0
        parameter = torch.nn.Parameter(torch.tensor([bad if broken == "weight" else 1.0]))
        parameter.grad = torch.tensor([bad])
        weight = SimpleNamespace(name="fc", shards=shards, active=parameter.detach())
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        if broken == "gradient":
            return usable_gradients(optimizer, [weight])
        with pytest.raises(SparsityError, match="of 'fc' must be finite, got 1"):
            usable_gradients(optimizer, [weight])
        return False

    assert on_each(2, act)[0] == [False, False]


def test_a_rule_that_draws_is_refused():
    assert "SET() looks at whole layers" in needs_whole_layers(rule_from_name("set"))
    with pytest.raises(SparsityError, match="`rule` cannot move sharded weights"):
        moved([draw_layer(0, 3)], 0.5, 2, rule_from_name("set"))
