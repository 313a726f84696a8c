"""Buffers that change their shape: given back as found by scoring, and gone back to by a rewinding."""

import pytest
import torch
from torch import nn
from torch.ao.quantization import FakeQuantize, HistogramObserver, PerChannelMinMaxObserver
from torch.nn import functional as F

from lightning_sparse import FORCE, SNIP, GraSP, Magnitude, PruningProblem, SynFlow
from lightning_sparse.functional.isolation import left_as_found
from lightning_sparse.functional.pruning import prune_along
from lightning_sparse.functional.rewinding import rewind_, snapshot


class Net(nn.Module):
    """Two layers, and what children do with their buffers before each pass."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.a(self.watch(x)).relu())


class Resized(Net):
    """As observers of torch.ao do: in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("largest", torch.empty(0))

    def watch(self, x):
        if self.largest.numel() == 0:
            self.largest.resize_(6).zero_()
        self.largest.copy_(torch.maximum(self.largest, x.detach().amax(0)))
        return x


class Bank(Net):
    """A memory bank that is assigned anew."""

    def __init__(self):
        super().__init__()
        self.register_buffer("bank", torch.zeros(1, 6))

    def watch(self, x):
        self.bank = torch.cat([self.bank, x.detach()])[-20:]
        return x


class Cached(Net):
    """None at first, and made when it is needed."""

    def __init__(self):
        super().__init__()
        self.register_buffer("ones", None)

    def watch(self, x):
        if self.ones is None or len(self.ones) < len(x):
            self.ones = torch.ones(len(x), 1)
        return x * self.ones[: len(x)]


class Dropped(Net):
    """Used once, and given up."""

    def __init__(self):
        super().__init__()
        self.register_buffer("first", torch.zeros(6))

    def watch(self, x):
        if self.first is not None:
            x, self.first = x + self.first, None
        return x


class Typed(Net):
    """Of another type after the first pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(2, dtype=torch.int64))

    def watch(self, x):
        self.count.data = torch.ones(2, dtype=torch.float64)
        return x


class Observed(Net):
    """With observers of torch.ao."""

    def __init__(self):
        super().__init__()
        self.observer, self.channels = HistogramObserver(), PerChannelMinMaxObserver(ch_axis=1)
        self.fake = FakeQuantize(PerChannelMinMaxObserver, quant_min=0, quant_max=255, ch_axis=1)

    def watch(self, x):
        self.observer(x.detach())
        self.channels(x.detach())
        self.fake(x.detach())
        return x


NETS = [Resized, Bank, Cached, Dropped, Typed, Observed]


def buffers_of(net):
    return {
        f"{path}.{key}": (buffer, None if buffer is None else buffer.clone())
        for path, layer in net.named_modules()
        for key, buffer in layer._buffers.items()
    }


def assert_as_found(net, found, same_objects=True):
    now = buffers_of(net)
    assert now.keys() == found.keys()
    for name, (buffer, content) in found.items():
        there = now[name][0]
        if same_objects:
            assert there is buffer, name
        if content is None:
            assert there is None, name
        else:
            assert there.dtype == content.dtype
            assert torch.equal(there, content), name


def problem_of(net):
    torch.manual_seed(0)
    x, y = torch.randn(32, 6), torch.arange(32) % 3
    return PruningProblem(
        net,
        {"a.weight": net.a.weight, "b.weight": net.b.weight},
        torch.Generator(),
        losses=lambda count: [lambda: F.cross_entropy(net(x), y)] * count,
        inputs=lambda: x,
    )


@pytest.mark.parametrize("method", [SNIP(), GraSP(), FORCE(3, 2), SynFlow(3), Magnitude()], ids=repr)
@pytest.mark.parametrize("kind", NETS)
def test_scoring_gives_them_back(kind, method):
    net = kind()
    if kind is Observed and isinstance(method, SynFlow | GraSP):
        net.fake = nn.Identity()  # has no float64 and no second derivative
    found = buffers_of(net)
    *_, masks = prune_along(method, problem_of(net), 0.5)
    assert sum(int(mask.sum()) for mask in masks.values()) == 36
    assert_as_found(net, found)


def test_parameters_and_entries_that_change_their_shape():
    net = nn.Linear(3, 2)
    net.queue = [torch.zeros(1)]
    before, parameter = net.weight.detach().clone(), net.weight
    with left_as_found(net, training=True):
        net.weight.data = torch.ones(4, 3)
        net.queue[0].resize_(7)
    assert net.weight is parameter
    assert torch.equal(net.weight, before)
    assert torch.equal(net.queue[0], torch.zeros(1))


@pytest.mark.parametrize("kind", NETS)
def test_rewinding_goes_back_to_them(kind):
    net = kind()
    found, saved = buffers_of(net), snapshot(net)
    for _ in range(3):
        net(torch.randn(9, 6))
    rewind_(net, saved, {})
    assert_as_found(net, found, same_objects=kind is Resized)
    net(torch.randn(9, 6))


def test_rewinding_leaves_others_alone():
    net = Cached()
    net.register_buffer("not_saved", torch.zeros(1), persistent=False)
    saved = snapshot(net, leave_out=["ones"])
    net(torch.randn(4, 6))
    net.not_saved = torch.ones(2)
    rewind_(net, saved, {})
    assert net.ones.shape == (4, 1)
    assert net.not_saved.shape == (2,)


def test_buffers_that_validation_has_assigned():
    """Lightning validates in inference mode: nobody can write into tensors that were made there."""
    net = Bank()
    saved = snapshot(net)
    with torch.inference_mode():
        net(torch.randn(4, 6))
        net.bank = net.bank[:1]  # the shape is the same
    rewind_(net, saved, {})
    assert net.bank.tolist() == [[0.0] * 6]
    net.bank.add_(1)  # an ordinary tensor again
    assert saved["bank"].tolist() == [[0.0] * 6]


def test_scripted_children():
    net = nn.Sequential(torch.jit.script(nn.BatchNorm1d(3)), nn.Linear(3, 2))
    saved = snapshot(net)
    net(torch.ones(4, 3))
    assert net[0].num_batches_tracked == 1
    rewind_(net, saved, {})
    assert net[0].num_batches_tracked == 0
    assert net[0].running_mean.eq(0).all()
