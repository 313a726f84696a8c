"""FLOPs worked by hand: a product of m x n with r rows is 2 m n r, and so is each of its two gradients."""

import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_sparse import convert_, sparsify_, summary
from lightning_sparse.checks import SparsityError
from lightning_sparse.layers.offsets import DCTOffset, NoOffset, PretrainedOffset
from lightning_sparse.layers.work import offset_work
from lightning_sparse.reporting.flops import count_flops
from lightning_sparse.reporting.products import Flops, WeightFlops
from lightning_sparse.selection import parameters_by_name
from lightning_sparse.trainer.randomness import rng_state, same_rng_state


def mlp():
    return nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 5))


def weights(module):
    return [name for name, parameter in module.named_parameters() if parameter.dim() > 1]


def test_an_mlp():
    """The first layer's input needs no gradient."""
    count = count_flops(mlp(), torch.zeros(4, 20), ["0.weight", "2.weight"])
    first, last = 2 * 10 * 20 * 4, 2 * 5 * 10 * 4
    assert count.weights == {
        "0.weight": WeightFlops(first, 0, first),
        "2.weight": WeightFlops(last, last, last),
    }
    assert count.total == Flops(first + last, 2 * first + 3 * last)
    assert count.inputs == "4 x 20"
    assert count.unknown == ""


def test_a_convnet():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3, 2), nn.Flatten())
    net.append(nn.Linear(6 * 3 * 3, 2))
    count = count_flops(net, torch.zeros(2, 3, 8, 8), weights(net))
    first, second, last = 2 * 8 * 27 * 64 * 2, 2 * 6 * 72 * 9 * 2, 2 * 2 * 54 * 2
    assert count.weights == {
        "0.weight": WeightFlops(first, 0, first),
        "2.weight": WeightFlops(second, second, second),
        "4.weight": WeightFlops(last, last, last),
    }
    assert count.total == Flops(first + second + last, 2 * first + 3 * (second + last))


def test_groups_and_transposed_convolutions():
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=4), nn.ConvTranspose2d(8, 4, 2, 2))
    forward = {
        n: flops.forward
        for n, flops in count_flops(net, torch.zeros(1, 8, 6, 6), weights(net)).weights.items()
    }
    assert forward == {"0.weight": 2 * 8 * (2 * 9) * 16, "1.weight": 2 * 8 * (4 * 4) * 16}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("frozen", [False, True])
def test_attention_is_counted_whatever_kernel_would_run(frozen):
    net = Attention().requires_grad_(not frozen)
    count = count_flops(net, torch.zeros(3, 5, 8), weights(net))
    projections = {"attention.in_proj_weight": 2 * 24 * 8 * 15, "attention.out_proj.weight": 2 * 8 * 8 * 15}
    assert {name: flops.forward for name, flops in count.weights.items()} == projections
    scores_and_values = 2 * (2 * 5 * 5 * 4) * 2 * 3  # two products, two heads, three items
    assert count.total.forward == sum(projections.values()) + scores_and_values
    assert (count.total.training is None) == frozen


def test_recurrent_nets_step_by_step():
    net = nn.GRU(4, 3)
    count = count_flops(net, torch.zeros(5, 2, 4), weights(net))
    assert count.weights["weight_ih_l0"].forward == 2 * 9 * 4 * 2 * 5
    assert count.weights["weight_hh_l0"].forward == 2 * 9 * 3 * 2 * 5
    assert count.unknown == ""


class AsksForValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.rnn = nn.Linear(4, 4), nn.LSTM(4, 3)
        self.seen = []

    def forward(self, x):
        if x.sum().item() > 0:
            x = x + torch.rand_like(x) + random.random() + np.random.rand()  # noqa: NPY002
        self.seen.append(x)
        return self.rnn(self.net(x))


def test_nets_that_ask_for_values_run_on_a_copy_and_what_is_unknown_is_said():
    """On a CPU an LSTM is one kernel, of which torch's counter knows nothing."""
    torch.manual_seed(0)
    net, before = AsksForValues(), rng_state()
    count = count_flops(net, torch.ones(5, 2, 4), weights(net))
    assert count.total.forward == 2 * 4 * 4 * 10
    assert count.unknown.startswith(
        "products with rnn.weight_ih_l0, products with rnn.weight_hh_l0, the operator"
    )
    assert "rnn_layer" in count.unknown
    assert net.seen == []
    assert same_rng_state(rng_state(), before)


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise KeyError("no gradient here")


class OnlyForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return NoBackward.apply(self.net(x))


def test_a_pass_without_gradients_is_counted_forward_only():
    count = count_flops(OnlyForward(), torch.zeros(1, 20), ["net.0.weight"])
    assert count.total == Flops(2 * 250, None)
    assert count.unknown == "the backward pass, which ends in KeyError"


def test_layers_that_do_not_run_and_lookups():
    net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3))
    net[1].aux = nn.Linear(9, 9)
    count = count_flops(net, torch.zeros(2, 5, dtype=torch.long), weights(net))
    assert count.weights["0.weight"].forward == 0
    assert count.unknown == "products with 1.aux"


def test_a_weight_used_twice_counts_twice():
    layer = nn.Linear(6, 6, bias=False)
    count = count_flops(nn.Sequential(layer, nn.Tanh(), layer), torch.zeros(2, 6), ["0.weight"])
    assert count.weights["0.weight"] == WeightFlops(2 * 144, 144, 2 * 144)


class Autocast(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x)


@pytest.mark.parametrize("wrap", [Autocast, lambda: torch.compile(mlp())], ids=["autocast", "compiled"])
def test_nets_that_cast_or_compile_their_weights(wrap):
    found = count_flops(net := wrap(), torch.zeros(4, 20), list(parameters_by_name(net))[::2])
    assert [flops.forward for flops in found.weights.values()] == [1600, 400]
    assert found.unknown == ""


def test_counts_are_those_of_torch():
    net, x = mlp(), torch.zeros(3, 20)
    with FlopCounterMode(display=False) as counter:
        net(x).sum().backward()
    assert count_flops(net, x, weights(net)).total.training == counter.get_total_flops()


# Sparse ones, in theory.


@pytest.mark.parametrize("offset", ["none", "dct", "pretrained"])
def test_compact_layers_are_counted_as_dense_ones_and_by_their_formula(offset):
    net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    convert_(net, 0.25, "uniform", include=["0.weight"], offset=offset)
    found = summary(net, (3, 64))
    dense, last = 2 * 64 * 16 * 3, 2 * 16 * 4 * 3
    assert found.flops.dense == Flops(dense + last, 2 * dense + 3 * last)
    work = {"none": 0, "dct": 64 * 6, "pretrained": 64 * 16}[offset]  # of one vector: q log2 q, or mn
    through = 2 * 3 * (256 + work)
    assert found.layers[0].sparse_flops == Flops(through, through + 2 * 3 * 256)
    assert found.flops.sparse == Flops(through + last, through + 2 * 3 * 256 + 3 * last)


def test_masked_layers_and_what_is_no_layer():
    net = Attention()
    sparsify_(net, "uniform", 0.5, include=["*in_proj_weight"])
    found = summary(net, example_input={"x": torch.zeros(3, 5, 8)})
    saved = 2 * 24 * 8 * 15 // 2
    assert found.flops.dense.forward - found.flops.sparse.forward == saved
    assert f"{found.flops.dense.forward:,}" in str(found)


def test_work_of_offsets():
    shape = torch.Size((32, 4, 2, 2))  # 32 filters on patches of 16
    assert offset_work(NoOffset(), shape) == 0
    assert offset_work(DCTOffset(), shape) == 32 * 5
    assert offset_work(PretrainedOffset(), shape) == 32 * 16


# What is stored.


@pytest.mark.parametrize(
    ("offset", "name", "base"),
    [("none", "compact", 0), ("dct", "dct + compact", 0), ("pretrained", "pretrained + compact", 2 * 320)],
)
def test_storages_and_their_bytes(offset, name, base):
    """Values of bfloat16 beside a stored weight are float32."""
    net = nn.Sequential(nn.Linear(32, 10)).bfloat16()
    convert_(net, 0.1, offset=offset)
    (layer,) = summary(net).layers
    assert layer.storage == name
    assert (layer.values, layer.positions, layer.base) == (32 * (4 if base else 2), 32 * 4, base)
    assert layer.stored == layer.values + layer.positions + layer.base
    assert ("of fixed dense parts" in str(summary(net))) == bool(base)


def test_masks_have_bytes():
    net = nn.Sequential(nn.Linear(32, 10))
    sparsify_(net, "erk", 0.1)
    (layer,) = summary(net).layers
    assert (layer.storage, layer.values, layer.positions, layer.base) == ("masked", 1280, 1280, 0)


# Inputs.


class WithExample(pl.LightningModule):
    def __init__(self, example):
        super().__init__()
        self.net, self.example_input_array = mlp(), example

    def forward(self, x, twice=None):
        return self.net(x if twice is None else x + twice)


@pytest.mark.parametrize(
    "example",
    [torch.zeros(2, 20), (torch.zeros(2, 20), torch.zeros(2, 20)), {"x": torch.zeros(2, 20)}],
    ids=["tensor", "tuple", "dict"],
)
def test_the_example_of_a_lightning_module(example):
    module = WithExample(example)
    assert summary(module).flops.dense.forward == 2 * 250 * 2
    assert summary(module, (4, 20)).flops.dense.forward == 2 * 250 * 4
    assert summary(WithExample(None)).flops is None


def test_an_example_that_does_not_fit_is_a_note_and_one_that_was_given_an_error():
    found = summary(WithExample(torch.zeros(2, 3)))
    assert found.flops is None
    assert "FLOPs are not counted: `example_input_array` must be what the net takes, got 2 x 3" in str(found)
    with pytest.raises(SparsityError, match="`input_size` must be what the net takes, got 2 x 3, which ends"):
        summary(mlp(), (2, 3))
    with pytest.raises(
        SparsityError, match="`example_input` must be what the net takes, got str, which ends"
    ):
        summary(mlp(), example_input="2 x 3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": (1, 20), "example_input": torch.zeros(1, 20)}, "`input_size` must come without"),
        ({"input_size": 20}, "`input_size` must be one or more integers"),
        ({"input_size": (1, 0.5)}, "`input_size` must be one or more integers"),
        ({"input_size": ()}, "`input_size` must be one or more integers"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(SparsityError, match=message):
        summary(mlp(), **arguments)


def test_a_module_with_a_net_but_no_forward():
    class Task(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = mlp()

    assert summary(Task(), (1, 20)).flops.dense.forward == 2 * 250


def test_a_compact_layer_by_itself():
    net = nn.Sequential(nn.Linear(20, 10))
    convert_(net, 0.1, offset="none")
    assert summary(net[0], (1, 20)).flops.sparse.forward == 2 * 20


def test_a_module_with_nothing_to_call_is_named():
    class Task(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(20, 10), nn.Linear(10, 5)

    with pytest.raises(SparsityError, match=r"^`module` must have a `forward`, or .*, got Task\. Give it"):
        summary(Task(), (1, 20))


def test_rows_are_in_the_order_of_the_net():
    net = nn.Sequential(Attention(), nn.Linear(8, 4), nn.Linear(4, 2))
    sparsify_(net, "uniform", 0.5, include=["*in_proj_weight", "2.weight"])
    convert_(net, 0.5, include=["1.weight"])
    names = ["0.attention.in_proj_weight", "0.attention.out_proj", "1", "2"]
    assert [layer.name for layer in summary(net).layers] == names


def test_modules_stay_as_they_are():
    seen = []
    net = nn.Sequential(nn.Linear(20, 10), nn.BatchNorm1d(10), nn.Dropout(), nn.Linear(10, 5))
    net[0].register_forward_hook(lambda *passed: seen.append(passed))
    convert_(net, 0.2, include=["0.weight"])
    sparsify_(net, "magnitude", 0.5, include=["3.weight"])
    net.train()[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items() if "extra" not in name}
    modes, random_state = [layer.training for layer in net.modules()], torch.get_rng_state()
    summary(net, (2, 20))
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert [layer.training for layer in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not seen
    assert len(net[0]._forward_hooks) == 1
    assert summary(net).layers[1].storage == "masked"
