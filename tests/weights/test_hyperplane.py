"""Weights in a hyperplane without a Trainer: gradients, steps, optimizers that can and cannot train theta."""

import copy
from functools import partial

import pytest
import torch
from optimizers import OPTIMIZERS
from torch import nn
from torch.func import functional_call

from lightning_sparse import project_, summary
from lightning_sparse.checks import SparsityError
from lightning_sparse.weights.hyperplane import hyperplane_of


def make_net(dtype=torch.float64):
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)]
    return nn.Sequential(*layers).to(dtype)


def loss_of(net, seed=1):
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 2, 4, 4, generator=draws, dtype=torch.float64)
    y = torch.randint(4, (6,), generator=draws)
    dtype = next(net.parameters()).dtype
    return nn.functional.cross_entropy(net(x.to(dtype)), y)


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def sgd(net, **options):
    return torch.optim.SGD(net.parameters(), **{"lr": 0.1, **options})


def dense_basis(hyperplane):
    units = torch.eye(len(hyperplane.theta), dtype=torch.float64)
    return torch.stack([hyperplane.basis.times(unit) for unit in units], dim=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_starts_at_the_initialisation_to_the_bit(dtype):
    net = make_net(dtype)
    before = copy.deepcopy(net.state_dict())
    hyperplane = project_(net, sgd(net), 7, seed=0)
    hyperplane.push_()
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_step_by_hand():
    """Of f(w) = w1 + 2 w2 with U = (0.6, 0.8): the gradient of theta is 2.2."""
    net = nn.Linear(2, 1, bias=False).double()
    hyperplane = project_(net, sgd(net, lr=0.5), 1, seed=0)
    start = net.weight.detach().clone()
    u = dense_basis(hyperplane).flatten()
    net(torch.tensor([[1.0, 2.0]], dtype=torch.float64)).sum().backward()
    hyperplane.pull_()
    slope = u[0] + 2 * u[1]
    assert float(hyperplane.theta.grad) == pytest.approx(float(slope))
    assert net.weight.grad is None
    optimizer = torch.optim.SGD([hyperplane.theta], lr=0.5)
    optimizer.step()
    hyperplane.push_()
    torch.testing.assert_close(net.weight.detach()[0], start[0] - 0.5 * slope * u)


def test_the_gradient_is_that_of_finite_differences():
    net = make_net()
    hyperplane = project_(net, sgd(net), 5, seed=2)
    theta = torch.linspace(-1, 1, 5, dtype=torch.float64)

    def loss_at(point):
        hyperplane.move_to_(point, hyperplane.start)
        return loss_of(net)

    loss_at(theta).backward()
    hyperplane.pull_()
    for i, unit in enumerate(torch.eye(5, dtype=torch.float64)):
        with torch.no_grad():
            difference = (loss_at(theta + 1e-6 * unit) - loss_at(theta - 1e-6 * unit)) / 2e-6
        assert float(hyperplane.theta.grad[i]) == pytest.approx(float(difference), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"sgd-fused", "adam-fused", "adamw-foreach"}))
def test_it_trains_as_autograd_through_the_product_does(name):
    """The reference knows nothing of the package: w is computed in the forward pass, from a dense U."""
    net, other = make_net(), make_net()
    hyperplane = project_(net, optimizer := OPTIMIZERS[name](net.parameters()), 9, seed=4)
    u, start = dense_basis(hyperplane), flat(other)
    theta = nn.Parameter(torch.zeros(9, dtype=torch.float64))
    its = OPTIMIZERS[name]([theta])
    shapes = {key: value.shape for key, value in other.named_parameters()}
    for seed in range(6):
        optimizer.zero_grad()
        loss_of(net, seed).backward()
        optimizer.step()
        its.zero_grad()
        parts = (start + u @ theta).split([shape.numel() for shape in shapes.values()])
        weights = {key: part.view(shapes[key]) for key, part in zip(shapes, parts, strict=True)}
        loss_of(partial_net(other, weights), seed).backward()
        its.step()
    torch.testing.assert_close(hyperplane.theta, theta)
    torch.testing.assert_close(flat(net), (start + u @ theta).detach())
    assert theta.abs().min() > 0


def partial_net(net, weights):
    call = partial(functional_call, net, weights)

    class Called(nn.Module):
        def parameters(self, recurse=True):
            return net.parameters()

        def forward(self, x):
            return call((x,))

    return Called()


def test_weights_stay_in_the_hyperplane_and_the_rest_is_trained_by_itself():
    net = make_net()
    hyperplane = project_(net, optimizer := sgd(net, momentum=0.9), 6, exclude=["*.bias", "1"], seed=0)
    assert list(hyperplane.weights) == ["0.weight", "4.weight"]
    assert [len(group["params"]) for group in optimizer.param_groups] == [5]
    bias = net[4].bias.detach().clone()
    for _ in range(4):
        loss_of(net).backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = torch.cat([w.detach().flatten() for w in hyperplane.weights.values()]) - hyperplane.start
    u = dense_basis(hyperplane)
    assert torch.equal(moved + hyperplane.start, hyperplane.start + hyperplane.basis.times(hyperplane.theta))
    residual = moved - u @ torch.linalg.lstsq(u, moved[:, None]).solution[:, 0]
    assert residual.norm() < 1e-6 * moved.norm()
    assert not torch.equal(bias, net[4].bias)


def test_two_backward_passes_add_up_and_clipping_sees_theta():
    net, hyperplanes = make_net(), []
    for parts in (1, 2):
        net = make_net()
        hyperplanes.append(project_(net, sgd(net), 5, seed=0))
        for _ in range(parts):
            (loss_of(net) / parts).backward()
            if parts == 2:
                hyperplanes[-1].pull_()
        hyperplanes[-1].pull_()
    torch.testing.assert_close(hyperplanes[0].theta.grad, hyperplanes[1].theta.grad)
    nn.utils.clip_grad_norm_([hyperplanes[0].theta], 1e-3)
    assert float(hyperplanes[0].theta.grad.norm()) == pytest.approx(1e-3, rel=1e-2)


def test_tied_frozen_and_scalar_parameters():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight
            self.scale = nn.Parameter(torch.tensor(2.0))
            self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

        def forward(self, x):
            return self.scale * self.b(self.a(x))

    net = Net()
    hyperplane = project_(net, optimizer := torch.optim.Adagrad(net.parameters(), 0.1), 2, seed=0)
    assert {name: w.numel() for name, w in hyperplane.weights.items()} == {"a.weight": 9, "scale": 1}
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert net.a.weight is net.b.weight
    assert torch.equal(net.frozen, torch.ones(2))
    assert float(hyperplane.theta.detach().norm()) > 0


def test_release_gives_the_weights_back():
    net = make_net()
    optimizer = torch.optim.Adagrad(net.parameters(), 0.1, initial_accumulator_value=0.5)
    groups, state = copy.copy(optimizer.param_groups[0]["params"]), optimizer.state_dict()
    hyperplane = project_(net, optimizer, 4, seed=0)
    assert torch.equal(optimizer.state[hyperplane.theta]["sum"], torch.full((4,), 0.5, dtype=torch.float64))
    hyperplane.release_()
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == list(map(id, groups))
    assert str(optimizer.state_dict()) == str(state)
    loss_of(net).backward()
    optimizer.step()
    other = make_net()  # never in a hyperplane
    loss_of(other).backward()
    torch.optim.Adagrad(other.parameters(), 0.1, initial_accumulator_value=0.5).step()
    assert torch.equal(flat(net), flat(other))


def test_a_second_hyperplane_takes_the_place_of_the_first():
    net = make_net()
    optimizer = sgd(net)
    first = project_(net, optimizer, 4, seed=0)
    loss_of(net).backward()
    optimizer.step()
    second = project_(net, optimizer, 6, seed=1)
    assert torch.equal(second.start, flat(net))
    assert [p is second.theta for p in optimizer.param_groups[0]["params"]] == [True]
    assert not first.attached


def test_layouts_of_memory_stay():
    net = make_net(torch.float32).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), 0.01, fused=True)
    project_(net, optimizer, 4, seed=0)
    loss_of(net).backward()
    optimizer.step()
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert hyperplane_of(net) is not None
    assert summary(net).total.kept == summary(net).total.weights


# What cannot be.


class Sharp(torch.optim.Optimizer):
    """Evaluates the net once more beside the weights, as SAM does."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    def step(self, closure):
        closure()
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.add_(p.grad)
        closure()


class Remembers(torch.optim.Optimizer):
    """Trains what it was made with, whatever is in its groups."""

    def __init__(self, params):
        params = list(params)
        super().__init__(params, {"lr": 0.1})
        self.step_one = lambda: params[0].add_(1)

    @torch.no_grad()
    def step(self, closure=None):
        self.step_one()


class Holds(torch.optim.Optimizer):
    def __init__(self, params):
        params = list(params)
        super().__init__(params, {"lr": 0.1})
        self.inner = torch.optim.SGD(params, 0.1)

    def step(self, closure=None):
        return self.inner.step(closure)


def stepped(net):
    optimizer = torch.optim.Adam(net.parameters())
    loss_of(net).backward()
    optimizer.step()
    return optimizer


def two_rates(net):
    head = list(net[4].parameters())
    return torch.optim.SGD([{"params": net[:4].parameters()}, {"params": head, "lr": 0.5}], 0.1)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (
            lambda net: torch.optim.LBFGS(net.parameters()),
            {},
            r"must hold weights in its groups only.*_params",
        ),
        (lambda net: Holds(net.parameters()), {}, "`optimizer` must not hold another one, got Holds"),
        (lambda net: sgd(net[4]), {}, r"must hold all weights .* got 4 of 6 .* such as '0.weight'"),
        (two_rates, {}, "groups with the same options, .* got `lr` 0.1 and 0.5"),
        (stepped, {}, "`optimizer` must be new, got Adam that has made steps"),
        (sgd, {"dimension": 0}, "`dimension` must be an integer of at least 1, got 0"),
        (sgd, {"dimension": 10**6}, "`dimension` must be at most the number of weights, 115"),
        (sgd, {"include": ["head.*"]}, r"`include` pattern 'head.\*' matches no parameter .* names here"),
        (sgd, {"exclude": ["*"]}, "`module` must have trained parameters that `include` and `exclude` leave"),
        (sgd, {"seed": -1}, "`seed` must be an integer of at least 0"),
        (sgd, {"keep_mib": 0.5}, "`keep_mib` must be an integer of at least 0"),
    ],
)
def test_refused_with_the_optimizer_as_it_was(make, arguments, message):
    net = make_net()
    optimizer = make(net)
    before = [list(map(id, group["params"])) for group in optimizer.param_groups]
    with pytest.raises(SparsityError, match=message):
        project_(net, optimizer, **{"dimension": 5, **arguments})
    assert [list(map(id, group["params"])) for group in optimizer.param_groups] == before


def test_groups_with_other_rates_work_where_one_is_left_out():
    net = make_net()
    hyperplane = project_(net, two_rates(net), 5, exclude=["4.*"], seed=0)
    assert list(hyperplane.weights) == ["0.weight", "0.bias", "1.weight", "1.bias"]


@pytest.mark.parametrize(
    ("make", "message"),
    [(Sharp, "must change theta only in its step"), (Remembers, "which has changed weights that move")],
)
def test_optimizers_that_break_it_are_found_in_a_step(make, message):
    net = make_net()
    optimizer = make(net.parameters())
    project_(net, optimizer, 5, seed=0)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(net)
        loss.backward()
        return loss

    with pytest.raises(SparsityError, match=message):
        optimizer.step(closure)


def test_weights_in_the_place_of_others_are_found():
    net = make_net()
    optimizer = sgd(net)
    project_(net, optimizer, 5, seed=0)
    loss_of(net).backward()
    net[4] = nn.Linear(12, 4).double()
    with pytest.raises(SparsityError, match="must keep the weights that move in its hyperplane"):
        optimizer.step()
