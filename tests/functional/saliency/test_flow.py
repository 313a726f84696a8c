"""SynFlow on nets of others: a bias is told by its use, and errors of a forward say what was called."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_sparse import FORCE, PruningProblem, SynFlow
from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.pruning import prune_along
from lightning_sparse.functional.saliency.synflow import synflow
from lightning_sparse.models import FixupResNet110

X = torch.zeros(2, 3)


class Net(nn.Module):
    """Two layers of ones: 12 flows to each of 4 hidden units from 3 inputs, and the shift of a child."""

    def __init__(self, shape=(4,)):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)
        self.theta = nn.Parameter(torch.full(shape, 5.0))
        for layer in (self.a, self.b):
            nn.init.constant_(layer.weight, -1.0)

    def forward(self, x):
        return self.b(self.use(self.a(x), self.theta))


def scores_of(use, shape=(4,), **options):
    net = Net(shape)
    net.use = use
    scores = synflow(net, {"a": net.a.weight, "b": net.b.weight}, X, **options)
    assert net.theta.eq(5).all()
    return scores["a"].unique().tolist(), scores["b"].unique().tolist()


def written_into(x, t):
    """The flow is written into a copy of a parameter: from then on it is flow."""
    out = t.expand(len(x), -1).clone()
    out[:] = x
    return torch.zeros_like(x) + out


SHIFTS = {
    "plus": (lambda x, t: x + t, (4,)),
    "radd": (lambda x, t: t + x, (4,)),
    "minus": (lambda x, t: x - t, (4,)),
    "scalar": (lambda x, t: x + t, ()),
    "one number": (lambda x, t: x + t, (1,)),
    "of images": (lambda x, t: (x[..., None, None] + t)[..., 0, 0], (1, 4, 1, 1)),
    "in place": (lambda x, t: x.add_(t), (4,)),
    "augmented": (lambda x, t: x.__iadd__(t), (4,)),
    "function": (lambda x, t: torch.add(x, t, alpha=2), (4,)),
    "by keyword": (lambda x, t: torch.add(input=x, other=t), (4,)),
    "view": (lambda x, t: x + t.view(1, -1), (2, 2)),
    "index": (lambda x, t: x + t[None, :], (4,)),
    "expanded": (lambda x, t: x + t.expand(len(x), -1), (4,)),
    "repeated": (lambda x, t: x + t.repeat(len(x), 1), (4,)),
    "computed": (lambda x, t: x + F.softplus(t * 2), (4,)),
    "stacked": (lambda x, t: x + torch.stack([t, t]).sum(0), (4,)),
    "addcmul": (lambda x, t: torch.addcmul(t, x, torch.ones(4, dtype=x.dtype)), (4,)),
    "linear": (lambda x, t: F.linear(x, torch.eye(4, dtype=x.dtype), t), (4,)),
    "conv": (lambda x, t: F.conv1d(x[..., None], torch.eye(4, dtype=x.dtype)[..., None], t)[..., 0], (4,)),
    "addmm": (lambda x, t: torch.addmm(t, x, torch.eye(4, dtype=x.dtype)), (4,)),
}


@pytest.mark.parametrize("name", SHIFTS)
def test_what_is_added_is_a_bias_whatever_its_name(name):
    assert scores_of(*SHIFTS[name]) == ([2.0], [3.0])


FACTORS = {
    "scale": (lambda x, t: x * t, (4,)),
    "one number": (lambda x, t: x * t, (1,)),
    "of images": (lambda x, t: (x[..., None, None] * t)[..., 0, 0], (1, 4, 1, 1)),
    "plus one": (lambda x, t: x * (4 + t - 4), (4,)),
    "both": (lambda x, t: x * t + t, (4,)),
    "weight": (lambda x, t: F.linear(x, torch.diag(t)), (4,)),
}


@pytest.mark.parametrize("name", FACTORS)
def test_what_multiplies_acts_with_its_absolute_value(name):
    assert scores_of(*FACTORS[name]) == ([10.0], [15.0])


def test_what_flows_is_not_taken_for_a_parameter():
    assert scores_of(written_into) == ([2.0], [3.0])


def test_weights_that_are_made_of_several_parameters_keep_all_parts():
    """W + B A: added to a weight, B A is no bias."""

    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(2, 3))
            self.b, self.a = nn.Parameter(torch.ones(2, 1)), nn.Parameter(torch.ones(1, 3))

        def forward(self, x):
            return x @ (self.w + self.b @ self.a).T

    net = Adapted()
    assert synflow(net, {"w": net.w}, X)["w"].eq(1).all()
    assert synflow(net, {"w": net.w, "b": net.b}, X)["b"].eq(3).all()


def test_a_weight_that_is_scored_is_no_bias():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias_table, self.fc = nn.Parameter(torch.full((2, 3), 2.0)), nn.Linear(3, 1, bias=False)

        def forward(self, x):
            return self.fc(x + self.bias_table[0])

    net = Table()
    nn.init.ones_(net.fc.weight)
    scores = synflow(net, {"t": net.bias_table, "fc": net.fc.weight}, X)
    assert scores["t"].tolist() == [[2.0] * 3, [0.0] * 3]
    assert scores["fc"].tolist() == [[3.0] * 3]
    assert synflow(net, {"fc": net.fc.weight}, X)["fc"].tolist() == [[1.0] * 3]


def test_layers_as_they_come_keep_their_scores():
    """Names were enough for these; the fused functions of attention and recurrent layers still need them."""

    class Usual(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm, self.lstm = nn.Linear(3, 8), nn.LayerNorm(8), nn.LSTM(8, 8, batch_first=True)
            self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True, batch_first=True)

        def forward(self, x):
            x = self.lstm(self.norm(self.fc(x)))[0]
            return self.attention(x, x, x)[0]

    torch.manual_seed(0)
    net, other = Usual(), Usual()
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "bias" in name:
                parameter.zero_()
        for name, parameter in net.named_parameters():
            if "bias" in name:
                parameter.add_(7)
    x = torch.zeros(1, 4, 3)
    ours = synflow(net, {"fc": net.fc.weight}, x)["fc"]
    assert ours.any()
    assert torch.equal(ours, synflow(other, {"fc": other.fc.weight}, x)["fc"])


def test_our_own_net_without_normalisation():
    torch.manual_seed(0)
    net = FixupResNet110()
    weights = {name: p for name, p in net.named_parameters() if p.ndim > 1}
    with torch.no_grad():
        for weight in weights.values():
            weight.fill_(0.01)
    expected = synflow(net, weights, torch.zeros(1, 3, 8, 8))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "bias" in name:
                parameter.fill_(0.5)
    found = synflow(net, weights, torch.zeros(1, 3, 8, 8))
    assert all(torch.equal(found[name], expected[name]) for name in weights)


# Errors of others, and nets that need float32.


class Casts(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(self.a(x.float()))


class MakesZeros(Casts):
    def forward(self, x):
        return self.b(self.a(x) @ torch.eye(4))


@pytest.mark.parametrize("kind", [Casts, MakesZeros])
def test_nets_that_cast_to_float32_are_scored_in_float32(kind):
    net = kind()
    weights = {"a": net.a.weight, "b": net.b.weight}
    scores = synflow(net, weights, X)
    expected = synflow(nn.Sequential(net.a, net.b), weights, X)
    for name in weights:
        assert scores[name].dtype == torch.float32
        torch.testing.assert_close(scores[name].double(), expected[name])
    problem = PruningProblem(net, weights, torch.Generator(), inputs=lambda: X)
    *_, masks = prune_along(SynFlow(5), problem, 0.5)
    assert sum(int(mask.sum()) for mask in masks.values()) == 10


def test_overflow_in_float32_says_why_it_was_not_float64():
    net = Casts()
    net.a.weight.data.fill_(1e38)
    net.b.weight.data.fill_(1e38)
    with pytest.raises(SparsityError, match=r"overflows in float32, and in float64 it cannot work.*dtype"):
        synflow(net, {"a": net.a.weight, "b": net.b.weight}, X)


class OfDict(Casts):
    def forward(self, batch):
        return self.b(self.a(batch["x"]))


class ByKeyword(Casts):
    def forward(self, *, x, mask=None):
        return self.b(self.a(x))


class OfTwo(Casts):
    def forward(self, x, context):
        return self.b(self.a(x) + context)


class OfOtherShape(Casts):
    def forward(self, x):
        return self.b(self.a(x.mean((2, 3))))


class Silent(Casts):
    def forward(self, x):
        raise NotImplementedError


class Nested(Casts):
    def forward(self, x):
        raise RuntimeError("first line.\nsecond line")


@pytest.mark.parametrize(
    ("kind", "inputs", "expected"),
    [
        (OfDict, X, r"OfDict with ones in the shape of the data, \(1, 3\) float32, and it failed: .+"),
        (ByKeyword, X, r"ByKeyword .*\(1, 3\) float32, and it failed: .*positional argument"),
        (OfTwo, X, r"OfTwo .*and it failed: .*context"),
        (OfTwo, {"x": X}, r"OfTwo .*x=\(1, 3\) float32, and it failed: .*context"),
        (OfOtherShape, X, r"OfOtherShape .*and it failed: "),
        (Silent, X, r"and it failed: NotImplementedError\. Set"),
        (Nested, X, r"and it failed: first line\. Set"),
        (Casts, (X, [X, X]), r"\(1, 3\) float32, \[\(1, 3\) float32, \(1, 3\) float32\], and it failed"),
        (Casts, torch.zeros(2, 5), r"\(1, 5\) float32, and it failed: .*cannot be multiplied"),
    ],
)
def test_an_error_of_the_net_says_what_was_called_and_the_way_out(kind, inputs, expected):
    net = kind()
    weights = {"a": net.a.weight, "b": net.b.weight}
    with pytest.raises(SparsityError, match=expected) as caught:
        synflow(net, weights, inputs)
    message = str(caught.value)
    assert "`input_shape`" in message
    assert "`example_input_array`" in message
    assert "another method (`snip`, `erk`)" in message
    assert "\n" not in message
    assert caught.value.__cause__ is not None


def test_a_backward_that_fails_is_explained_too():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no gradient here")

    class Custom(Casts):
        def forward(self, x):
            return self.b(Once.apply(self.a(x)))

    net = Custom()
    with pytest.raises(SparsityError, match=r"SynFlow called `forward` of Custom.*no gradient here"):
        synflow(net, {"a": net.a.weight, "b": net.b.weight}, X)


def test_lengths_beside_the_input_stay_as_they_are():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.fc = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x, lengths, steps):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.fc(self.lstm(packed)[1][0][-1]) * steps

    net = Packed()
    inputs = (torch.zeros(2, 5, 3), torch.tensor([4, 5]), torch.tensor(2))
    assert synflow(net, {"fc": net.fc.weight}, inputs)["fc"].any()


def test_running_out_of_memory_is_no_error_of_the_net():
    class Large(Casts):
        def forward(self, x):
            raise torch.OutOfMemoryError("too large")

    net = Large()
    with pytest.raises(torch.OutOfMemoryError):
        synflow(net, {"a": net.a.weight}, X)


# The arithmetic of the originals.


@pytest.mark.parametrize(
    ("steps", "density"), [(1, 0.058), (1, 0.084), (20, 0.297), (100, 0.1568), (60, 0.02)]
)
def test_densities_of_the_reference_are_those_of_numpy(steps, density):
    theirs = [np.exp(0 - ((x + 1) * (0 - np.log(density)) / steps)) for x in range(steps)]  # FORCE's code
    method = FORCE(steps, conformance="reference")
    assert method.path(density) == theirs
    for size in (500, 1000, 266_200):
        counts = [method.budget(size, share) for share in method.path(density)]
        assert counts == [int(size * share) for share in theirs]
    assert math.isclose(theirs[-1], density)
