"""Optimizers that hold another one, keep their state elsewhere or in codes, or tell nobody of their steps."""

import copy

import pytest
import torch
from optimizers import OPTIMIZERS
from torch import nn
from torch.optim import SGD, Optimizer

from lightning_sparse.weights.optimizers import (
    forget_curvature_,
    kept_elsewhere,
    optimizers_within,
    state_apart,
    state_like,
    zero_at_,
)
from lightning_sparse.weights.state import state_of
from lightning_sparse.weights.stepping import leave_out_step_, take_back_step_, when_stepped
from lightning_sparse.weights.verify import verify_step


class Held(Optimizer):
    """Holds another optimizer under a name of its own, and never calls ``Optimizer.__init__``."""

    def __init__(self, inner, wrap=lambda inner: inner):
        self.anything = wrap(inner)
        self.inner = lambda: inner
        self.defaults = inner.defaults

    param_groups = property(lambda self: self.inner().param_groups)

    def step(self, closure=None):
        return self.inner().step(closure)

    def zero_grad(self, set_to_none=True):
        self.inner().zero_grad(set_to_none)


class Lookahead(Optimizer):
    """Slow weights in its own state, from the start; all else in the state of the one it holds."""

    def __init__(self, inner, every=2):
        super().__init__([p for group in inner.param_groups for p in group["params"]], {})
        self.fast, self.every, self.count = inner, every, 0
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["slow"] = p.detach().clone()

    @torch.no_grad()
    def step(self, closure=None):
        loss = self.fast.step(closure)
        self.count += 1
        for p, state in self.state.items() if self.count % self.every == 0 else ():
            p.lerp_(state["slow"], 0.5)
            state["slow"].copy_(p)
        return loss


class Codes(torch.Tensor):
    """Eight-bit codes of numbers in (-1, 1), which only know how to be read and written as a whole."""

    @staticmethod
    def __new__(cls, codes):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)

    def __init__(self, codes):
        self.codes = codes

    def dequantize(self):
        return (self.codes.float() - 128) / 128

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.copy_.default:
            args[0].codes.copy_((args[1] * 128 + 128).round().clamp(0, 255).byte())
            return args[0]
        if function is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(function)


def step_on(net, optimizer, seed=0):
    torch.manual_seed(seed)
    optimizer.zero_grad()
    net(torch.randn(4, net.in_features)).square().mean().backward()
    optimizer.step()


def linear():
    torch.manual_seed(0)
    return nn.Linear(6, 5)


@pytest.mark.parametrize("wrap", [lambda inner: inner, lambda inner: [inner], lambda inner: {"a": inner}])
def test_held_optimizers_are_found(wrap):
    inner = SGD(linear().parameters(), 0.1)
    outer = Held(Held(inner), wrap)
    outer.anything = wrap(Held(inner))
    assert optimizers_within(outer)[0] is outer
    assert inner in optimizers_within(outer)
    assert optimizers_within(inner) == [inner]


def test_state_of_held_optimizers_is_found_once():
    net = linear()
    outer = Lookahead(SGD(net.parameters(), 0.1, momentum=0.9))
    step_on(net, outer)
    assert [key for key, _ in state_like(net.weight, [outer])] == ["slow", "momentum_buffer"]
    shared = Held(outer.fast)
    shared.state = outer.fast.state
    assert [key for key, _ in state_like(net.weight, [shared])] == ["momentum_buffer"]


@pytest.mark.parametrize("make", [Lookahead, Held], ids=["lookahead", "held"])
def test_moved_weights_start_anew_in_held_optimizers_too(make):
    net = linear()
    optimizer = make(SGD(net.parameters(), 0.1, momentum=0.9))
    mask = torch.zeros(5, 6, dtype=torch.bool)
    mask[:, :3] = True
    state = state_of(net)
    state.install_(net, {"weight": mask}, owner := Owner(), [optimizer])
    state.attach([optimizer], before_step=state.mask_gradients_)
    for seed in range(3):
        step_on(net, optimizer, seed)
        verify_step(state, optimizer)
    assert net.weight[mask].count_nonzero() == 15
    moved = mask.roll(1, 1)
    state.move_({"weight": moved}, [optimizer])
    assert not net.weight[~(mask & moved)].any()
    found = dict(state_like(net.weight, [optimizer]))
    assert "momentum_buffer" in found
    for key, value in found.items():
        assert not value[~(mask & moved)].any(), key
        assert value[mask & moved].all(), key
    del owner


class Owner:
    pass


OWNER = Owner()


def test_steps_are_told_of_whoever_makes_them():
    """PyTorch's hooks need ``Optimizer.__init__``; nothing is left behind, and schedulers do not complain."""
    net, told = linear(), []
    optimizer = Held(SGD(net.parameters(), 0.1))
    torch.optim.lr_scheduler.LambdaLR(optimizer.inner(), lambda _: 1.0)
    before = optimizer.step
    handles = when_stepped(
        optimizer, lambda held: told.append(("before", held)), lambda _: told.append("after")
    )
    step_on(net, optimizer)
    assert told == [("before", optimizer), "after"]
    for handle in handles:
        handle.remove()
    assert optimizer.step == before
    step_on(net, optimizer)
    assert len(told) == 2


def test_codes_are_not_taken_for_numbers():
    """Of a quantised momentum 0 need not stand for zero: it is left alone, and named."""
    net = linear()
    optimizer = SGD(net.parameters(), 0.1)
    optimizer.state[net.weight] = {
        "state1": torch.full((5, 6), 127, dtype=torch.uint8),
        "step": torch.tensor(1),
    }
    assert not list(state_like(net.weight, [optimizer]))
    assert state_apart(net.weight, [optimizer]) == ["state1"]
    state_of(net).install_(net, {"weight": torch.eye(5, 6, dtype=torch.bool)}, Owner(), [optimizer])
    assert (optimizer.state[net.weight]["state1"] == 127).all()
    assert not state_apart(net.bias, [optimizer])


def test_a_quantised_tensor_is_written_as_a_whole():
    """Such classes have no ``masked_fill_``."""
    value = Codes(torch.full((5, 6), 192, dtype=torch.uint8))
    places = torch.eye(5, 6, dtype=torch.bool)
    zero_at_(value, places)
    assert torch.equal(value.dequantize(), torch.where(places, 0.0, 0.5))


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_curvature_of_other_weights_is_forgotten(line_search):
    """L-BFGS would go along directions of weights that are pruned by now."""
    net = linear()
    optimizer = torch.optim.LBFGS(net.parameters(), 0.5, max_iter=3, line_search_fn=line_search)
    mask = torch.zeros(5, 6, dtype=torch.bool)
    mask[:, :3] = True
    state, alive = state_of(net), []
    state.install_(net, {"weight": mask}, owner := Owner(), [optimizer])
    torch.manual_seed(1)
    x = torch.randn(8, 6)

    def closure():
        alive.append(int(net.weight[~state.masks["weight"]].count_nonzero()))
        optimizer.zero_grad()
        loss = (net(x) - 1).square().mean()
        loss.backward()
        state.mask_gradients_(optimizer)
        return loss

    state.attach([optimizer])
    optimizer.step(closure)
    state.move_({"weight": mask.roll(2, 1)}, [optimizer])
    optimizer.step(closure)
    assert len(alive) >= 4
    assert not any(alive)
    forget_curvature_([Held(optimizer)])
    assert optimizer.state[net.weight]["n_iter"] == 0
    del owner


class Rotated(Optimizer):
    """Keeps its momentum in another basis: no entry of it belongs to a weight."""

    def __init__(self, parameters):
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure=None):
        for p in (p for group in self.param_groups for p in group["params"]):
            draws = torch.Generator().manual_seed(0)
            turn = torch.linalg.qr(torch.randn(p.numel(), p.numel(), generator=draws))[0]
            momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
            momentum.mul_(0.9).add_((turn @ p.grad.flatten()).view_as(p))
            p.sub_((turn.T @ momentum.flatten()).view_as(p), alpha=0.1)


class Nested(Optimizer):
    """Several momenta of a weight, in a dict or a list of their own."""

    def __init__(self, parameters, kind):
        super().__init__(parameters, {})
        self.kind = kind

    @torch.no_grad()
    def step(self, closure=None):
        for p in (p for group in self.param_groups for p in group["params"]):
            if "momenta" not in self.state[p]:
                momenta = [torch.zeros_like(p), torch.zeros_like(p)]
                self.state[p]["momenta"] = dict(enumerate(momenta)) if self.kind is dict else momenta
            momenta = self.state[p]["momenta"]
            for momentum in momenta.values() if self.kind is dict else momenta:
                momentum.mul_(0.9).add_(p.grad)
                p.sub_(momentum, alpha=0.1)


def masked(net, optimizer):
    mask = torch.zeros(5, 6, dtype=torch.bool)
    mask[:, :3] = True
    state = state_of(net)
    state.install_(net, {"weight": mask}, OWNER, [optimizer])
    state.attach([optimizer], before_step=state.mask_gradients_)
    return state, mask


def test_what_is_kept_in_another_basis_is_left_alone():
    net = linear()
    optimizer = Rotated([net.weight])
    state, mask = masked(net, optimizer)
    for seed in range(2):
        step_on(net, optimizer, seed)
        verify_step(state, optimizer)
        assert not net.weight[~mask].any()
    before = optimizer.state[net.weight]["momentum"].clone()
    state.move_({"weight": mask.roll(1, 1)}, [optimizer])
    assert torch.equal(optimizer.state[net.weight]["momentum"], before)
    assert state_apart(net.weight, [optimizer]) == ["momentum"]


def test_what_was_gathered_from_gradients_written_later_is_not_taken_for_another_basis():
    """`verify` says so, and moves set it to zero."""
    net = linear()
    optimizer = torch.optim.NAdam([net.weight], 0.1)
    state, mask = masked(net, optimizer)

    def pollute(*_):
        net.weight.grad.add_(torch.rand(5, 6))

    noise = optimizer.register_step_pre_hook(pollute)
    step_on(net, optimizer)
    with pytest.raises(RuntimeError, match="differs in the optimizer"):
        verify_step(state, optimizer)
    noise.remove()
    state.move_({"weight": mask.roll(1, 1)}, [optimizer])
    assert not optimizer.state[net.weight]["exp_avg"][~mask].any()


@pytest.mark.parametrize("kind", [dict, list])
def test_nested_state_moves_too_and_is_taken_back(kind):
    net = linear()
    optimizer = Nested([net.weight], kind)
    state, mask = masked(net, optimizer)
    step_on(net, optimizer)
    moved = mask.roll(1, 1)
    state.move_({"weight": moved}, [optimizer])
    values = [value for _, value in state_like(net.weight, [optimizer])]
    assert len(values) == 2
    assert not any(value[~(mask & moved)].any() for value in values)
    before = [value.clone() for value in values]
    leave_out_step_(optimizer)
    step_on(net, optimizer, 1)
    take_back_step_(optimizer)
    assert all(map(torch.equal, before, [value for _, value in state_like(net.weight, [optimizer])]))


class Masters(Optimizer):
    """Holds an optimizer that trains copies of the weights in their place."""

    def __init__(self, parameters):
        super().__init__(parameters, {})
        copies = [nn.Parameter(p.detach().clone()) for group in self.param_groups for p in group["params"]]
        self.master = SGD(copies, 0.1)


def test_tensors_kept_elsewhere_are_named():
    net = linear()
    optimizer = SGD(net.parameters(), 0.1)
    assert kept_elsewhere(optimizer, [net.weight]) is None
    optimizer.momenta = [torch.zeros(5, 6)]
    assert kept_elsewhere(optimizer, [net.weight]) == "SGD.momenta"
    assert kept_elsewhere(Masters(net.parameters()), [net.weight]) == "SGD.param_groups"
    assert kept_elsewhere(Lookahead(SGD(net.parameters(), 0.1)), [net.weight]) is None


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_gradients_that_a_closure_makes_are_masked(line_search):
    """In a plain loop: L-BFGS would go along directions of pruned weights."""
    net, alive = linear(), []
    optimizer = torch.optim.LBFGS([net.weight], 0.5, max_iter=3, line_search_fn=line_search)
    _, mask = masked(net, optimizer)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))

    def closure():
        alive.append(int(net.weight[~mask].count_nonzero()))
        optimizer.zero_grad()
        loss = (net(x) - 1).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    optimizer.step(closure=closure)
    assert len(alive) > 4
    assert not any(alive)


ALL = {
    **OPTIMIZERS,
    "lookahead": lambda p: Lookahead(SGD(p, 0.1, momentum=0.9)),
    "lookahead-adam": lambda p: Lookahead(torch.optim.AdamW(p, 0.1)),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("steps", [0, 3])
def test_a_step_is_taken_back(name, steps):
    """Weights, and all that the optimizer and those it holds keep, are as they were, whatever it does."""
    net = linear()
    optimizer = ALL[name](list(net.parameters()))
    for seed in range(steps):
        step_on(net, optimizer, seed)
    everyone = optimizers_within(optimizer)
    before = copy.deepcopy([(dict(net.state_dict()), [one.state_dict() for one in everyone])])
    leave_out_step_(optimizer)
    step_on(net, optimizer, 7)
    take_back_step_(optimizer)
    after = [(dict(net.state_dict()), [one.state_dict() for one in everyone])]
    assert_same(after, before)
    step_on(net, optimizer, 8)
    now = net.weight.detach().clone()
    take_back_step_(optimizer)  # there is none to take back any more
    assert torch.equal(net.weight, now)


def assert_same(a, b):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    else:
        assert a == b


def test_a_loaded_state_in_another_basis_is_left_alone():
    """It was gathered under the same masks: what is apart has nothing where they prune."""
    net = linear()
    optimizer = Rotated([net.weight])
    state, mask = masked(net, optimizer)
    step_on(net, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    resumed = Rotated([net.weight])
    resumed.load_state_dict(saved)
    state.find_mixed_state_([resumed])
    state.attach([resumed], before_step=state.mask_gradients_)
    state.clean_([resumed])
    assert torch.equal(resumed.state[net.weight]["momentum"], saved["state"][0]["momentum"])
    step_on(net, resumed, 1)
    assert resumed.state[net.weight]["momentum"][~mask].any()
