"""What stays dense is said: computed weights, nets of other packages, and how to take all of them in."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from toy import Toy, loader, make_toy, trainer

from lightning_sparse import (
    DCTpSConversion,
    GraSP,
    PruneAtInit,
    RigLCallback,
    convert_,
    sparsify_,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.selection import countable_weights, output_dim, select_weights
from lightning_sparse.weights.state import state_of

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")


# Layers that compute their weight.


class Tanh(nn.Linear):
    """A weight computed by a property, in no way that PyTorch knows of."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.raw = nn.Parameter(self.weight.detach())
        del self.weight

    @property
    def weight(self):
        return self.raw.tanh()


COMPUTED = {
    "weight_norm": (weight_norm, "weight_v"),
    "spectral_norm": (spectral_norm, "weight_orig"),
    "prune": (lambda layer: prune.l1_unstructured(layer, "weight", 2), "weight_orig"),
    "parametrized": (parametrizations.weight_norm, "parametrizations.weight.original1"),
    "property": (lambda layer: Tanh(layer.in_features, layer.out_features), "raw"),
}


@pytest.mark.parametrize(("compute", "source"), COMPUTED.values(), ids=COMPUTED)
def test_a_computed_weight_stays_dense_with_a_warning_that_names_its_source(compute, source):
    net = nn.Sequential(compute(nn.Linear(4, 3)), nn.Linear(3, 2))
    with pytest.warns(UserWarning, match=rf"is computed .*stay dense: 0 \(1 in all\).*'0.{source}'"):
        assert list(select_weights(net)) == ["1.weight"]
    assert list(select_weights(net, include=[f"0.{source}"])) == [f"0.{source}"]


def test_convolutions_and_layers_of_others_compute_theirs_too():
    net = nn.Sequential(weight_norm(nn.Conv2d(2, 4, 3)), spectral_norm(conv1d(4, 3)), nn.Linear(3, 2))
    with pytest.warns(UserWarning, match=r"stay dense: 0, 1 \(2 in all\)"):
        assert list(select_weights(net)) == ["2.weight"]


def test_what_is_excluded_or_no_parameter_is_not_warned_of():
    net = nn.Sequential(weight_norm(nn.Linear(4, 3)), nn.Linear(3, 2))
    blur = nn.Conv2d(1, 1, 3)
    del blur.weight
    blur.register_buffer("weight", torch.ones(1, 1, 3, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select_weights(net, exclude=["0.*"])
        select_weights(net, include=["1"])
        select_weights(nn.Sequential(blur, nn.Linear(3, 2)))


def test_a_net_of_computed_weights_only_is_refused_with_their_sources():
    with (
        pytest.warns(UserWarning, match="stay dense: 0, 1"),
        pytest.raises(SparsityError, match=r"largest weights are 0.weight_v \(5 x 4\), .*0\.weight_g.*'all'"),
    ):
        select_weights(Named(weight_norm(nn.Linear(4, 5)), weight_norm(nn.Linear(5, 2))))


class Named(nn.Sequential):
    """Names whose numbers are no part of a list."""


class HookedToy(Toy):
    def __init__(self):
        super().__init__()
        self.net[0] = weight_norm(self.net[0])


def test_fit_says_it_once_by_default(tmp_path):
    torch.manual_seed(0)
    toy = HookedToy()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        trainer(tmp_path, PruneAtInit("erk", 0.2)).fit(toy, loader())
    assert len([w for w in caught if "stay dense: net.0" in str(w.message)]) == 1
    assert list(state_of(toy).masks) == ["net.6.weight"]


# Layers of other packages, by the names of their classes.


def named(path, **attributes):
    """Make a class that says it is another package's."""
    module, _, name = path.rpartition(".")
    return type(name, (nn.Module,), {"__module__": module, **attributes})


Conv1D = named("transformers.pytorch_utils.Conv1D", forward=lambda self, x: x @ self.weight)
PyGLinear = named(
    "torch_geometric.nn.dense.linear.Linear", forward=lambda self, x: F.linear(x, self.weight, self.bias)
)
HeteroLinear = named("torch_geometric.nn.dense.linear.HeteroLinear")
Experts = named("transformers.models.mixtral.modeling_mixtral.MixtralExperts")
ParallelExperts = named("transformers.models.jetmoe.modeling_jetmoe.JetMoeParallelExperts")


def conv1d(inputs, outputs, kind=Conv1D):
    layer = kind()
    layer.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
    return layer


def pyg_linear(inputs, outputs):
    layer = conv1d(outputs, inputs, PyGLinear)
    layer.bias = nn.Parameter(torch.zeros(outputs))
    return layer


def experts():
    layer = Experts()
    layer.gate_up_proj = nn.Parameter(torch.randn(2, 12, 4))
    layer.gate_up_proj_bias = nn.Parameter(torch.zeros(2, 12))
    layer.down_proj = nn.Parameter(torch.randn(2, 4, 6))
    return layer


def test_linear_layers_of_other_packages_are_selected():
    other = HeteroLinear()
    other.weight = nn.Parameter(torch.randn(3, 4, 5))
    other.bias = nn.Parameter(torch.randn(3, 5))
    stacked = ParallelExperts()
    stacked.weight = nn.Parameter(torch.randn(2, 5, 4))
    net = nn.ModuleList([conv1d(4, 6), pyg_linear(4, 6), other, experts(), stacked, nn.Linear(4, 2)])
    names = ["0.weight", "1.weight", "2.weight", "3.gate_up_proj", "3.down_proj", "4.weight", "5.weight"]
    assert list(select_weights(net)) == names
    assert list(countable_weights(net)) == names
    assert [output_dim(layer) for layer in net] == [1, 0, 2, 0, 0, 0]
    assert output_dim(nn.ConvTranspose2d(4, 2, 3)) == 1


def test_children_of_their_classes_are_known_and_namesakes_are_not():
    child = type("Fused", (Conv1D,), {"__module__": "mine"})
    namesake = named("mine.Conv1D")
    router = named("transformers.models.mixtral.modeling_mixtral.MixtralTopKRouter")
    net = nn.ModuleList([conv1d(4, 6, kind) for kind in (child, namesake, router)])
    assert list(select_weights(net)) == ["0.weight"]


def test_two_dimensional_parameters_of_experts_are_not():
    layer = ParallelExperts()
    layer.weight = nn.Parameter(torch.randn(4, 4))
    assert list(countable_weights(nn.Sequential(layer, nn.Linear(2, 2)))) == ["1.weight"]


@pytest.mark.parametrize("method", ["erk", "epf", "magnitude", "synflow"])
def test_nets_of_theirs_can_be_pruned(method):
    net = nn.Sequential(conv1d(8, 16), nn.ReLU(), pyg_linear(16, 4))
    masks = sparsify_(net, method, 0.25, batches=[torch.ones(1, 8)])
    assert sum(int(mask.sum()) for mask in masks.values()) == 48


def test_grasp_finds_their_last_layer(tmp_path):
    toy = make_toy()
    toy.net = nn.Sequential(nn.Flatten(), conv1d(192, 8), nn.Tanh(), pyg_linear(8, 4))
    trainer(tmp_path, PruneAtInit(GraSP(), 0.25)).fit(toy, loader())
    assert sum(int(mask.sum()) for mask in state_of(toy).masks.values()) == 392


def test_conversion_says_that_it_leaves_them():
    net = nn.Sequential(conv1d(8, 16), nn.Linear(16, 4))
    with pytest.warns(UserWarning, match="stay dense: 0.weight"):
        assert list(convert_(net, 0.25)) == ["1.weight"]
    with pytest.raises(SparsityError, match=r"'0\.weight' of Conv1D"):
        convert_(nn.Sequential(conv1d(8, 16)), 0.25)


# Nets without any layer that is known.


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.randn(8, 32)), nn.Parameter(torch.randn(32, 8))
        self.scale = nn.Parameter(torch.ones(8))


class Matrices(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.rotation = nn.Parameter(torch.eye(3))


def test_the_error_names_the_largest_weights_and_patterns_for_them():
    with pytest.raises(SparsityError) as refused:
        select_weights(Matrices())
    text = str(refused.value)
    assert "there is no linear or convolutional layer" in text
    assert "blocks.0.w1 (8 x 32), blocks.0.w2 (32 x 8), embed (10 x 8)." in text
    assert "`include=['blocks.*.w1', 'blocks.*.w2', 'embed.weight']`, or take all by `include='all'`" in text
    names = list(select_weights(Matrices(), include=["blocks.*.w1", "blocks.*.w2", "embed.weight"]))
    assert len(names) == 5


@pytest.mark.parametrize(
    ("make", "arguments", "reason"),
    [
        (lambda: nn.LayerNorm(3), {}, "no linear or convolutional layer. There is nothing else"),
        (lambda: nn.Sequential(nn.Linear(4, 2)), {"exclude": ["0"]}, "`exclude` takes them all, 0.weight."),
        (
            lambda: Matrices(),
            {"include": "all", "exclude": ["*"]},
            "`exclude` takes them all, rotation, embed.weight, ",
        ),
        (lambda: Matrices(), {"include": []}, "`include` is empty"),
        (lambda: Matrices(), {"include": ["embed"], "exclude": ["embed"]}, "takes all that `include` names"),
        (lambda: nn.LayerNorm(3), {"include": "all"}, "there is no weight of two or more dimensions"),
        (lambda: LazyOwn(), {}, r"and w have no shape yet \(lazy\). Pass one batch through the module"),
    ],
)
def test_an_empty_selection_says_why(make, arguments, reason):
    with pytest.raises(SparsityError, match=rf"^No weight is selected: .*{reason}"):
        select_weights(make(), **arguments)


def test_frozen_ones_are_named_as_the_reason():
    net = nn.Sequential(nn.Linear(4, 2)).requires_grad_(False)
    with (
        pytest.warns(UserWarning, match="Frozen weights stay dense"),
        pytest.raises(SparsityError, match=r"no linear or convolutional layer is trained. .* 0 \(2 x 4\)"),
    ):
        select_weights(net)


class LazyOwn(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.UninitializedParameter()


def test_lazy_layers_are_named_with_the_way_out():
    lazy = PyGLinear()
    lazy.weight = nn.UninitializedParameter()
    for net in (nn.Sequential(lazy), nn.Sequential(nn.LazyConv2d(3, 3)), nn.Sequential(nn.LazyLinear(3))):
        with pytest.raises(SparsityError, match=r"'0\.weight' is lazy and has no shape yet; pass one batch"):
            select_weights(net)
    net(torch.ones(1, 4))
    assert list(select_weights(net)) == ["0.weight"]


# All of them, by one word.


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.rnn = nn.LSTM(8, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.normed = weight_norm(nn.Linear(8, 8))
        self.norm = nn.LayerNorm(8)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.head = nn.Linear(8, 1)


ALL_OF_MIXED = [
    "embed.weight",
    "rnn.weight_ih_l0",
    "rnn.weight_hh_l0",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "normed.weight_v",
    "head.weight",
]


def test_all_are_matrices_of_any_layer_but_no_vectors():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        chosen = select_weights(Mixed(), include="all")
    assert sorted(chosen) == sorted(ALL_OF_MIXED)


def test_all_takes_exclude_and_leaves_what_is_frozen():
    net = Mixed()
    net.embed.requires_grad_(False)
    with pytest.warns(UserWarning, match="Frozen weights stay dense: embed.weight"):
        chosen = select_weights(net, include="all", exclude=["rnn.*"])
    assert sorted(chosen) == sorted(
        set(ALL_OF_MIXED) - {"embed.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0"}
    )


def test_all_is_a_word_of_include_alone():
    for arguments in ({"exclude": "all"}, {"include": "al"}):
        with pytest.raises(SparsityError, match="must be a list of patterns"):
            PruneAtInit("erk", 0.2, **arguments)


class Recurrent(Toy):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(2), nn.LSTM(64, 4, batch_first=True))

    def training_step(self, batch, *_):
        return self.net(batch[0])[0].square().mean()


@pytest.mark.parametrize(
    "make",
    [
        lambda: PruneAtInit("erk", 0.2, include="all"),
        lambda: RigLCallback(0.2, every_n_steps=2, include="all"),
    ],
)
def test_callbacks_take_the_word_and_resume_with_it(tmp_path, make):
    toy = Recurrent()
    runner = trainer(tmp_path, make())
    runner.fit(toy, loader())
    assert sum(int(mask.sum()) for mask in state_of(toy).masks.values()) == 218  # of 1,088
    runner.save_checkpoint(tmp_path / "last.ckpt")
    trainer(tmp_path, make(), max_epochs=3).fit(Recurrent(), loader(), ckpt_path=tmp_path / "last.ckpt")
    other = PruneAtInit("erk", 0.2, include=["*_l0"]) if isinstance(make(), PruneAtInit) else None
    if other is not None:
        with pytest.raises(SparsityError, match=r"`include` is \"\['\*_l0'\]\", but .* made with 'all'"):
            trainer(tmp_path, other, max_epochs=3).fit(
                Recurrent(), loader(), ckpt_path=tmp_path / "last.ckpt"
            )


def test_conversion_takes_the_word_where_it_can_convert_all(tmp_path):
    toy, dct = make_toy(), DCTpSConversion(0.2, include="all")
    trainer(tmp_path, dct).fit(toy, loader())
    trainer(tmp_path, dct, max_epochs=1).fit(toy, loader())  # finds them converted
    assert len(toy.net[0].values) + len(toy.net[6].values) == 203
    with pytest.raises(SparsityError, match="`include` must name weights of linear and convolutional layers"):
        convert_(nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4)), 0.2, include="all")


def test_the_line_below_the_table_is_by_size(tmp_path, capsys):
    toy = make_toy()
    toy.small, toy.large = nn.LSTM(3, 4), nn.Embedding(50, 6)
    trainer(tmp_path, PruneAtInit("erk", 0.1), enable_model_summary=True).fit(toy, loader())
    line = "Dense and not counted: 412 of 1,428 weights (28.9%): large (300), small.weight_hh_l0 (64), small"
    assert line in capsys.readouterr().out
