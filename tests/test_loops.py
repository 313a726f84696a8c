"""Connections that move in plain loops and in Fabric's, which end with the weights of the Trainer's run."""

import copy

import pytest
import torch
from lightning_fabric import Fabric
from test_plain import OPTIMIZERS, STEPS, loss_fn, make
from torch import nn
from toy import assert_equal, loader, trainer, weights_of

from lightning_sparse import (
    ConnectionMover,
    DynamicSparsity,
    GradualMagnitudePruning,
    Magnitude,
    PruneAtInit,
    RigLCallback,
    convert_,
    keep_sparse_,
    mask_gradients_,
    masks_of,
    release_,
    sparsify_,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.gradual import gradual_counts, pruning_step
from lightning_sparse.weights.state import state_of
from lightning_sparse.weights.verify import verify_step

MOVES = {"every_n_steps": 7, "stop_at": 90}
RULES = {
    "rigl": lambda: RigLCallback(**MOVES),
    "set": lambda: DynamicSparsity("set", seed=3, **MOVES),
    "rigl, every step made": lambda: RigLCallback(skip_step_on_update=False, **MOVES),
}


def by_trainer(tmp_path, optimizer, *callbacks, **arguments):
    toy = make(optimizer)
    trainer(tmp_path, *callbacks, max_steps=STEPS, max_epochs=-1, **arguments).fit(toy, loader())
    return toy


def mover_of(rule, module, *optimizers):
    name, _, made = rule.partition(", ")
    return ConnectionMover(
        module, *optimizers, rule=name, seed=3, skip_step_on_update=not made and None, **MOVES
    )


def steps(optimizer, module, backward=torch.Tensor.backward, clip=None, first=0, last=STEPS):
    module.train()
    for batch in [batch for _ in range(STEPS // 4) for batch in loader()][first:last]:
        optimizer.zero_grad()
        backward(loss_fn(module, batch))
        if clip is not None:
            clip()
        optimizer.step()


def by_hand(optimizer, rule, storage="masked"):
    toy = make(optimizer)
    sparsify_(toy, "erk", 0.1, seed=3, storage=storage)
    plain = toy.configure_optimizers()
    return toy, plain, mover_of(rule, toy, plain)


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("rule", RULES)
def test_a_plain_loop_is_the_trainer_s_run(tmp_path, rule, optimizer, storage):
    start = PruneAtInit("erk", 0.1, seed=3, storage=storage)
    expected = by_trainer(tmp_path, optimizer, start, RULES[rule](), gradient_clip_val=0.5)
    toy, plain, mover = by_hand(optimizer, rule, storage)
    before = masks_of(toy)

    def clip():
        mask_gradients_(toy, plain)
        nn.utils.clip_grad_norm_(toy.parameters(), 0.5)

    steps(plain, toy, clip=clip)
    assert_equal(masks_of(toy), masks_of(expected))
    assert_equal(weights_of(toy), weights_of(expected))
    assert 0 < mover.fraction < 0.01  # of the last update
    assert any(not torch.equal(mask, before[name]) for name, mask in masks_of(toy).items())
    assert sum(int(mask.sum()) for mask in masks_of(toy).values()) == 102
    if storage == "masked":
        verify_step(state_of(toy), plain)


@pytest.mark.parametrize("rule", ["rigl", "set"])
def test_a_fabric_loop_is_the_trainer_s_run(tmp_path, rule):
    expected = by_trainer(tmp_path, "adamw", PruneAtInit("erk", 0.1, seed=3), RULES[rule]())
    toy, plain, _ = by_hand("adamw", rule)
    fabric = Fabric(accelerator="cpu", devices=1)
    _, optimizer = fabric.setup(toy.net, plain)
    steps(optimizer, toy, fabric.backward)
    assert_equal(weights_of(toy), weights_of(expected))


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize("rule", ["rigl", "set"])
def test_a_loop_that_goes_on_is_one_that_never_stopped(rule, storage):
    whole, plain, _ = by_hand("adamw", rule, storage)
    steps(plain, whole)
    first, plain, mover = by_hand("adamw", rule, storage)
    steps(plain, first, last=42)  # an update comes with the next step but six
    saved = [copy.deepcopy(one.state_dict()) for one in (first, plain, mover)]
    toy = make("adamw")
    sparsify_(toy, "erk", 0.1, seed=8, storage=storage)
    again = toy.configure_optimizers()
    mover = mover_of(rule, toy, again)
    for one, state in zip((toy, again, mover), saved, strict=True):
        one.load_state_dict(state)
    steps(again, toy, first=42)
    assert_equal(masks_of(toy), masks_of(whole))
    assert_equal(weights_of(toy), weights_of(whole))


def test_gradients_that_are_not_finite_put_an_update_off():
    toy, plain, mover = by_hand("sgd", "rigl")
    before = masks_of(toy)
    steps(plain, toy, last=6)
    loss_fn(toy, next(iter(loader()))).backward()
    toy.net[0].weight.grad[0, 0, 0, 0] = torch.inf
    mask_gradients_(toy)
    assert_equal(masks_of(toy), before)
    plain.zero_grad()  # as a scaler does: it makes no step
    steps(plain, toy, first=6, last=7)
    assert any(not torch.equal(mask, before[name]) for name, mask in masks_of(toy).items())
    assert mover.state_dict()["steps"] == [7]


def test_clipping_sees_the_norm_of_the_sparse_net():
    toy = make()
    masks = sparsify_(toy, "erk", 0.1)
    plain = toy.configure_optimizers()
    keep_sparse_(toy, plain)
    loss_fn(toy, next(iter(loader()))).backward()
    dense = {name: toy.get_parameter(name).grad.clone() for name in masks}
    mask_gradients_(toy, plain)
    for name, mask in masks.items():
        assert torch.equal(toy.get_parameter(name).grad, torch.where(mask, dense[name], 0))
        assert not torch.equal(toy.get_parameter(name).grad, dense[name])


def test_gradual_pruning_is_a_loop_over_sparsify(tmp_path):
    """Weights go by steps of the cubic; those that are zero already are the smallest."""
    gradual = GradualMagnitudePruning(0.1, stop=60, every_n_steps=10, allocation="global")
    expected = by_trainer(tmp_path, "adamw", gradual)
    toy = make("adamw")
    plain, total = toy.configure_optimizers(), 1016
    counts = gradual_counts(total, total, 0.1, 0, 60, 10)
    done = 0
    for number, count in enumerate(counts, start=1):
        step = pruning_step(number, 0, 60, 10)
        steps(plain, toy, first=done, last=step)
        sparsify_(toy, Magnitude(), count / total, min_weights_per_layer=1)
        keep_sparse_(toy, plain)
        done = step
    steps(plain, toy, first=done)
    assert_equal(masks_of(toy), masks_of(expected))
    assert_equal(weights_of(toy), weights_of(expected))


def test_a_released_mover_moves_nothing_more():
    toy, plain, _ = by_hand("sgd", "set")
    release_(toy)
    before = masks_of(toy)
    steps(plain, toy, last=10)
    assert_equal(masks_of(toy), before)
    assert not plain._optimizer_step_pre_hooks
    assert not plain._optimizer_step_post_hooks


def test_a_module_is_not_kept_alive():
    import gc
    import weakref

    toy, plain, mover = by_hand("sgd", "set")
    seen = weakref.ref(toy)
    del toy, plain, mover
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "rig"}, "`rule` must be one of .*, got 'rig'"),
        ({"stop_at": 0.75}, "`stop_at` must be an integer of at least 1, got 0.75"),
        ({"every_n_steps": 0}, "`every_n_steps` must be an integer of at least 1, got 0"),
        ({"drop_fraction": 1.5}, r"`drop_fraction` must be in \[0, 1\], got 1.5"),
        ({"drop_schedule": "cos"}, "`drop_schedule` must be one of"),
        ({"include": ["head*"]}, "`include` pattern 'head.' matches nothing that can move"),
        ({"exclude": ["net*"]}, "`exclude` must leave something for ConnectionMover to move"),
        ({"pattern": "2:4"}, "`pattern` must be that of the masks which connections start from"),
        ({"seed": -1}, "`seed` must be an integer of at least 0"),
        ({"skip_step_on_update": 2}, "`skip_step_on_update` must be True or False"),
    ],
)
def test_mistakes(arguments, message):
    toy = make()
    sparsify_(toy, "erk", 0.1)
    with pytest.raises(SparsityError, match=message):
        ConnectionMover(toy, toy.configure_optimizers(), **{"rule": "rigl", "stop_at": 90, **arguments})


def test_who_is_held_and_who_is_not():
    toy = make()
    plain = toy.configure_optimizers()
    with pytest.raises(SparsityError, match="`module` must have masks, got none"):
        ConnectionMover(toy, plain, rule="set", stop_at=9)
    with pytest.raises(SparsityError, match="`module` must be held by `keep_sparse_` or a ConnectionMover"):
        mask_gradients_(toy)
    toy, plain, mover = by_hand("sgd", "set")
    with pytest.raises(SparsityError, match=r"is held by a ConnectionMover already\. Call `release_`"):
        keep_sparse_(toy, plain)
    saved = mover.state_dict()
    with pytest.raises(SparsityError, match="`state_dict` must be of as many optimizers, 1, got 2"):
        mover.load_state_dict({**saved, "steps": [1, 2]})
    net = nn.Sequential(nn.Linear(20, 10))
    convert_(net, 0.1)
    mask_gradients_(net)
