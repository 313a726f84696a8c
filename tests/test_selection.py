import pytest
import torch
from torch import nn

from lightning_sparse.selection import layer_name, match_overrides, select_weights


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.conv = nn.Conv1d(8, 8, 3)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.rnn = nn.LSTM(8, 6)
        self.head = nn.Linear(6, 4)
        self.register_buffer("causal_mask", torch.ones(3, 3, dtype=torch.bool))


def test_default_is_linear_and_convolutional_weights():
    assert list(select_weights(Net())) == ["conv.weight", "attention.out_proj.weight", "head.weight"]


def test_include_may_take_any_weight_of_two_dimensions():
    chosen = select_weights(Net(), include=["rnn.*", "*.in_proj_weight", "embed.weight"])
    assert list(chosen) == [
        "embed.weight",
        "attention.in_proj_weight",
        "rnn.weight_ih_l0",
        "rnn.weight_hh_l0",
    ]


def test_include_glob_leaves_vectors_dense():
    assert list(select_weights(Net(), include=["head.*", "conv.*"])) == ["conv.weight", "head.weight"]


def test_exclude():
    assert list(select_weights(Net(), exclude=["head*"])) == ["conv.weight", "attention.out_proj.weight"]


def test_selection_hands_out_the_parameters_themselves():
    net = Net()
    assert select_weights(net)["head.weight"] is net.head.weight


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 4)
        self.decoder = nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight
        self.again = self.decoder


def test_tied_weights_count_once_and_answer_to_all_names():
    assert list(select_weights(Tied())) == ["encoder.weight"]
    assert list(select_weights(Tied(), include=["again.*"])) == ["encoder.weight"]
    with pytest.raises(ValueError, match="No weight is selected"):
        select_weights(Tied(), exclude=["decoder.weight"])


def test_a_head_tied_to_an_embedding_is_an_embedding():
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False), nn.Linear(5, 2))
    net[1].weight = net[0].weight
    assert list(select_weights(net)) == ["2.weight"]
    assert list(select_weights(net, include=["1.weight"])) == ["0.weight"]


def test_frozen_weights_stay_dense_with_a_warning_unless_named():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    net[0].requires_grad_(False)
    with pytest.warns(UserWarning, match=r"Frozen weights stay dense: 0.weight \(1 in all\)"):
        assert list(select_weights(net)) == ["1.weight"]
    assert list(select_weights(net, include=["*"])) == ["0.weight", "1.weight"]


def test_parametrized_layers_stay_dense_with_a_warning():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    nn.utils.parametrizations.weight_norm(net[0])
    with pytest.warns(UserWarning, match=r"stay dense: 0 \(1 in all\)"):
        assert list(select_weights(net)) == ["1.weight"]
    assert list(select_weights(net, include=["0.*original1"])) == ["0.parametrizations.weight.original1"]


def test_weights_that_are_not_floating_point_are_skipped():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    net[0].weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    assert list(select_weights(net, include=["*"])) == ["1.weight"]
    with pytest.raises(ValueError, match="cannot be sparse"):
        select_weights(net, include=["0.weight"])


def test_lazy_weight_is_an_error_that_names_it():
    net = nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(2))
    with pytest.raises(ValueError, match=r"'1.weight' is lazy"):
        select_weights(net)
    assert list(select_weights(net, exclude=["1.*"])) == ["0.weight"]


def test_names_are_those_before_compile():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    net[0] = torch.compile(net[0], backend="eager")
    assert list(select_weights(net, include=["0.weight", "1.weight"])) == ["0.weight", "1.weight"]


@pytest.mark.parametrize("argument", ["include", "exclude"])
def test_pattern_that_matches_nothing(argument):
    with pytest.raises(
        ValueError, match=rf"`{argument}` pattern 'hed.weight' matches no parameter.*head.weight"
    ):
        select_weights(Net(), **{argument: ["hed.weight"]})


def test_patterns_are_shown_only_names_that_they_could_select():
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"'1.wght' .*; names here: 1.weight, 2.weight.$"):
        select_weights(net, exclude=["1.wght"])
    with pytest.raises(ValueError, match=r"'1.wght' .*; names here: 1.weight, 2.weight, 0.weight.$"):
        select_weights(net, include=["1.wght"])
    with pytest.raises(ValueError, match=r"'1.wght' .*; names here: 0.weight.$"):
        select_weights(net, include=["0.weight"], exclude=["1.wght"])


def test_include_of_vectors_only():
    with pytest.raises(ValueError, match=r"cannot be sparse \(norm.weight\)"):
        select_weights(Net(), include=["norm.*"])


def test_net_without_anything_to_prune():
    with pytest.raises(ValueError, match="No weight is selected"):
        select_weights(nn.LayerNorm(3))


def test_the_last_override_wins():
    assert match_overrides(["a.w", "b.w"], {"*": 0.5, "b*": 1.0}) == {"a.w": 0.5, "b.w": 1.0}
    assert match_overrides(["a.w", "b.w"], None) == {}


def test_override_errors():
    with pytest.raises(ValueError, match="pattern 'c' matches none"):
        match_overrides(["a.w"], {"c": 0.5})
    with pytest.raises(ValueError, match=r"`density_overrides\['a.w'\]` must be in \(0, 1\], got 0"):
        match_overrides(["a.w"], {"a.w": 0.0})


def test_patterns_may_use_the_names_of_tables():
    net = Net()
    assert list(select_weights(net, exclude=["head", "conv"])) == ["attention.out_proj.weight"]
    assert list(select_weights(net, include=["rnn.weight_ih_l0", "head"])) == [
        "rnn.weight_ih_l0",
        "head.weight",
    ]
    assert match_overrides(["head.weight"], {"head": 0.5}) == {"head.weight": 0.5}


def test_layers_without_weights_are_left_out():
    with pytest.warns(UserWarning, match="zero-element"):
        net = nn.Sequential(nn.Linear(0, 5), nn.Linear(5, 2))
    assert list(select_weights(net)) == ["1.weight"]


def test_layer_names():
    assert layer_name("net.fc.weight") == "net.fc"
    assert layer_name("rnn.weight_ih_l0") == "rnn.weight_ih_l0"


@pytest.mark.parametrize("word", ["all", "All"])
def test_the_word_for_all_weights_is_no_pattern(word):
    with pytest.raises(ValueError, match=r"not in a list: `include='all'`\.$"):
        select_weights(Net(), include=["head.*", word])
    with pytest.raises(ValueError, match=r"Write `include='all'`\.$"):
        select_weights(Net(), include=f"A{word[1:]}")


def test_a_layer_may_be_named_all():
    net = nn.ModuleDict({"all": nn.Linear(4, 3), "head": nn.Linear(3, 2)})
    assert list(select_weights(net, include=["all"])) == ["all.weight"]


def test_all_is_no_way_out_where_nothing_is_trained():
    frozen = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4)).requires_grad_(False)
    with pytest.warns(UserWarning, match="Frozen"), pytest.raises(ValueError, match="is trained") as caught:
        select_weights(frozen)
    assert "'all'" not in str(caught.value)
    with pytest.raises(ValueError, match="or take all by `include='all'`"):
        select_weights(nn.Embedding(5, 4))
    select_weights(nn.Embedding(5, 4), include="all")


@pytest.mark.parametrize("layer", [nn.Embedding(9, 4, sparse=True), nn.EmbeddingBag(9, 4, sparse=True)])
def test_embeddings_with_sparse_gradients_are_refused(layer):
    net = nn.Sequential(layer, nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"Weight '0\.weight' is that of an embedding with"):
        select_weights(net, include="all")
    assert list(select_weights(net)) == list(select_weights(net, "all", ["0.*"])) == ["1.weight"]
    layer.sparse = False
    assert list(select_weights(net, include="all")) == ["0.weight", "1.weight"]
