"""Sparse fine-tuning: everything frozen but a sparse change of the weights, and what is named."""


import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from toy import Toy, assert_equal, loader, make_toy, sgd, trainer, weights_of

from lightning_sparse import (
    SNIP,
    FromFile,
    Gradient,
    Magnitude,
    SparseFineTuning,
    merge_,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.layers import compact_layers, convert_

SUPPORTS = ["random", "magnitude", "gradient"]


def tuner(support="random", density=0.1, **arguments):
    return SparseFineTuning(density, support, **{"train": ["*.bias"], "seed": 3, **arguments})


def fit(tmp_path, toy, *callbacks, tune=None, data=None, ckpt_path=None, **arguments):
    held = Held()
    runner = trainer(tmp_path, tune or tuner(), *callbacks, held, **arguments)
    runner.fit(toy, data or loader(), loader(2), ckpt_path=ckpt_path)
    assert held.steps > 0
    assert any(layer.values.any() for layer in compact_layers(toy).values())
    return runner


class Held(pl.Callback):
    """After every step: what is frozen is as it was, and optimizers keep nothing for it."""

    def on_fit_start(self, trainer, pl_module):
        self.steps, self.frozen = 0, frozen(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.steps += 1
        assert_equal(self.frozen, frozen(pl_module))
        for optimizer in trainer.optimizers:
            assert all(parameter.requires_grad for parameter in optimizer.state)


def frozen(module):
    return {n: p.detach().clone() for n, p in module.named_parameters() if not p.requires_grad}


def trained(module):
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def supports(module):
    return {name: layer.indices.clone() for name, layer in compact_layers(module).items()}


# What is trained.


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (None, ["net.0.values", "net.6.values"]),
        ([], ["net.0.values", "net.6.values"]),
        (["*.bias"], ["net.0.values", "net.0.bias", "net.1.bias", "net.6.values", "net.6.bias"]),
        (["net.6"], ["net.0.values", "net.6.weight", "net.6.bias"]),
        (["net.6.*"], ["net.0.values", "net.6.weight", "net.6.bias"]),
        (["net.1"], ["net.0.values", "net.1.weight", "net.1.bias", "net.6.values"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("before", [True, False], ids=["all trained before", "all frozen before"])
def test_what_is_trained(tmp_path, train, expected, before):
    toy = make_toy().requires_grad_(before)
    fit(tmp_path, toy, tune=SparseFineTuning(0.1, train=train))
    assert trained(toy) == expected
    assert set(compact_layers(toy)) == {name.removesuffix(".values") for name in expected if "values" in name}


@pytest.mark.parametrize("support", SUPPORTS)
def test_frozen_weights_are_selected_and_budgets_exact(tmp_path, support):
    toy, plain = make_toy(), make_toy()
    toy.net[6].requires_grad_(False)
    fit(tmp_path, toy, tune=tuner(support))
    fit(tmp_path, plain, tune=tuner(support))
    assert_equal(supports(toy), supports(plain))
    assert {name: layer.nnz for name, layer in compact_layers(toy).items()} == {
        "net.0": 8,
        "net.6": 94,
    }  # erk


def test_include_exclude_and_overrides(tmp_path):
    toy = make_toy()
    fit(tmp_path, toy, tune=tuner(exclude=["net.0"]))
    assert {name: layer.nnz for name, layer in compact_layers(toy).items()} == {"net.6": 80}
    assert not toy.net[0].weight.requires_grad
    toy = make_toy().requires_grad_(False)
    fit(tmp_path, toy, tune=tuner(include=["net.0.weight"]))
    assert {name: layer.nnz for name, layer in compact_layers(toy).items()} == {"net.0": 22}
    toy = make_toy()
    fit(tmp_path, toy, tune=tuner("magnitude", density_overrides={"net.0": 0.25}))
    assert {name: layer.nnz for name, layer in compact_layers(toy).items()} == {"net.0": 54, "net.6": 48}


@pytest.mark.parametrize("allocation", ["global", "uniform", None])
def test_allocation(allocation):
    method = SparseFineTuning(0.1, "gradient", allocation).support
    assert method == Gradient(allocation=allocation or "erk")
    assert SparseFineTuning(0.1, "magnitude", allocation).support == Magnitude(allocation or "erk")


def test_random_supports_over_all_layers_at_once(tmp_path):
    toy = make_toy()
    fit(tmp_path, toy, tune=tuner(allocation="global"))
    assert sum(layer.nnz for layer in compact_layers(toy).values()) == 102


# Which weights.


def test_magnitude_takes_the_largest_of_each_layer(tmp_path):
    toy = make_toy()
    weight = toy.net[6].weight.detach().clone()
    fit(tmp_path, toy, tune=tuner("magnitude"))
    expected = weight.abs().flatten().topk(94).indices.sort().values
    assert torch.equal(compact_layers(toy)["net.6"].indices.long(), expected)


def test_gradient_takes_the_largest_over_the_first_batches(tmp_path):
    toy, same = make_toy(dropout=0.0), make_toy(dropout=0.0)
    same.train()
    batches = [batch for _, batch in zip(range(2), loader(4), strict=False)]
    for x, y in batches:
        (nn.functional.cross_entropy(same.net(x), y) / len(batches)).backward()
    fit(tmp_path, toy, tune=tuner(Gradient(2, allocation="erk")), data=loader(4))
    for path, layer in compact_layers(toy).items():
        size = same.get_parameter(f"{path}.weight").grad.abs().flatten()
        assert torch.equal(layer.indices.long(), size.topk(layer.nnz).indices.sort().values)


def test_scoring_disturbs_nothing(tmp_path):
    """A run that scored trains on the same batches, with the same draws, as one that did not."""

    class Notes(Toy):
        seen = ()

        def training_step(self, batch, *_):
            self.seen = (*self.seen, batch[0][0, 0, 0, 0].item(), torch.rand(1).item())
            return super().training_step(batch)

    def run(support):
        pl.seed_everything(0, verbose=False)
        toy = Notes()
        fit(tmp_path, toy, tune=tuner(support), data=loader(shuffle=True))
        return toy.seen

    assert run("gradient") == run("magnitude")


def test_no_warning_of_a_net_that_is_cut_through(tmp_path, recwarn):
    """The other weights stay: it does not matter whether a signal passes those few that are chosen."""
    net = nn.Sequential(nn.Flatten(), *(nn.Linear(192, 192) for _ in range(4)), nn.Linear(192, 4))
    toy = make_toy()
    toy.net = net
    fit(tmp_path, toy, tune=tuner("gradient", density=0.0001, min_weights_per_layer=0, allocation="global"))
    assert not [w for w in recwarn if "signal" in str(w.message)]


def test_before_fine_tuning_it_is_the_pretrained_net(tmp_path, recwarn):
    toy = make_toy()
    expected = trainer(tmp_path).test(toy, loader(2), verbose=False)
    (result,) = trainer(tmp_path, tuner("gradient")).test(toy, loader(2), verbose=False)
    assert result == pytest.approx(expected[0])
    assert not [w for w in recwarn if "nothing here has been trained" in str(w.message)]


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0}, r"`density` must be in \(0, 1\], got 0"),
        ({"support": "largest"}, "`support` must be .*got 'largest'"),
        ({"allocation": "elk"}, "`allocation` must be .*got 'elk'"),
        ({"train": "*.bias"}, r"`train` must be a list of patterns, got '\*.bias'. Write \['\*.bias'\]"),
        ({"backend": "fft"}, "`backend` must be .*got 'fft'"),
        ({"support": SNIP(), "allocation": "erk"}, "`allocation` must be None beside a method object"),
        ({"support": FromFile("masks.pt")}, "`support` must be a method that scores weights, got FromFile"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(SparsityError, match=message):
        SparseFineTuning(**{"density": 0.1, **arguments})


@pytest.mark.parametrize("argument", ["alpha", "offset", "alpha_requires_grad"])
def test_there_is_nothing_to_scale(argument):
    with pytest.raises(TypeError, match=argument):
        SparseFineTuning(0.1, **{argument: 1.0})


@pytest.mark.parametrize("support", SUPPORTS)
def test_a_pattern_that_matches_nothing_is_refused_before_anything_changes(tmp_path, support):
    toy = make_toy()
    with pytest.raises(
        SparsityError, match=r"`train` pattern 'net.7' matches no parameter .*names here: net\.\d"
    ):
        fit(tmp_path, toy, tune=tuner(support, train=["net.7"]))
    assert not compact_layers(toy)
    assert trained(toy) == [name for name, _ in toy.named_parameters()]


def test_nothing_left_to_convert(tmp_path):
    with pytest.raises(SparsityError, match="No weight is selected"):
        fit(tmp_path, make_toy(), tune=tuner(train=["net"]))


def test_values_must_be_in_an_optimizer(tmp_path):
    toy = make_toy()
    toy.configure_optimizers = lambda: sgd(toy.net[1].parameters())
    with pytest.raises(SparsityError, match=r"2 of 2 in no optimizer, such as 'net.0.values'"):
        fit(tmp_path, toy)


# Merging.


@pytest.mark.parametrize("support", SUPPORTS)
def test_merged_is_the_sum_and_loads_into_the_untouched_module(tmp_path, support):
    toy, untouched = make_toy(), make_toy()
    before = weights_of(toy)
    fit(tmp_path, toy, tune=tuner(support))
    expected = {}
    for path, layer in compact_layers(toy).items():
        expected[path] = before[f"{path}.weight"].clone()
        expected[path].view(-1)[layer.indices.long()] += layer.values.detach()
    x = loader(1).dataset.tensors[0]
    with torch.no_grad():
        y = toy.eval().net(x)
    assert merge_(toy) == ["net.0", "net.6"]
    assert type(toy.net[0]) is nn.Conv2d
    for path, weight in expected.items():
        assert torch.equal(toy.get_parameter(f"{path}.weight"), weight)
    untouched.load_state_dict(toy.state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(untouched.eval().net(x), y)
    assert trained(toy) == ["net.0.weight", "net.0.bias", "net.1.bias", "net.6.weight", "net.6.bias"]


def test_merging_leaves_layers_with_other_matrices():
    net = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 10))
    convert_(net, 0.1, include=["0"])
    with pytest.raises(
        SparsityError, match="`module` must hold sparse changes of pretrained weights, got Seq"
    ):
        merge_(net)
    convert_(net, 0.1, offset="pretrained", include=["1"])
    assert merge_(net) == ["1"]
    assert list(compact_layers(net)) == ["0"]
