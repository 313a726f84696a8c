"""Sparse fine-tuning: everything frozen but a sparse change of the weights, and what is named."""

import copy
import math
import pickle
import sys

import pytest
import pytorch_lightning as pl
import torch
from optimizers import OPTIMIZERS
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint
from pytorch_lightning.callbacks import StochasticWeightAveraging as SWA
from pytorch_lightning.callbacks.weight_averaging import EMAWeightAveraging as EMA
from torch import nn
from toy import Toy, adamw, assert_equal, loader, make_toy, sgd, trainer, weights_of

from lightning_sparse import (
    SNIP,
    ExactResume,
    FromFile,
    Gradient,
    Magnitude,
    RigLCallback,
    SETCallback,
    SparseFineTuning,
    SparsityMonitor,
    load_from_checkpoint,
    merge_,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.main import main
from lightning_sparse.layers import compact_layers, convert_
from lightning_sparse.models import ImageClassifier

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
        for optimizer in trainer.optimizers:  # Adagrad makes room for whatever it is handed
            made_ahead = isinstance(optimizer, torch.optim.Adagrad)
            assert made_ahead or all(parameter.requires_grad for parameter in optimizer.state)


def frozen(module):
    return {n: p.detach().clone() for n, p in module.named_parameters() if not p.requires_grad}


def trained(module):
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def supports(module):
    return {name: layer.indices.to("cpu", copy=True) for name, layer in compact_layers(module).items()}


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


# What every callback must withstand.

ROWS = {
    "random": lambda: [tuner()],
    "gradient": lambda: [tuner("gradient")],
    "RigL": lambda: [tuner("magnitude"), RigLCallback(every_n_steps=3, stop_at=100)],
    "SET": lambda: [tuner(), SETCallback(every_n_steps=2, stop_at=100, seed=3)],
}
ROW = pytest.mark.parametrize("row", ROWS)


@ROW
@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"extra-state"}))  # that takes no scalars
def test_optimizers(tmp_path, row, name):
    tune, *others = ROWS[row]()
    fit(tmp_path, make_toy(optimizer=OPTIMIZERS[name]), *others, tune=tune)


@ROW
@pytest.mark.parametrize(
    "arguments",
    [
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"precision": "bf16-true"},
        {"gradient_clip_val": 0.1},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"overfit_batches": 2},
        {"fast_dev_run": 4},
        {"val_check_interval": 2},
    ],
    ids=str,
)
def test_trainer_arguments(tmp_path, row, arguments):
    tune, *others = ROWS[row]()
    fit(tmp_path, make_toy(), *others, tune=tune, **arguments)


class NoNorm(Toy):
    """No batch statistics: a batch in four parts is the whole batch."""

    def __init__(self):
        super().__init__(optimizer=lambda p: torch.optim.SGD(p, 0.05, momentum=0.9))
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 40), nn.Linear(40, 4))


@ROW
def test_accumulation(tmp_path, row):
    torch.manual_seed(0)
    one = NoNorm()
    four = copy.deepcopy(one)
    for toy, batches, size, accumulated in ((one, 2, 32, 1), (four, 8, 8, 4)):
        tune, *others = ROWS[row]()
        if row == "gradient":  # over the same rows
            tune = tuner(Gradient(2 * accumulated, allocation="erk"))
        fit(
            tmp_path,
            toy,
            *others,
            tune=tune,
            data=loader(batches, size),
            accumulate_grad_batches=accumulated,
            max_epochs=3,
        )
    for name, value in weights_of(one).items():
        torch.testing.assert_close(value, four.state_dict()[name])


@pytest.mark.parametrize(("row", "inner"), [("gradient", True), ("RigL", True), ("RigL", False)])
def test_compiled(tmp_path, row, inner):
    torch._dynamo.reset()
    toy, plain = make_toy(dropout=0.0), make_toy(dropout=0.0)
    tune, *others = ROWS[row]()
    fit(tmp_path, plain, *others, tune=tune)
    tune, *others = ROWS[row]()
    if inner:
        toy.net = torch.compile(toy.net, backend="aot_eager")
    fit(tmp_path, toy if inner else torch.compile(toy, backend="aot_eager"), *others, tune=tune)
    assert trained(toy) == [n.replace("net.", "net._orig_mod.") if inner else n for n in trained(plain)]
    for name, value in weights_of(plain).items():
        other = name.replace("net.", "net._orig_mod.") if inner else name
        torch.testing.assert_close(value, weights_of(toy)[other], rtol=1e-4, atol=1e-5)
    assert merge_(toy) == ["net.0", "net.6"]


@ROW
def test_finders(tmp_path, row):
    class Tunable(Toy):
        def __init__(self):
            super().__init__()
            self.lr, self.batch_size = 0.1, 2

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), self.lr)

        def train_dataloader(self):
            return loader(8, self.batch_size)

        def val_dataloader(self):
            return loader(2)

    toy, held = Tunable(), Held()
    finders = [BatchSizeFinder(max_trials=2, steps_per_trial=1), LearningRateFinder(num_training_steps=5)]
    trainer(tmp_path, *ROWS[row](), *finders, held, enable_checkpointing=True).fit(toy)
    assert held.steps == 16


AVERAGES = {
    "ema": lambda: EMA(use_buffers=False, decay=0.9),
    "swa": lambda: SWA(swa_lrs=0.05, swa_epoch_start=1),
}


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
@pytest.mark.parametrize("row", ["random", "gradient"])
def test_averages_before_and_after_conversion(tmp_path, row, average):
    toys = []
    for order in (1, -1):
        pl.seed_everything(0, verbose=False)
        toys.append(make_toy(dropout=0.0))
        before, held = frozen(toys[-1].requires_grad_(False)), Held()
        pair = [average(), *ROWS[row]()]
        trainer(tmp_path, *pair[::order], held, max_epochs=3).fit(toys[-1], loader())
        for path, layer in compact_layers(toys[-1]).items():
            drift = layer.base - before[f"{path}.weight"]  # of an average of equal numbers
            assert drift.abs().max() <= 1e-7
            assert layer.values.any()
    assert_equal(weights_of(toys[0]), weights_of(toys[1]))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@ROW
def test_a_base_in_bfloat16(tmp_path, row, precision):
    class Short(Toy):
        def training_step(self, batch, *_):
            return super().training_step((batch[0].bfloat16(), batch[1]))

        def validation_step(self, batch, *_):
            super().validation_step((batch[0].bfloat16(), batch[1]))

    torch.manual_seed(0)
    toy, (tune, *others) = Short(optimizer=adamw).to(torch.bfloat16), ROWS[row]()
    before = weights_of(toy)
    fit(tmp_path, toy, *others, tune=tune, precision=precision)
    for path, layer in compact_layers(toy).items():
        assert layer.base.dtype == torch.bfloat16
        assert layer.values.dtype == (torch.bfloat16 if precision == "bf16-true" else torch.float32)
        assert torch.equal(layer.base, before[f"{path}.weight"])
    sums = {path: layer.base.float() for path, layer in compact_layers(toy).items()}
    for path, layer in compact_layers(toy).items():
        sums[path].view(-1)[layer.indices.long()] += layer.values.detach().float()
    merge_(toy)
    for path, weight in sums.items():
        assert torch.equal(toy.get_parameter(f"{path}.weight"), weight.bfloat16())
    make_toy().to(torch.bfloat16).load_state_dict(toy.state_dict(), strict=True)


# Copies, second fits, checkpoints.


@ROW
def test_second_fit(tmp_path, row):
    toy, (tune, *others) = make_toy(), ROWS[row]()
    fit(tmp_path, toy, *others, tune=tune)
    layers, before, names = compact_layers(toy), weights_of(toy), trained(toy)
    fit(tmp_path, toy, *others, tune=tune)
    assert compact_layers(toy) == layers
    assert trained(toy) == names
    assert not torch.equal(before["net.6.values"], weights_of(toy)["net.6.values"])


@pytest.mark.parametrize("support", [*SUPPORTS, Gradient(), SNIP(2)], ids=str)
def test_a_second_fit_with_another_density_is_refused(tmp_path, support):
    toy = make_toy()
    fit(tmp_path, toy, tune=tuner(support))
    with pytest.raises(SparsityError, match=r"`density` 0.2 .* values in .*converted with \d+ before"):
        fit(tmp_path, toy, tune=tuner(support, density=0.2))


def test_a_second_task_after_merging(tmp_path):
    toy = make_toy()
    fit(tmp_path, toy)
    merge_(toy)
    merged = weights_of(toy)
    fit(tmp_path, toy, tune=tuner("gradient", train=["net.6"]))
    assert trained(toy) == ["net.0.values", "net.6.weight", "net.6.bias"]
    assert torch.equal(compact_layers(toy)["net.0"].base, merged["net.0.weight"])


@ROW
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_in_mid_training_go_on(tmp_path, row, copier):
    tune, *others = ROWS[row]()

    class Copies(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 5:
                module_trainer, pl_module._trainer = pl_module._trainer, None
                self.copied = copier((pl_module, [tune, *others]))
                pl_module._trainer = module_trainer
                self.weights = weights_of(pl_module)

    copies = Copies()
    fit(tmp_path, make_toy(optimizer=sgd), *others, copies, tune=tune)
    module, (tune, *others) = copies.copied
    assert_equal(weights_of(module), copies.weights)
    fit(tmp_path, module, *others, tune=tune)
    assert merge_(module) == ["net.0", "net.6"]


@ROW
def test_resumed_is_undisturbed_and_scores_nothing(tmp_path, row, monkeypatch):
    """Two epochs, then two more in a fresh module of other weights: bit for bit four epochs."""

    def run(seed, epochs, ckpt_path=None):
        pl.seed_everything(seed, verbose=False)
        toy = Toy(dropout=0.5, optimizer=OPTIMIZERS["adamw-amsgrad"])
        checkpoint = ModelCheckpoint(tmp_path, filename=f"of-{epochs}", save_top_k=1)
        tune, *others = ROWS[row]()
        arguments = {"enable_checkpointing": True, "max_epochs": epochs, "ckpt_path": ckpt_path}
        runner = fit(
            tmp_path,
            toy,
            *others,
            ExactResume(),
            checkpoint,
            tune=tune,
            data=loader(shuffle=True),
            **arguments,
        )
        return toy, runner.optimizers[0].state_dict()["state"]

    whole, optimizer = run(0, 4)
    run(0, 2)
    monkeypatch.setattr(Gradient, "scores", None)
    monkeypatch.setattr(Magnitude, "scores", None)
    resumed, optimizer_resumed = run(9, 4, tmp_path / "of-2.ckpt")
    assert_equal(weights_of(whole), weights_of(resumed))
    assert trained(whole) == trained(resumed)
    for index, state in optimizer.items():
        assert_equal(state, optimizer_resumed[index])


class Saved(Toy):
    def __init__(self, width=4):
        super().__init__()
        self.save_hyperparameters()
        self.net[6] = nn.Linear(200, width)


def saved(tmp_path, row="random", toy=None, **changed):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    tune, *others = ROWS[row]()
    toy = Saved(5) if toy is None else toy
    fit(tmp_path, toy, *others, checkpoint, tune=changed.get("tune", tune), enable_checkpointing=True)
    return toy, tmp_path / "last.ckpt"


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        (tuner(train=[]), r"`train` is '\[\]', but the checkpoint was made with \"\['\*.bias'\]\""),
        (tuner("gradient"), r"`support` is .Gradient.*, but the checkpoint was made with 'None'"),
        (tuner(density=0.1001), "`density` is 0.1001"),
        (tuner(density=0.2), r"Layer 'net.0' has \d+ values, but \d+ in the checkpoint"),
    ],
    ids=["train", "support", "density", "number"],
)
def test_changed_arguments_do_not_resume(tmp_path, tune, message):
    _, path = saved(tmp_path)
    with pytest.raises(SparsityError, match=message):
        fit(tmp_path, Saved(5), tune=tune, ckpt_path=path, max_epochs=3)


@ROW
def test_a_checkpoint_on_a_fresh_module(tmp_path, row):
    toy, path = saved(tmp_path, row)
    expected = trainer(tmp_path).test(toy, loader(2), verbose=False)
    fresh = Saved(5)
    assert trainer(tmp_path, *ROWS[row]()).test(fresh, loader(2), ckpt_path=path, verbose=False) == expected
    loaded = load_from_checkpoint(Saved, path)
    assert_equal(weights_of(toy), weights_of(loaded))
    assert trainer(tmp_path).test(loaded, loader(2), verbose=False) == expected
    assert merge_(loaded) == ["net.0", "net.6"]
    merge_(toy)
    assert_equal(weights_of(toy), weights_of(loaded))


def test_frozen_copies_are_converted_alike(tmp_path):
    class Byol(Toy):
        def __init__(self):
            super().__init__()
            self.target = copy.deepcopy(self.net).requires_grad_(False)

        def training_step(self, batch, *_):
            return super().training_step(batch) + self.target(batch[0]).mean()

        def on_train_batch_end(self, *_):
            with torch.no_grad():
                for q, p in zip(self.target.parameters(), self.net.parameters(), strict=True):
                    q.lerp_(p, 0.5)

    for support in SUPPORTS:
        torch.manual_seed(0)
        module = Byol()
        with pytest.warns(UserWarning, match="Frozen copies of layers are converted alike: 2"):
            trainer(tmp_path, tuner(support)).fit(module, loader())
        net, target = compact_layers(module.net), compact_layers(module.target)
        assert trained(module) == ["net.0.values", "net.0.bias", "net.1.bias", "net.6.values", "net.6.bias"]
        for path, layer in net.items():
            assert torch.equal(layer.indices, target[path].indices)
            assert layer.values.any()
            assert target[path].values.any()
            assert not torch.equal(layer.values, target[path].values)


# Moving.


class Smooth(Toy):
    """In float64, and no gradient is zero: no two scores are equal."""

    def __init__(self):
        super().__init__(optimizer=lambda p: torch.optim.SGD(p, 0.1, momentum=0.9))
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.Tanh(), nn.Linear(12, 4))
        self.double()

    def training_step(self, batch, *_):
        return super().training_step((batch[0].double(), batch[1]))

    def validation_step(self, *_):
        """Nothing."""


def simulated(toy, supports, rule, steps, every, fraction, stop_at):
    """Dense weights W0 + S, of which S, on a mask, is trained by SGD with momentum, and moved."""
    weights = {path: toy.get_parameter(f"{path}.weight").detach().clone() for path in supports}
    masks = {path: torch.zeros_like(weight, dtype=torch.bool) for path, weight in weights.items()}
    for path, positions in supports.items():
        masks[path].view(-1)[positions.long()] = True
    s, momentum = ({p: torch.zeros_like(w) for p, w in weights.items()} for _ in range(2))
    batches = list(loader()) * 10
    for step in range(1, steps + 1):
        layers = {f"{path}.weight": (weights[path] + s[path]).requires_grad_() for path in weights}
        x, y = batches[step - 1]
        logits = torch.func.functional_call(toy, {**layers}, (x.double(),))
        gradients = torch.autograd.grad(nn.functional.cross_entropy(logits, y), list(layers.values()))
        for path, g in zip(weights, gradients, strict=True):
            g = g.clone()
            if step % every == 0 and step < stop_at:
                count = int(fraction / 2 * (1 + math.cos(math.pi * step / stop_at)) * int(masks[path].sum()))
                active = s[path].abs().masked_fill(~masks[path], math.inf).flatten()
                kept = masks[path].clone()
                kept.view(-1)[active.argsort()[:count]] = False
                grown = rule(g, kept, count)
                new = grown & ~masks[path]
                masks[path] = kept | grown
                for tensor in (s[path], momentum[path]):
                    tensor[~masks[path] | new] = 0
                continue  # an update takes the place of a step
            momentum[path] = (0.9 * momentum[path] + g) * masks[path]
            s[path] -= 0.1 * momentum[path]
    return {path: weights[path] + s[path] for path in weights}, masks


def largest(gradient, kept, count):
    size = gradient.abs().masked_fill(kept, -1).flatten()
    grown = torch.zeros_like(kept)
    grown.view(-1)[size.argsort(descending=True)[:count]] = True
    return grown


def test_rigl_moves_as_a_dense_simulation_does(tmp_path):
    """Dropped entries fall back to W0, new ones start there."""

    class Called(Smooth):
        def forward(self, x):
            return self.net(x)

    torch.manual_seed(0)
    toy = Called()
    plain, start = copy.deepcopy(toy), SupportsAtStart()
    rigl = RigLCallback(every_n_steps=3, drop_fraction=0.5, stop_at=15)
    fit(tmp_path, toy, rigl, start, tune=tuner("magnitude", train=[]), max_epochs=4)
    weights, masks = simulated(plain, start.supports, largest, 16, 3, 0.5, 15)
    for path, layer in compact_layers(toy).items():
        assert not torch.equal(start.supports[path], layer.indices), "it has moved"
        assert torch.equal(layer.support(), masks[path])
        torch.testing.assert_close(layer.weight, weights[path], rtol=1e-10, atol=1e-12)
        original = plain.get_parameter(f"{path}.weight")
        assert torch.equal(layer.weight[~layer.support()], original[~layer.support()])


class SupportsAtStart(pl.Callback):
    def on_train_start(self, trainer, pl_module):
        self.supports = supports(pl_module)


class Moves(pl.Callback):
    """Looks at each step in which a support moves: what goes was smallest, what comes is zero."""

    count = 0

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.before = {
            path: (layer.support(), (layer.weight - layer.base).detach().abs())
            for path, layer in compact_layers(pl_module).items()
        }

    def on_train_batch_end(self, trainer, pl_module, *_):
        for path, (support, size) in self.before.items():
            layer = compact_layers(pl_module)[path]
            gone, new = support & ~layer.support(), layer.support() & ~support
            if gone.any():
                self.count += 1
                assert gone.sum() == new.sum() <= 0.25 * support.sum()
                smallest = size[support].sort().values[: int(0.25 * support.sum())]
                assert size[gone].max() <= smallest.max() + 1e-15
                assert torch.equal(layer.weight[new], layer.base[new])


def test_set_drops_the_smallest_and_grows_from_zero(tmp_path):
    torch.manual_seed(0)
    toy, moves = Smooth(), Moves()
    original = weights_of(toy)
    moving = SETCallback(every_n_steps=4, drop_fraction=0.5, stop_at=8)  # once, half of it by the cosine
    fit(tmp_path, toy, moving, moves, tune=tuner(train=[]))
    assert moves.count == 2
    for path, layer in compact_layers(toy).items():
        outside = ~layer.support()
        assert torch.equal(layer.weight[outside], original[f"{path}.weight"][outside])


# Logging.


def test_what_is_logged_and_shown(tmp_path, capsys):
    runner = fit(tmp_path, make_toy(), SparsityMonitor(), tune=tuner(exclude=["net.0"]))
    metrics = runner.callback_metrics
    assert metrics["trainable_sparsity_layers/net.6"] == metrics["trainable_sparsity/total"]
    assert metrics["trainable_sparsity/total"] == pytest.approx(0.9)
    printed = capsys.readouterr().out
    assert "net.6.base" not in printed
    assert "base" not in printed


def test_what_stays_dense_is_named_without_the_weights_that_are_changed(tmp_path, capsys):
    fit(tmp_path, make_toy(), tune=tuner(exclude=["net.0"]), enable_model_summary=True)
    assert "Dense and not counted: 216 of 1,016 weights (21.3%): net.0 (216)." in capsys.readouterr().out


# The command line.


def test_command_line_round_trip(tmp_path, monkeypatch, capsys):
    """Pretrain, tune, test, go on; and the module by itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-sparse"])
    common = [
        "--trainer.callbacks=ModelCheckpoint",
        "--trainer.callbacks.save_last=true",
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=1",
        "--model=ImageClassifier",
        "--model.net=LeNet300100",
        "--model.net.in_features=64",
        "--data=SyntheticDataModule",
        "--data.shape=[1, 8, 8]",
        "--data.size=64",
    ]
    main(["fit", *common, "--trainer.default_root_dir=pretrained"])
    weights = str(next((tmp_path / "pretrained").rglob("last.ckpt")))
    tuned = [
        *common[:2],
        "--trainer.callbacks+=SparseFineTuning",
        "--trainer.callbacks.density=0.02",
        "--trainer.callbacks.support=Gradient",
        "--trainer.callbacks.support.num_batches=2",
        "--trainer.callbacks.support.allocation=erk",
        "--trainer.callbacks.train=['net.fcs.4', '*.bias']",
        *common[2:],
        f"--model.weights={weights}",
        "--trainer.default_root_dir=tuned",
    ]
    main(["plan", *tuned])
    printed = capsys.readouterr().out
    for cell in ("SparseFineTuning: density=0.02", "net.fcs.0", "net.fcs.2", "984", "2.0000%"):
        assert cell in printed
    assert "net.fcs.4 " not in printed
    main(["fit", *tuned])
    last = str(next((tmp_path / "tuned").rglob("last.ckpt")))
    main(["test", *tuned, "--ckpt_path", last])
    loaded = load_from_checkpoint(ImageClassifier, last)
    base = torch.load(weights, weights_only=True)["state_dict"]
    assert sum(layer.nnz for layer in compact_layers(loaded).values()) == 984
    for path, layer in compact_layers(loaded).items():
        assert torch.equal(layer.base, base[f"{path}.weight"])
    assert not torch.equal(loaded.net.fcs[4].weight, base["net.fcs.4.weight"])
    main(["fit", *tuned, "--ckpt_path", last, "--trainer.max_epochs=2"])
