"""Training in a random hyperplane by a Trainer: what it composes with, resuming, and what it refuses."""

import copy
import pickle

import pytest
import pytorch_lightning as pl
import torch
from optimizers import OPTIMIZERS
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from pytorch_lightning.callbacks.weight_averaging import EMAWeightAveraging
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from toy import Rotate, Toy, adamw, assert_equal, loader, logged, make_toy, sgd, trainer, weights_of

from lightning_sparse import (
    ASNISigmoidPruner,
    DCTpSConversion,
    ExactResume,
    HyperplaneProjection,
    PruneAtInit,
    RigLCallback,
    SparseFineTuning,
    SparsityMonitor,
    SparsityReport,
    plan,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.reporting.stored import read_net
from lightning_sparse.weights.hyperplane import hyperplane_of

pytestmark = pytest.mark.filterwarnings("ignore:.* and `max_epochs` is [12]:UserWarning")


def make(**arguments):
    return HyperplaneProjection(**{"dimension": 20, "seed": 1, **arguments})


class InPlane(pl.Callback):
    """After every step: the weights are d + U theta to the bit, and hold no gradients."""

    steps = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps += 1
        hyperplane = hyperplane_of(pl_module)
        weights = [w.detach().flatten() for w in hyperplane.weights.values()]
        point = hyperplane.start + hyperplane.basis.times(hyperplane.theta)
        assert torch.equal(torch.cat(weights), point.to(weights[0].dtype))
        if not trainer.fit_loop._should_accumulate():
            assert not hyperplane.has_gradients
        assert any(p is hyperplane.theta for p in trainer.optimizers[0].param_groups[0]["params"])


def fit(tmp_path, toy, *extra, data=None, callback=None, **arguments):
    holds = InPlane()
    arguments = {"max_epochs": 1, **arguments}
    runner = trainer(tmp_path, callback or make(), holds, *extra, **arguments)
    runner.fit(toy, data or loader(), loader(2))
    assert holds.steps > 0
    assert float(hyperplane_of(toy).theta.detach().norm()) > 0
    return toy


class NoNorm(Toy):
    """No batch statistics and no dropout: a batch in four parts is the whole batch."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(optimizer=lambda p: torch.optim.SGD(p, 0.5, momentum=0.9))
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 40), nn.Linear(40, 4))


class Overflows(Toy):
    """The loss of the third batch is infinite under the scale."""

    def training_step(self, batch, index):
        loss = super().training_step(batch)
        return loss * 1e38 if index == 2 else loss


class Clipped(Toy):
    """Notes the gradient that clipping sees, and leaves."""

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        theta = hyperplane_of(self).theta
        before = theta.grad.clone()
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        if gradient_clip_algorithm == "value":
            assert torch.equal(theta.grad, before.clamp(-gradient_clip_val, gradient_clip_val))
        else:
            assert float(theta.grad.norm()) == pytest.approx(gradient_clip_val, rel=1e-3)
            assert before.norm() > gradient_clip_val


@pytest.mark.parametrize("name", ["sgd-fused", "adam-fused", "adamw-foreach"])
def test_optimizers(tmp_path, name):
    """Those that float64 without a Trainer leaves out; the others are in tests/weights/test_hyperplane.py."""
    fit(tmp_path, make_toy(optimizer=OPTIMIZERS[name]))


def test_accumulation(tmp_path):
    one = fit(tmp_path, NoNorm(), data=loader(2, 32))
    four = fit(tmp_path, NoNorm(), data=loader(8, 8), accumulate_grad_batches=4)
    torch.testing.assert_close(hyperplane_of(four).theta, hyperplane_of(one).theta, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true", "bf16-true"])
def test_precision(tmp_path, precision):
    toy = fit(tmp_path, make_toy(optimizer=adamw), precision=precision)
    dtype = torch.float64 if precision == "64-true" else torch.float32
    assert {hyperplane_of(toy).theta.dtype, hyperplane_of(toy).start.dtype} == {dtype}


def test_scaler_overflow(tmp_path):
    torch.manual_seed(0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    toy = fit(tmp_path, Overflows(), plugins=[plugin])
    assert scaler.get_scale() < 2.0**8  # there was an overflow
    assert hyperplane_of(toy).theta.isfinite().all()


@pytest.mark.parametrize(("value", "algorithm"), [(0.01, "norm"), (0.001, "value")])
def test_clipping_is_of_theta(tmp_path, value, algorithm):
    torch.manual_seed(0)
    fit(tmp_path, Clipped(), gradient_clip_val=value, gradient_clip_algorithm=algorithm)


def test_layouts_and_compiled_modules(tmp_path):
    torch._dynamo.reset()
    plain = fit(tmp_path, make_toy(dropout=0.0))
    toy = make_toy(dropout=0.0)
    toy.net = torch.compile(toy.net, backend="eager")
    fit(tmp_path, toy)
    torch.testing.assert_close(hyperplane_of(toy).theta, hyperplane_of(plain).theta)
    fit(tmp_path, make_toy().to(memory_format=torch.channels_last))


def test_kept_or_drawn_anew_trains_the_same_to_the_bit(tmp_path):
    kept, drawn = (fit(tmp_path, make_toy(), callback=make(keep_mib=mib)) for mib in (1, 0))
    assert_equal(weights_of(kept), weights_of(drawn))


def test_averages_lie_in_the_plane_too(tmp_path):
    toy = make_toy(optimizer=lambda p: torch.optim.SGD(p, 0.5))
    trainer(tmp_path, make(), EMAWeightAveraging(decay=0.5), max_epochs=3).fit(toy, loader())
    hyperplane = hyperplane_of(toy)
    moved = torch.cat([w.detach().flatten() for w in hyperplane.weights.values()]) - hyperplane.start
    u = torch.stack([hyperplane.basis.times(unit) for unit in torch.eye(20)], dim=1)
    found = torch.linalg.lstsq(u, moved[:, None]).solution[:, 0]
    assert (moved - u @ found).norm() < 1e-4 * moved.norm()
    assert not torch.allclose(found, hyperplane.theta.detach())  # the average, not the last


def test_a_finder_leaves_no_trace(tmp_path):
    class Finds(LearningRateFinder):
        def on_fit_start(self, *_):
            """Wait."""

        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                self.lr_find(trainer, pl_module)

    plain = fit(tmp_path, make_toy(dropout=0.0), max_epochs=3)
    finds = Finds(num_training_steps=5, update_attr=False)
    toy = make_toy(dropout=0.0)
    toy.lr = 0.1
    assert_equal(weights_of(fit(tmp_path, toy, finds, max_epochs=3)), weights_of(plain))


# Checkpoints.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run of three epochs, with a checkpoint after every epoch."""
    folder = tmp_path_factory.mktemp("whole")
    saves = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_epochs=1)
    callbacks = [HyperplaneProjection(20), ExactResume(), saves]
    pl.seed_everything(5)
    toy = Toy(optimizer=adamw)
    runner = trainer(folder, *callbacks, enable_checkpointing=True, max_epochs=3)
    runner.fit(toy, loader(), loader(2))
    return folder, weights_of(toy), hyperplane_of(toy), runner.optimizers[0].state_dict()


@pytest.mark.parametrize("step", [4, 8])
def test_resumed_is_undisturbed_whatever_the_seed_is_by_then(tmp_path, whole, step):
    folder, weights, hyperplane, states = whole
    torch.manual_seed(99)
    toy = Toy(optimizer=adamw)
    runner = trainer(tmp_path, HyperplaneProjection(20), ExactResume(), InPlane(), max_epochs=3)
    runner.fit(toy, loader(), loader(2), ckpt_path=folder / f"step={step}.ckpt")
    assert_equal(weights_of(toy), weights)
    assert torch.equal(hyperplane_of(toy).theta, hyperplane.theta)
    assert torch.equal(hyperplane_of(toy).start, hyperplane.start)
    assert str(runner.optimizers[0].state_dict()) == str(states)


def test_a_checkpoint_is_that_of_the_dense_net(tmp_path, whole):
    folder, weights, _, _ = whole
    saved = torch.load(folder / "step=12.ckpt", weights_only=True)
    toy = make_toy()
    toy.load_state_dict(saved["state_dict"], strict=True)
    assert_equal(weights_of(toy), weights)
    assert list(saved["state_dict"]) == list(make_toy().state_dict())
    assert saved["callbacks"]["HyperplaneProjection"]["theta"].shape == (20,)
    with_and_without = [trainer(tmp_path), trainer(tmp_path, HyperplaneProjection(7))]
    first, second = (t.test(Toy(), loader(2), folder / "step=12.ckpt", False) for t in with_and_without)
    assert first == second


def test_a_summary_of_a_checkpoint_says_what_was_trained(whole):
    said = str(read_net(whole[0] / "step=12.ckpt"))
    assert "20 numbers are trained in place of 1,044 weights (1.9157%)." in said
    assert "Trained by HyperplaneProjection(dimension=20)." in said


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (lambda: HyperplaneProjection(21), "`dimension` is 21, but the checkpoint was made with 20"),
        (lambda: HyperplaneProjection(20, exclude=["*.bias"]), "`exclude` is .* made with None"),
        (lambda: HyperplaneProjection(20, seed=3), "`seed` is 3, but the checkpoint was made with 5"),
    ],
)
def test_resuming_with_other_arguments(tmp_path, whole, callback, message):
    runner = trainer(tmp_path, callback(), max_epochs=4)
    with pytest.raises(SparsityError, match=message):
        runner.fit(Toy(optimizer=adamw), loader(), ckpt_path=whole[0] / "step=8.ckpt")


def test_resuming_what_was_trained_without_it(tmp_path):
    saves = ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, saves, enable_checkpointing=True).fit(make_toy(), loader())
    with pytest.raises(SparsityError, match="must be there from the first step on"):
        trainer(tmp_path, make(), max_epochs=3).fit(make_toy(), loader(), ckpt_path=tmp_path / "last.ckpt")


def test_saved_after_fit_and_resumed(tmp_path):
    toy = make_toy(dropout=0.0)
    runner = trainer(tmp_path, make(), max_epochs=1)
    runner.fit(toy, loader())
    runner.save_checkpoint(tmp_path / "after.ckpt")
    later, straight = make_toy(dropout=0.0), fit(tmp_path, make_toy(dropout=0.0), max_epochs=2)
    trainer(tmp_path, make(), max_epochs=2).fit(later, loader(), ckpt_path=tmp_path / "after.ckpt")
    assert_equal(weights_of(later), weights_of(straight))


def test_a_second_fit_goes_on_in_the_same_plane(tmp_path):
    toy = make_toy()
    optimizer = sgd(toy.parameters())
    toy.make_optimizer = lambda _: optimizer  # that of the first fit
    callback = make()
    fit(tmp_path, toy, callback=callback)
    first, theta = hyperplane_of(toy).start, hyperplane_of(toy).theta
    fit(tmp_path, toy, callback=callback)
    second = hyperplane_of(toy)
    assert second.theta is not theta
    torch.testing.assert_close(second.start, first + second.basis.times(theta))


def test_without_the_callback_its_optimizer_is_refused(tmp_path):
    """It trains theta, of which no weight would hear."""
    toy = make_toy()
    optimizer = sgd(toy.parameters())
    toy.make_optimizer = lambda _: optimizer
    fit(tmp_path, toy)
    with pytest.raises(SparsityError, match=r"holds theta of an earlier fit .* Make a new optimizer"):
        trainer(tmp_path).fit(toy, loader())
    hyperplane_of(toy).release_()
    before = weights_of(toy)
    trainer(tmp_path, max_epochs=1).fit(toy, loader())
    assert not any(torch.equal(before[name], weight) for name, weight in toy.named_parameters())


def test_copies_hold_nothing_of_the_net(tmp_path):
    callback, toy = make(), make_toy()
    fit(tmp_path, toy, callback=callback)
    for twin in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert len(pickle.dumps(twin)) < 2_000
        assert twin.arguments() == callback.arguments()
        fit(tmp_path, copy.deepcopy(toy), callback=twin)


# What is said.


def test_it_says_what_is_trained_and_logs_no_zeros(tmp_path, capsys):
    for extra in ([], [SparsityMonitor()]):
        logger = CSVLogger(tmp_path)
        arguments = {"logger": logger, "enable_model_summary": True, "log_every_n_steps": 1}
        fit(tmp_path, make_toy(), *extra, **arguments)
        (row,) = logged(logger, "trainable_sparsity/total")[-1:]
        assert float(row["trainable_sparsity/total"]) == pytest.approx(1 - 20 / 1044)
        assert not [name for name in row if name.startswith("sparsity")]
        said = capsys.readouterr().out
        assert "20 numbers are trained in place of 1,044 weights (1.9157%). U: 83,520 bytes, kept." in said
        assert "Weights kept" not in said
        assert said.count("No checkpoint was saved") == 1
    assert make().describe() == "HyperplaneProjection: dimension=20, seed=1"


def test_a_plan_says_what_would_be_trained():
    said = str(plan(make_toy(), make(exclude=["*.bias"])))
    assert "HyperplaneProjection: dimension=20, exclude=['*.bias'], seed=1\n20 numbers are trained" in said
    assert "in place of 1,024 weights" in said
    with pytest.raises(SparsityError, match="`dimension` must be at most the number of weights, 1,044"):
        plan(make_toy(), make(dimension=2_000))


def test_a_report_names_it(tmp_path):
    fit(tmp_path, make_toy(), SparsityReport(str(tmp_path / "page.html"), latency=False))
    assert "HyperplaneProjection: dimension=20, seed=1" in (tmp_path / "page.html").read_text()


# What is refused.


@pytest.mark.parametrize(
    "other",
    [
        lambda: PruneAtInit("erk", 0.1),
        lambda: RigLCallback(0.1),
        lambda: DCTpSConversion(0.1),
        lambda: SparseFineTuning(0.1),
        lambda: ASNISigmoidPruner(density=0.1),
        Rotate,
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_nothing_makes_the_net_sparse_beside_it(tmp_path, other, first):
    toy, pair = make_toy(), [make(), other()]
    message = f"HyperplaneProjection and {type(pair[1]).__name__} cannot run together: all weights move"
    with pytest.raises(SparsityError, match=message):
        trainer(tmp_path, *pair[:: 1 if first else -1]).fit(toy, loader())
    assert_equal(weights_of(toy), weights_of(make_toy()))
    with pytest.raises(SparsityError, match=message):
        plan(toy, pair)


class Manual(Toy):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


@pytest.mark.parametrize(
    ("toy", "callback", "extra", "message"),
    [
        (Manual, make, [], "`automatic_optimization` must be True .* Use `lightning_sparse.project_`"),
        (make_toy, make, [StochasticWeightAveraging(0.05)], "cannot run with StochasticWeightAveraging"),
        (make_toy, make, [BackboneFinetuning()], "cannot run with BackboneFinetuning"),
        (make_toy, lambda: make(dimension=2_000), [], "`dimension` must be at most the number of weights"),
        (make_toy, lambda: make(include=["nothing"]), [], "`include` pattern 'nothing' matches no parameter"),
        (
            lambda: make_toy(optimizer=lambda p: torch.optim.SGD(list(p)[:2], 0.1)),
            make,
            [],
            r"must hold all weights .*, got 4 of 6",
        ),
    ],
)
def test_fits_that_cannot_be(tmp_path, toy, callback, extra, message):
    with pytest.raises(SparsityError, match=message):
        trainer(tmp_path, callback(), *extra).fit(toy(), loader())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dimension": 0}, "`dimension` must be an integer of at least 1, got 0"),
        ({"dimension": 0.1}, "`dimension` must be an integer of at least 1, got 0.1"),
        ({"include": "net"}, r"`include` must be a list of patterns, got 'net'\. Write \['net'\]"),
        ({"keep_mib": -1}, "`keep_mib` must be an integer of at least 0, got -1"),
        ({"seed": True}, "`seed` must be an integer of at least 0, got True"),
    ],
)
def test_arguments_are_checked_at_once(arguments, message):
    with pytest.raises(SparsityError, match=message):
        make(**arguments)


@pytest.mark.parametrize("strategy", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_strategies_that_split_weights_are_refused(tmp_path, strategy):
    runner = trainer(tmp_path, make())
    runner.strategy.__class__ = type(strategy, (type(runner.strategy),), {})
    with pytest.raises(SparsityError, match=f"HyperplaneProjection cannot run under {strategy}"):
        runner.fit(make_toy(), loader())


def test_an_exception_leaves_no_hook_behind(tmp_path):
    class Fails(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 3:
                raise ArithmeticError

    toy = make_toy()
    runner = trainer(tmp_path, make(), Fails())
    with pytest.raises(ArithmeticError):
        runner.fit(toy, loader())
    assert not runner.optimizers[0]._optimizer_step_post_hooks
    assert not hyperplane_of(toy).attached
    fit(tmp_path, toy)
