"""Converted modules: what every callback must withstand, without masks to look at."""

import copy
import pickle
import sys

import pytest
import pytorch_lightning as pl
import torch
from optimizers import OPTIMIZERS
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint
from pytorch_lightning.callbacks import StochasticWeightAveraging as SWA
from pytorch_lightning.callbacks.weight_averaging import EMAWeightAveraging as EMA
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.strategies import ModelParallelStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from toy import Toy, assert_equal, loader, logged, make_toy, sgd, trainer, weights_of

from lightning_sparse import (
    DCTpSConversion,
    ExactResume,
    Magnitude,
    PruneAtInit,
    SparseConversion,
    SparsityMonitor,
    load_from_checkpoint,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.main import main
from lightning_sparse.layers import DCTOffset, alpha_groups, compact_layers, convert_
from lightning_sparse.models import ImageClassifier, LeNet5
from lightning_sparse.weights.state import state_of

KEYS = {"trainable_sparsity_layers/net.0", "trainable_sparsity_layers/net.6", "trainable_sparsity/total"}
STORED = 2 * 51 + 2 + (8 + 4) + 2 * 8  # values, alphas, biases, batch norm


def converter(density=0.1, **arguments):
    return DCTpSConversion(density, seed=3, **arguments)


class Same(pl.Callback):
    """After every step: the same supports, finite values, and nothing stored but for them."""

    def on_fit_start(self, trainer, pl_module):
        self.steps, self.supports = 0, supports(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.steps += 1
        assert_equal(self.supports, supports(pl_module))
        assert all(p.isfinite().all() for p in pl_module.parameters())
        for optimizer in trainer.optimizers:
            for parameter, state in optimizer.state.items():
                assert all(
                    v.numel() <= max(1, parameter.numel()) for v in state.values() if torch.is_tensor(v)
                )


class Start(pl.Callback):
    """Keeps alphas as they are before the first step."""

    def on_train_start(self, trainer, pl_module):
        self.alphas = {name: layer.alpha.item() for name, layer in compact_layers(pl_module).items()}


def supports(module):
    return {name: layer.indices.clone() for name, layer in compact_layers(module).items()}


def fit(tmp_path, toy, *callbacks, data=None, ckpt_path=None, density=0.1, convert=None, **arguments):
    same = Same()
    runner = trainer(tmp_path, convert or converter(density), *callbacks, same, **arguments)
    runner.fit(toy, data or loader(), loader(2), ckpt_path=ckpt_path)
    assert same.steps > 0
    assert any(layer.values.any() for layer in compact_layers(toy).values())
    return runner


def converted(patch_order):
    toy = make_toy()
    convert_(toy, 0.1, offset=DCTOffset(patch_order))
    return toy


def saved(tmp_path, density=0.1, **arguments):
    """Train, and return the module and the path of its checkpoint."""
    toy = make_toy()
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    fit(tmp_path, toy, checkpoint, density=density, enable_checkpointing=True, **arguments)
    return toy, tmp_path / "last.ckpt"


# Training.


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"extra-state"}))  # that takes no scalars
def test_optimizers(tmp_path, name):
    toy = make_toy(optimizer=OPTIMIZERS[name])
    fit(tmp_path, toy)
    assert sum(p.numel() for p in toy.parameters()) == STORED


def test_lbfgs(tmp_path):
    toy = make_toy(optimizer=lambda p: torch.optim.LBFGS(p, max_iter=3), dropout=0.0)
    trainer(tmp_path, converter()).fit(toy, loader())
    assert compact_layers(toy)["net.6"].values.any()


@pytest.mark.parametrize(
    "arguments",
    [
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"precision": "bf16-true"},
        {"gradient_clip_val": 0.1},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"overfit_batches": 2},
        {"fast_dev_run": 2},
        {"max_steps": 3, "max_epochs": -1},
        {"val_check_interval": 2},
    ],
    ids=str,
)
def test_trainer_arguments(tmp_path, arguments):
    fit(tmp_path, make_toy(), **arguments)


class NoNorm(Toy):
    def __init__(self):
        super().__init__(optimizer=lambda p: torch.optim.SGD(p, 0.05, momentum=0.9))
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 40), nn.Linear(40, 4))


def test_accumulation(tmp_path):
    torch.manual_seed(0)
    one = NoNorm()
    four = copy.deepcopy(one)
    fit(tmp_path, one, data=loader(2, 32))
    fit(tmp_path, four, data=loader(8, 8), accumulate_grad_batches=4)
    for name, value in weights_of(one).items():
        torch.testing.assert_close(value, four.state_dict()[name])


@pytest.mark.parametrize("inner", [False, True])
def test_compiled(tmp_path, inner):
    torch._dynamo.reset()
    toy, plain = make_toy(dropout=0.0), make_toy(dropout=0.0)
    fit(tmp_path, plain)
    if inner:
        toy.net = torch.compile(toy.net, backend="aot_eager")
        fit(tmp_path, toy)
        assert set(compact_layers(toy)) == {"net.0", "net.6"}
    else:
        fit(tmp_path, toy_compiled := torch.compile(toy, backend="aot_eager"))
        assert toy_compiled._orig_mod is toy
    for name, value in weights_of(plain).items():
        torch.testing.assert_close(
            value, weights_of(toy)[name.replace("net.", "net._orig_mod.") if inner else name]
        )


def test_finders(tmp_path):
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

    toy, same = Tunable(), Same()
    finders = [BatchSizeFinder(max_trials=2, steps_per_trial=1), LearningRateFinder(num_training_steps=5)]
    trainer(tmp_path, converter(), *finders, same, enable_checkpointing=True).fit(toy)
    assert same.steps == 16


def test_alpha_groups(tmp_path):
    toy = make_toy()
    toy.configure_optimizers = lambda: torch.optim.AdamW(alpha_groups(toy, weight_decay=0.1), 0.01)
    runner = fit(tmp_path, toy)
    assert [group["weight_decay"] for group in runner.optimizers[0].param_groups] == [0.1, 0.0]
    assert len(runner.optimizers[0].param_groups[1]["params"]) == 2


@pytest.mark.filterwarnings("ignore:.*nothing here has been trained so")  # on purpose
@pytest.mark.parametrize("trained", [True, False])
def test_alpha(tmp_path, trained):
    toy = make_toy()
    norm = toy.net[6].weight.norm().item()
    alpha = {"net.*": 0.5, "net.6": "match_norm"}
    convert = converter(alpha=alpha, alpha_requires_grad=trained)
    trainer(tmp_path, convert).validate(toy, loader(2), verbose=False)
    alphas = {name: layer.alpha.item() for name, layer in compact_layers(toy).items()}
    assert alphas == {"net.0": 0.5, "net.6": pytest.approx(norm / 2)}  # four orthonormal rows
    fit(tmp_path, toy, convert=convert)
    assert (alphas != {name: layer.alpha.item() for name, layer in compact_layers(toy).items()}) is trained


def test_alpha_beside_a_support_by_scores(tmp_path):
    toy = make_toy()
    norm, largest = toy.net[6].weight.norm().item(), toy.net[0].weight.abs().argmax().item()
    alpha, start = {"net.*": 0.5, "net.6": "match_norm"}, Start()
    trainer(tmp_path, converter(alpha=alpha, support=Magnitude("erk")), start).fit(toy, loader())
    assert start.alphas == {"net.0": 0.5, "net.6": pytest.approx(norm / 2)}
    assert largest in compact_layers(toy)["net.0"].indices


def test_alpha_beside_a_support_by_scores_needs_something_to_scale(tmp_path):
    convert = SparseConversion("none", 0.1, support=Magnitude("erk"), alpha=0.5)
    with pytest.raises(SparsityError, match="`alpha` scales the offset, and 'none' has nothing to scale"):
        fit(tmp_path, make_toy(), convert=convert)


@pytest.mark.filterwarnings("ignore:.*nothing here has been trained so")  # on purpose
def test_the_same_seed_gives_the_same_support_whatever_the_weights():
    def of(seed, converting):
        torch.manual_seed(seed)
        toy = Toy()
        trainer("", DCTpSConversion(0.1, seed=converting)).validate(toy, loader(1), verbose=False)
        return supports(toy)

    assert_equal(of(0, 5), of(1, 5))
    assert_equal(of(0, None), of(0, None))
    assert not torch.equal(of(0, None)["net.6"], of(1, None)["net.6"])
    assert not torch.equal(of(0, 5)["net.6"], of(0, 6)["net.6"])


# Copies, second fits, checkpoints.


def test_second_fit(tmp_path):
    toy, convert = make_toy(), converter()
    fit(tmp_path, toy, convert=convert)
    layers, before = compact_layers(toy), weights_of(toy)
    fit(tmp_path, toy, convert=convert)
    assert compact_layers(toy) == layers
    assert not torch.equal(before["net.6.values"], weights_of(toy)["net.6.values"])
    with pytest.raises(ValueError, match=r"ask for 102 values in 'net.0.weight', but .* with 51 before"):
        fit(tmp_path, toy, density=0.2)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_in_mid_training_go_on(tmp_path, copier):
    class Copies(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 5:
                module_trainer, pl_module._trainer = pl_module._trainer, None
                self.pair = copier((pl_module, trainer.callbacks[0]))
                pl_module._trainer = module_trainer
                self.weights = weights_of(pl_module)

    copies = Copies()
    fit(tmp_path, make_toy(optimizer=sgd), copies)
    module, convert = copies.pair
    assert len(pickle.dumps(convert)) < 1000
    assert_equal(weights_of(module), copies.weights)
    fit(tmp_path, module, convert=convert)


@pytest.mark.parametrize("backend", ["materialize", "transform"])
def test_resumed_is_undisturbed(tmp_path, backend):
    """Two epochs, then two more in a fresh module of other weights: bit for bit four epochs."""

    def run(seed, epochs, ckpt_path=None):
        pl.seed_everything(seed, verbose=False)
        toy = Toy(dropout=0.5, optimizer=OPTIMIZERS["adamw-amsgrad"])
        checkpoint = ModelCheckpoint(tmp_path, filename=f"of-{epochs}", save_top_k=1)
        convert = DCTpSConversion(0.1, backend=backend)
        arguments = {"enable_checkpointing": True, "max_epochs": epochs, "ckpt_path": ckpt_path}
        runner = fit(
            tmp_path, toy, ExactResume(), checkpoint, data=loader(shuffle=True), convert=convert, **arguments
        )
        return toy, runner.optimizers[0].state_dict()["state"]

    whole, optimizer = run(0, 4)
    run(0, 2)
    resumed, optimizer_resumed = run(9, 4, tmp_path / "of-2.ckpt")
    assert_equal(weights_of(whole), weights_of(resumed))
    for index, state in optimizer.items():
        assert_equal(state, optimizer_resumed[index])


def test_another_number_of_values_does_not_resume(tmp_path):
    _, path = saved(tmp_path, density=0.2)
    with pytest.raises(ValueError, match=r"Layer 'net.0' has 51 values, but 102 in the checkpoint"):
        fit(tmp_path, make_toy(), density=0.1, ckpt_path=path, max_epochs=3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"alpha": 0.5}, "`alpha` is 0.5, but the checkpoint was made with 1.0"),
        ({"alpha_requires_grad": False}, "`alpha_requires_grad` is False"),
        ({"allocation": "epl", "density": 0.1001}, "`density` is 0.1001"),
        ({"exclude": ["net.1"]}, r"`exclude` is \"\['net.1'\]\", but the checkpoint was made with None"),
    ],
    ids=str,
)
def test_changed_arguments_do_not_resume(tmp_path, changed, message):
    _, path = saved(tmp_path)
    convert = DCTpSConversion(**{"density": 0.1, **changed})
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, make_toy(), convert=convert, ckpt_path=path, max_epochs=3)


def test_another_backend_and_seed_resume(tmp_path):
    toy, path = saved(tmp_path)
    other = make_toy()
    convert = DCTpSConversion(0.1, seed=77, backend="transform")
    fit(tmp_path, other, convert=convert, ckpt_path=path, max_epochs=3)
    assert_equal(supports(toy), supports(other))


def test_a_checkpoint_is_small_and_plain(tmp_path):
    toy, path = saved(tmp_path)
    content = torch.load(path, "cpu", weights_only=True)
    assert set(content["state_dict"]) == set(toy.state_dict())
    assert content["callbacks"]["DCTpSConversion"]["config"]["density"] == 0.1
    weights = {key: value for key, value in content["state_dict"].items() if key.startswith("net.")}
    text = {key: weights.pop(key) for key in list(weights) if key.endswith("._extra_state")}
    assert max(value.numel() for value in weights.values()) == 51
    assert max(len(value) for value in text.values()) < 100


@pytest.mark.parametrize("density", [0.1, 0.3])
def test_test_on_a_fresh_module(tmp_path, density):
    """The number of values is the checkpoint's, whatever the arguments say."""
    toy, path = saved(tmp_path)
    expected = trainer(tmp_path).test(toy, loader(2), verbose=False)
    torch.manual_seed(9)
    fresh = Toy()
    runner = trainer(tmp_path, converter(density))
    assert runner.test(fresh, loader(2), ckpt_path=path, verbose=False) == expected
    assert {layer.nnz for layer in compact_layers(fresh).values()} == {51}


def test_weights_of_another_patch_order_do_not_load(tmp_path):
    """Values of one order mean nothing in the other."""
    _, path = saved(tmp_path)
    chw = DCTpSConversion(0.1, patch_order="chw")
    message = r"net.0: `offset` must be dct\(patch_order='{}'\), .* got a layer with dct\(patch_order='{}'\)"
    with pytest.raises(RuntimeError, match=message.format("hwc", "chw")):
        trainer(tmp_path, chw).test(Toy(), loader(2), ckpt_path=path, verbose=False)
    weights = converted("chw").state_dict()
    with pytest.raises(RuntimeError, match=message.format("chw", "hwc")):
        converted("hwc").load_state_dict(weights)
    converted("chw").load_state_dict(weights)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_checkpoint(tmp_path, damage):
    toy, path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    else:
        needle = toy.net[6].values.detach().numpy().tobytes()
        content[content.index(needle) + 40] ^= 1
    path.write_bytes(content)
    with pytest.raises(SparsityError, match=r"`ckpt_path` '.*last.ckpt' is damaged"):
        fit(tmp_path, make_toy(), ckpt_path=path, max_epochs=3)


# Without callbacks.


class Saved(Toy):
    def __init__(self, width=4, cut=None):
        super().__init__()
        self.save_hyperparameters()
        self.net[6] = nn.Linear(200, width)
        if cut is not None:
            self.net[cut] = nn.Conv2d(3, 9, 3) if cut == 0 else nn.Identity()
        self.loaded = 0

    def on_load_checkpoint(self, checkpoint):
        self.loaded += 1


class Late(Saved):
    def __init__(self, width=4):
        super().__init__(width)
        self.made, self.net = self.net, None

    def configure_model(self):
        if self.net is None:
            self.net, self.made = self.made, None


@pytest.mark.parametrize("kind", [Saved, Late])
@pytest.mark.parametrize("weights_only", [False, True])
def test_load_from_checkpoint(tmp_path, kind, weights_only, recwarn):
    checkpoint = ModelCheckpoint(tmp_path, filename="it", save_weights_only=weights_only)
    module = kind(width=5)
    convert = DCTpSConversion(0.1, "erk", alpha_requires_grad=False, backend="transform")
    fit(tmp_path, module, checkpoint, convert=convert, enable_checkpointing=True)
    loaded = load_from_checkpoint(kind, tmp_path / "it.ckpt", map_location="cpu")
    assert type(loaded) is kind
    assert loaded.loaded > 0
    assert_equal(weights_of(module), weights_of(loaded))
    x = loader(1).dataset.tensors[0]
    assert torch.equal(module.eval().net(x), loaded.eval().net(x)) or weights_only
    torch.testing.assert_close(module.net(x), loaded.net(x))
    assert not [w for w in recwarn if "keys" in str(w.message)]
    if not weights_only:
        assert {layer.backend for layer in compact_layers(loaded).values()} == {"transform"}
        assert not any(layer.alpha.requires_grad for layer in compact_layers(loaded).values())


def test_load_from_checkpoint_knows_the_patch_order(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, filename="it", save_weights_only=True)
    module = Saved()
    fit(
        tmp_path,
        module,
        checkpoint,
        convert=DCTpSConversion(0.1, patch_order="chw"),
        enable_checkpointing=True,
    )
    loaded = load_from_checkpoint(Saved, tmp_path / "it.ckpt", map_location="cpu")
    x = loader(1).dataset.tensors[0]
    torch.testing.assert_close(module.eval().net(x), loaded.eval().net(x))
    kernel = compact_layers(loaded)["net.0"]
    assert kernel.offset == DCTOffset("chw")


def test_load_from_checkpoint_reads_what_lightning_reads(tmp_path):
    toy, path = saved(tmp_path)
    with path.open("rb") as file:
        for source in (str(path), path.as_uri(), file):
            assert_equal(weights_of(toy), weights_of(load_from_checkpoint(Toy, source)))


def test_load_from_checkpoint_of_masked_and_of_foreign_nets(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, filename="it")
    module = Saved()
    trainer(tmp_path, PruneAtInit("erk", 0.1), checkpoint, enable_checkpointing=True).fit(module, loader())
    assert_equal(weights_of(module), weights_of(load_from_checkpoint(Saved, tmp_path / "it.ckpt")))
    _, path = saved(tmp_path)
    for cut, message in ((0, "size mismatch for net.0"), (6, r"Unexpected key\(s\).*net.6.values")):
        with pytest.raises(RuntimeError, match=f"(?s){message}"):
            load_from_checkpoint(Saved, path, cut=cut)


# When layers are made.


def test_layers_of_configure_model(tmp_path):
    module, plain = Late(), Saved()
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    fit(tmp_path, module, checkpoint, enable_checkpointing=True)
    assert "configure_model" not in vars(module)
    assert set(compact_layers(module)) == {"net.0", "net.6"}
    fit(tmp_path, module)
    fit(tmp_path, Late(), ckpt_path=tmp_path / "last.ckpt", max_epochs=3)
    fit(tmp_path, plain)
    assert_equal(supports(module), supports(plain))


def test_layers_that_come_too_late(tmp_path):
    class InSetup(Toy):
        def __init__(self, everything):
            super().__init__()
            self.everything = everything
            if everything:
                self.net = None

        def setup(self, stage):
            if self.everything:
                self.net = Toy().net
            else:
                self.net[6] = nn.Linear(200, 4)

    with pytest.raises(ValueError, match="must find the layers when it is set up, got InSetup without any"):
        fit(tmp_path, InSetup(True))
    with pytest.raises(ValueError, match=r"must find all layers when it is set up, got 'net.6' made later"):
        fit(tmp_path, InSetup(False))


def test_modules_on_the_meta_device(tmp_path):
    with torch.device("meta"):
        toy = NoNorm()
        del toy.causal_mask
    fit(tmp_path, toy)
    assert not any(p.is_meta for p in toy.parameters())
    plain = NoNorm()
    fit(tmp_path, plain)
    assert {n: len(s) for n, s in supports(plain).items()} == {n: len(s) for n, s in supports(toy).items()}


# Company.


@pytest.mark.parametrize("first", [True, False])
def test_scores_of_zeros_are_refused(tmp_path, first):
    pair = [converter(), PruneAtInit("magnitude", 0.1)]
    with pytest.raises(ValueError, match=r"cannot run together: S is zero .* scores are undefined"):
        trainer(tmp_path, *pair[:: 1 if first else -1]).fit(make_toy(), loader())


AVERAGES = {
    "ema": lambda: EMA(use_buffers=False, decay=0.9),
    "swa": lambda: SWA(swa_lrs=0.05, swa_epoch_start=1),
}


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
def test_averages_before_and_after_conversion(tmp_path, average):
    toys = []
    for order in (1, -1):
        pl.seed_everything(0)
        toys.append(make_toy())
        same = Same()
        pair = [average(), converter()]
        trainer(tmp_path, *pair[::order], same, max_epochs=3).fit(toys[-1], loader())
        assert_equal(same.supports, supports(toys[-1]))
    assert_equal(weights_of(toys[0]), weights_of(toys[1]))
    trainer(tmp_path, average(), converter()).fit(toys[0], loader())  # it is converted by now


def test_averages_of_layers_that_are_made_late(tmp_path):
    fit(tmp_path, Late(), AVERAGES["ema"]())  # makes the layers by itself, before it copies
    with pytest.raises(ValueError, match=r"`module` must have its layers when an average is made of it"):
        fit(tmp_path, Late(), AVERAGES["swa"]())


def test_positions_are_not_averaged(tmp_path):
    """In floating point 0.9 i + 0.1 i may be less than i, and is then rounded down."""
    with pytest.raises(ValueError, match="`use_buffers` of EMAWeightAveraging must be False"):
        fit(tmp_path, make_toy(), EMA(decay=0.9))


def test_layers_converted_by_hand_beside_ours(tmp_path):
    toy = make_toy()
    convert_(toy, 0.5, include=["net.0"])
    fit(tmp_path, toy, convert=converter(include=["net.6"]))
    assert {name: layer.nnz for name, layer in compact_layers(toy).items()} == {"net.0": 108, "net.6": 80}


def test_strategies_that_split_weights(tmp_path):
    with pytest.raises(ValueError, match="DCTpSConversion cannot run under ModelParallelStrategy"):
        trainer(tmp_path, converter(), strategy=ModelParallelStrategy()).fit(make_toy(), loader())


def test_spawned_processes_warn(tmp_path):
    runner = trainer(tmp_path, converter(), strategy="ddp_spawn", accelerator="cpu", devices=2)
    with pytest.warns(UserWarning, match="converted layers stay in the processes it starts"):
        runner.callbacks[0].setup(_Spawning(runner), make_toy(), "fit")


class _Spawning:
    """A Trainer before it has started its processes."""

    def __init__(self, runner):
        self.callbacks, self.strategy, self.world_size = runner.callbacks, runner.strategy, 1
        self.ckpt_path = None
        self.strategy.broadcast = lambda value, src=0: value


@pytest.mark.filterwarnings("ignore:.*nothing here has been trained so")  # on purpose
def test_supports_are_not_sent_around():
    toy = make_toy()
    toy._ddp_params_and_buffers_to_ignore = ["causal_mask"]
    trainer("", converter()).validate(toy, loader(1), verbose=False)
    trainer("", converter()).validate(toy, loader(1), verbose=False)
    assert toy._ddp_params_and_buffers_to_ignore == ["causal_mask", "net.0.indices", "net.6.indices"]


def test_it_owns_no_masks(tmp_path):
    toy = make_toy()
    fit(tmp_path, toy)
    assert not state_of(toy).masks


# Logging.


@pytest.mark.parametrize("callbacks", [[], [SparsityMonitor()]], ids=["alone", "monitored"])
def test_trainable_sparsity_is_logged_once(tmp_path, callbacks, capsys):
    logger = CSVLogger(tmp_path)
    arguments = {"logger": logger, "log_every_n_steps": 1, "enable_model_summary": not callbacks}
    fit(tmp_path, make_toy(), *callbacks, **arguments)
    assert [int(row["step"]) for row in logged(logger, "trainable_sparsity/total")] == [3, 7]
    for row in logged(logger, "trainable_sparsity/total"):
        assert float(row["trainable_sparsity/total"]) == pytest.approx(1 - 102 / 1016)
        assert not [key for key in row if key.startswith("sparsity/")]
    (row,) = logged(logger, "trainable_sparsity_layers/net.0")  # fixed: once
    assert float(row["trainable_sparsity_layers/net.0"]) == pytest.approx(1 - 51 / 216)
    printed = capsys.readouterr().out
    assert printed.count("Trained values of Dense-plus-Sparse layers (their weights are dense)") == 1
    assert "10.0394% of the entries trained, as in the table above." in printed
    assert "Weights kept" not in printed


def test_what_stays_dense_is_named(tmp_path, capsys):
    fit(tmp_path, make_toy(), convert=converter(exclude=["net.0"]), enable_model_summary=True)
    assert "Dense and not counted: 216 of 1,016 weights (21.3%): net.0 (216)." in capsys.readouterr().out


def test_the_monitor_counts_both_kinds(tmp_path):
    runner = fit(tmp_path, make_toy(), SparsityMonitor(), convert=converter(exclude=["net.0"]))
    metrics = runner.callback_metrics
    assert metrics["sparsity_layers/net.0"] == metrics["sparsity/total"] == 0
    assert metrics["trainable_sparsity/total"] == pytest.approx(0.9)


def test_tensorboard_has_scalars_and_histograms(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, make_toy(), SparsityMonitor(log_histograms=True), logger=logger)
    events = EventAccumulator(logger.log_dir).Reload()
    assert set(events.Tags()["scalars"]) >= KEYS
    assert set(events.Tags()["histograms"]) == {"values/net.0", "values/net.6"}


# Arguments and the command line.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0}, r"`density` must be in \(0, 1\], got 0"),
        ({"density": 0.1, "allocation": "global"}, "`allocation` must be .*got 'global'"),
        ({"density": 0.1, "backend": "fft"}, "`backend` must be .*got 'fft'"),
        (
            {"density": 0.1, "alpha": "he"},
            "`alpha` must be a finite number, .* or 'lsuv', got 'he'",
        ),
        ({"density": 0.1, "alpha": {"net.*": float("nan")}}, r"`alpha\['net.\*'\]` must be a finite number"),
        ({"density": 0.1, "min_weights_per_layer": -1}, "`min_weights_per_layer` must be an integer"),
        ({"density": 0.1, "include": "net.*"}, "`include` must be a list of patterns"),
        ({"density": 0.1, "density_overrides": {"net.0": 2}}, r"`density_overrides\['net.0'\]` must be in"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DCTpSConversion(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exclude": ["nope"]}, "`exclude` pattern 'nope' matches no parameter"),
        ({"alpha": {"nope": 0.5}}, "`alpha` pattern 'nope' must match a converted weight"),
        ({"density_overrides": {"net.0": 1.0}}, "`density_overrides` must leave"),
    ],
    ids=str,
)
def test_what_the_module_cannot_meet(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, make_toy(), convert=converter(**arguments))


CLI = [
    "--trainer.callbacks=ModelCheckpoint",
    "--trainer.callbacks.save_last=true",
    "--trainer.callbacks+=DCTpSConversion",
    "--trainer.callbacks.density=0.01626",
    "--trainer.callbacks.alpha={convs.*: 0.5, '*': match_norm}".replace("convs", "net.convs"),
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
    "--model=ImageClassifier",
    "--model.net=LeNet5",
    "--data=SyntheticDataModule",
    "--data.shape=[3, 32, 32]",
    "--data.size=64",
]


def test_command_line_round_trip(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-sparse"])
    main(["plan", *CLI])
    printed = capsys.readouterr().out
    for cell in ("DCTpSConversion: density=0.01626", "net.convs.0", "1,000", "1.6258%"):
        assert cell in printed
    main(["fit", *CLI])
    last = str(next(tmp_path.rglob("last.ckpt")))
    main(["test", *CLI, "--ckpt_path", last])
    loaded = load_from_checkpoint(ImageClassifier, last)
    assert isinstance(loaded.net, LeNet5)
    assert sum(layer.nnz for layer in compact_layers(loaded).values()) == 1000
    main(["fit", *CLI, "--ckpt_path", last, "--trainer.max_epochs=2"])


def test_a_module_converted_by_hand_goes_on(tmp_path):
    toy = make_toy()
    convert_(toy, 0.1)
    fit(tmp_path, toy)
