"""Nets without dead units: worked by hand, and kept where they must be."""

import copy

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from units_toy import sparse

from lightning_sparse import sparsify_
from lightning_sparse.checks import SparsityError
from lightning_sparse.export import smaller
from lightning_sparse.layers import convert_
from lightning_sparse.models import ImageClassifier, LeNet300100


def linear(weight, bias=None):
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    layer.weight.data = torch.tensor(weight, dtype=torch.float64)
    if bias is not None:
        layer.bias.data = torch.tensor(bias, dtype=torch.float64)
    return layer


def reasons(small):
    return [(kept.layer, kept.units, kept.reason) for kept in small.kept_because]


def test_three_units():
    """Unit 0 is the constant max(0, 3), unit 1 works, and unit 2 is read by nobody."""
    net = nn.Sequential(
        linear([[0, 0], [1, 2], [5, 6]], [3, 4, 7]), nn.ReLU(), linear([[10, 1, 0], [20, 2, 0]], [1, 1])
    )
    before = copy.deepcopy(net.state_dict())
    small = smaller(net, input_size=(1, 2))
    first, _, last = small.module
    assert first.weight.tolist() == [[1, 2]]
    assert first.bias.tolist() == [4]
    assert last.weight.tolist() == [[1], [2]]
    assert last.bias.tolist() == [1 + 10 * 3, 1 + 20 * 3]
    assert (first.out_features, last.in_features) == (1, 1)
    assert [(x.name, x.units_before, x.units, x.inputs_before, x.inputs) for x in small.layers] == [
        ("0", 3, 1, 2, 2),
        ("2", 2, 2, 3, 1),
    ]
    assert small.parameters_before == 3 * 3 + 2 * 4
    assert small.parameters == 3 + 2 * 2
    assert small.kept_because == ()
    torch.testing.assert_close(net.state_dict(), before)


def test_constants_go_through_batch_norm_and_activation():
    """Channel 0 is 2, normalised (2 - 1) / 2 * 6 + 5 = 8, then sigmoid(8), of which 3 x 3 are read."""
    net = (
        nn.Sequential(
            nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, eps=0.0), nn.Sigmoid(), nn.Conv2d(2, 1, 3, bias=False)
        )
        .double()
        .eval()
    )
    net[0].weight.data = torch.tensor([0.0, 1.0]).double().view(2, 1, 1, 1)
    net[0].bias.data = torch.tensor([2.0, 0.0]).double()
    net[1].running_mean[0], net[1].running_var[0] = 1, 4
    net[1].weight.data[0], net[1].bias.data[0] = 6, 5
    nn.init.ones_(net[3].weight)
    small = smaller(net, input_size=(1, 1, 4, 4)).module
    assert [small[0].out_channels, small[1].num_features, small[3].in_channels] == [1, 1, 1]
    torch.testing.assert_close(small[3].bias.detach(), 9 * torch.tensor([8.0]).double().sigmoid())
    assert net[3].bias is None
    images = torch.randn(2, 1, 5, 5).double()
    torch.testing.assert_close(small(images), net(images))


def test_a_constant_beside_padding_stays_and_is_named():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1))
    nn.init.zeros_(net[0].weight[0])
    nn.init.ones_(net[0].bias)
    small = smaller(net, input_size=(1, 1, 4, 4))
    assert small.module[0].out_channels == 2
    assert reasons(small) == [("0", 1, "constant, but '2', which reads them, pads with zeros")]
    nn.init.zeros_(net[0].bias)  # a constant 0 is the same as padding
    assert smaller(net, input_size=(1, 1, 4, 4)).module[0].out_channels == 1


def test_a_scale_of_zero_cuts_what_is_before_it():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)).eval()
    net[1].weight.data[0] = 0
    small = smaller(net, input_size=(2, 3))
    assert [small.module[0].out_features, small.module[2].in_features] == [1, 1]


def test_a_sum_ties_its_channels():
    """Channel 0 of the branch is dead, but not that of the shortcut."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.branch, self.last = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1)

        def forward(self, x):
            x = self.stem(x)
            return self.last(x + self.branch(x))

    net = Block()
    nn.init.zeros_(net.last.weight[:, 0])
    small = smaller(net, input_size=(1, 2))  # the stem's is read by the branch
    assert {x.name: x.units for x in small.layers} == {"stem": 2, "branch": 2, "last": 1}
    assert [(x.layer, x.units) for x in small.kept_because] == [("branch", 1)]
    nn.init.zeros_(net.branch.weight[:, 0])
    small = smaller(net, input_size=(1, 2))
    assert {x.name: x.units for x in small.layers} == {"stem": 1, "branch": 1, "last": 1}


class Sized(nn.Module):
    """Asks for 24 features by number."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.last = nn.Conv2d(1, 6, 3), nn.Linear(24, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.last(F.relu(self.fc(F.relu(self.conv(x)).view(-1, 24))))


class ByValue(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.last = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        x = self.fc(x)
        return self.last(x if x.sum() > 0 else -x)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.lstm = nn.Embedding(10, 4), nn.LSTM(4, 4, batch_first=True)
        self.norm, self.fc, self.last = nn.LayerNorm(4), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.fc(self.norm(self.lstm(self.words(x))[0]))))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))
        self.c.weight = self.b.weight

    def forward(self, x):
        for layer in (self.a, self.b, self.c, self.d):
            x = torch.relu(layer(x))
        return x


class Attention(nn.Module):
    """Looks at what it is given whether its size is that with which it was made."""

    def __init__(self):
        super().__init__()
        self.fc, self.attention = nn.Linear(4, 4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.wide, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.fc(x)
        return self.last(torch.relu(self.wide(self.attention(x, x, x)[0])))


@pytest.mark.parametrize(
    ("make", "example", "left", "kept", "reason"),
    [
        (Sized, torch.randn(2, 1, 4, 4), {"conv": 6, "fc": 1, "last": 2}, "conv", "asks for a fixed size"),
        (
            Words,
            torch.zeros(1, 3, dtype=torch.long),
            {"fc": 1, "last": 2},
            "lstm.weight_hh_l0",
            "feed their units",
        ),
        (Words, torch.zeros(1, 3, dtype=torch.long), {"fc": 1, "last": 2}, "words", "rows of embeddings"),
        (
            Attention,
            torch.randn(1, 3, 4),
            {"fc": 4, "attention.out_proj": 4, "wide": 1, "last": 2},
            "attention.in_proj_weight",
            "asks for fixed sizes",
        ),
        (Tied, torch.randn(1, 4), {"a": 4, "d": 4}, "c", "'c.weight' is used in more than one place"),
        (ByValue, torch.randn(1, 4), {}, "", "torch.export cannot follow it"),
    ],
)
def test_what_cannot_be_followed_is_kept(make, example, left, kept, reason):
    torch.manual_seed(0)
    net = make().eval()
    for name, weight in net.named_parameters():
        if name.endswith("weight") and name != "last.weight" and weight.dim() > 1:
            nn.init.zeros_(weight[1:])
    small = smaller(net, example)
    assert {layer.name: layer.units for layer in small.layers} == left
    assert any(layer == kept and reason in why for layer, _, why in reasons(small)), reasons(small)
    torch.testing.assert_close(small.module(example), net(example))
    assert reason in str(small)


class Compares(nn.Module):
    """Comparisons are neither numbers nor of the type of what they choose from."""

    def __init__(self):
        super().__init__()
        self.fc, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.fc(x)
        x = torch.where(x > 1, 2.5 * x, x.masked_fill(x < 0, 0.5))
        return self.last(x * (x != 7) + x.round().long())


def test_comparisons_of_constants():
    """Units 0 to 2 are the constants 3, -4 and 0.25; they become 7.5 + 8, 0.5 + 0 and 0.25 + 0."""
    net = Compares().eval()
    nn.init.zeros_(net.fc.weight[:3])
    net.fc.bias.data[:3] = torch.tensor([3.0, -4.0, 0.25])
    net.last.weight.data[0] = torch.tensor([1.0, 10.0, 100.0, 1.0])
    small = smaller(net, input_size=(1, 3)).module
    assert small.fc.out_features == 1
    shift = small.last.bias[0] - net.last.bias[0]
    torch.testing.assert_close(shift.detach(), torch.tensor(15.5 + 5.0 + 25.0))


def test_a_net_that_would_differ_is_an_error():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.last = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.last(self.fc(x)) * len(self.fc.weight)

    net = Counts()
    nn.init.zeros_(net.fc.weight[0])
    with pytest.raises(SparsityError, match=r"^`module` must give the same outputs .* differ by 2.0e-01"):
        smaller(net, input_size=(1, 4))


def test_an_input_is_needed_and_has_to_fit():
    net = nn.Sequential(nn.Linear(4, 2))
    for options, message in (
        ({}, r"^`example_input` must be given for a format that calls the net, got none"),
        (
            {"input_size": (1, 5)},
            r"^`input_size` must be what the net takes, got 1 x 5, which ends in Runtime",
        ),
        ({"example_input": torch.ones(5)}, r"^`example_input` must be what the net takes, got 5, which"),
        ({"input_size": 4}, r"^`input_size` must be one or more integers"),
        ({"input_size": (1, 4), "example_input": torch.ones(4)}, "must come without"),
    ):
        with pytest.raises(SparsityError, match=message):
            smaller(net, **options)
    for empty in (nn.Linear(4, 2, device="meta"), nn.LazyLinear(2)):
        with pytest.raises(SparsityError, match=r"^`module` must have values, got 'weight' without"):
            smaller(empty, input_size=(1, 4))


def test_what_cannot_be_copied_is_named():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    prune.random_unstructured(net[0], "weight", 0.9)
    with pytest.raises(SparsityError, match=r"^`module` must be one that can be copied, .*utils.prune"):
        smaller(net, input_size=(1, 4))
    prune.remove(net[0], "weight")
    assert smaller(net, input_size=(1, 4)).units < 5


def test_compiled_layers_have_their_own_names():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    nn.init.zeros_(net[0].weight[0])
    for compiled in (torch.compile(net), nn.Sequential(torch.compile(net))):
        small = smaller(compiled, input_size=(1, 4))
        assert [(x.name.removeprefix("0."), x.units) for x in small.layers] == [("0", 2), ("2", 2)]


class NoForward(pl.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net


def test_modules_of_lightning():
    net = sparse(LeNet300100(16), 0.02, 0)
    expected = [layer.units for layer in smaller(net, input_size=(1, 16)).layers]
    assert expected[0] < 150
    for module in (ImageClassifier(net, input_shape=[1, 4, 4]), NoForward(net)):
        module.example_input_array = torch.zeros(1, 16)
        small = smaller(module)
        assert type(small.module) is type(module)
        assert [layer.units for layer in small.layers] == expected
        assert small.layers[0].name == "net.fcs.0"
        assert small.module.net.fcs[0].out_features == expected[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_storages_and_types(storage, dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 3))
    sparsify_(net, "random", 0.05, storage=storage)
    net.to(dtype)
    small = smaller(net, input_size=(1, 12))
    assert small.units < small.units_before / 2
    assert {parameter.dtype for parameter in small.module.parameters()} == {dtype}
    assert not small.module.training
    assert net.training


def test_a_dense_matrix_plus_a_sparse_one_has_nothing_dead():
    net = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 3))
    convert_(net, 0.05)
    small = smaller(net, input_size=(1, 12))
    assert small.units == small.units_before
    assert [kept.layer for kept in small.kept_because] == ["0", "2"]
    assert "has no zeros" in small.kept_because[0].reason
    assert isinstance(small.module[0], nn.Linear)


def test_a_layer_alone_and_one_without_any_weights_left():
    assert smaller(nn.Linear(3, 2), input_size=(1, 3)).units == 2
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.zeros_(net[0].weight)
    small = smaller(net, input_size=(1, 3))
    assert [layer.units for layer in small.layers] == [1, 2]
    assert "cannot be without any" in small.kept_because[0].reason
