"""What every callback that owns masks must withstand. A new callback joins by a row in ``ROWS``."""

import copy
import gc
import math
import pickle
import warnings
import weakref
from collections.abc import Callable

import pytest
import pytorch_lightning as pl
import torch
from devices import NO_GPU
from optimizers import OPTIMIZERS, Mixing
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from pytorch_lightning.callbacks.weight_averaging import EMAWeightAveraging, WeightAveraging
from pytorch_lightning.plugins.precision import MixedPrecision
from rounds import ENDS_EARLY
from torch import nn
from torch.utils._pytree import tree_leaves
from toy import (
    HoldsMasks,
    Rotate,
    Toy,
    assert_equal,
    loader,
    make_toy,
    masks_of,
    sgd,
    trainer,
    weight_of,
    weights_of,
)

from lightning_sparse import (
    FORCE,
    ASNISigmoidPruner,
    ExactResume,
    GradualMagnitudePruning,
    IterativeMagnitudePruning,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    SparseCheckpoint,
    SparsityMonitor,
    SparsityReport,
    SynFlow,
    load_from_checkpoint,
    to_dense_,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.weights.state import SparseState, state_of

pytestmark = pytest.mark.filterwarnings("ignore:.* and `max_epochs` is [12]:UserWarning")

ROWS: dict[str, Callable[[], list]] = {
    "PruneAtInit-erk": lambda: [PruneAtInit("erk", 0.1, verify=True)],
    "PruneAtInit-magnitude": lambda: [PruneAtInit("magnitude", 0.1, verify=True)],
    "PruneAtInit-synflow": lambda: [PruneAtInit(SynFlow(5), 0.1, verify=True)],
    "PruneAtInit-force": lambda: [PruneAtInit(FORCE(3, 2), 0.1, verify=True)],
    "moving masks": lambda: [Rotate(verify=True)],
    "RigL": lambda: [RigLCallback(0.1, every_n_steps=2, stop_at=100, verify=True)],
    "RigL from PruneAtInit": lambda: [
        RigLCallback(every_n_steps=3, stop_at=100, grad_average=2, verify=True),
        PruneAtInit("magnitude", 0.1),
    ],
    "SET": lambda: [SETCallback(0.1, every_n_steps=2, stop_at=100, seed=3, verify=True)],
    "moving masks from PruneAtInit": lambda: [Rotate(verify=True), PruneAtInit("erk", 0.1)],
    "ASNI": lambda: [ASNISigmoidPruner(density=0.1, search_epochs=2, reinit=None, verify=True)],
    "ASNI, retraining": lambda: [ASNISigmoidPruner(density=0.1, search_epochs=2, verify=True)],
    "ASNI from PruneAtInit": lambda: [
        ASNISigmoidPruner(density=0.1, search_epochs=2, reinit=None, verify=True),
        PruneAtInit("erk", 0.3),
    ],
    "IMP": lambda: [
        IterativeMagnitudePruning(0.1, rounds=1, epochs_per_round=1, rewind_to_step=2, verify=True)
    ],
    "gradual": lambda: [
        GradualMagnitudePruning(0.1, stop=3, every_n_steps=2, allocation="global", verify=True)
    ],
    "gradual from PruneAtInit": lambda: [
        GradualMagnitudePruning(0.1, start=1, stop=3, every_n_steps=1, allocation="erk", verify=True),
        PruneAtInit("erk", 0.3),
    ],
    "PruneAtInit-erk, compact": lambda: [PruneAtInit("erk", 0.1, storage="compact", verify=True)],
    "PruneAtInit-force, compact": lambda: [PruneAtInit(FORCE(3, 2), 0.1, storage="compact", verify=True)],
    "RigL, compact": lambda: [
        RigLCallback(0.1, every_n_steps=2, stop_at=100, storage="compact", verify=True)
    ],
    "RigL from PruneAtInit, compact": lambda: [
        RigLCallback(every_n_steps=3, stop_at=100, grad_average=2, verify=True),
        PruneAtInit("magnitude", 0.1, storage="compact"),
    ],
    "SET, compact": lambda: [
        SETCallback(0.1, every_n_steps=2, stop_at=100, seed=3, storage="compact", verify=True)
    ],
}
EPOCHS = {"ASNI, retraining": 3}  # the others need two at most
FIXED = [name for name in ROWS if name.startswith("PruneAtInit")]
SCORED = [name for name in FIXED if "synflow" in name or "force" in name]
COMPACT = [name for name in ROWS if name.endswith("compact")]
COMPILED = [  # one of each kind: 4 s each
    "PruneAtInit-erk",
    "PruneAtInit-force",
    "RigL",
    "ASNI, retraining",
    "gradual",
    "RigL from PruneAtInit, compact",
]


class Run:
    """One fit of a row, with everything checked after every step."""

    def __init__(self, tmp_path, row):
        self.tmp_path, self.row = tmp_path, row

    def fit(self, toy, *extra, data=None, **arguments):
        self.toy, holds = toy, HoldsMasks()
        self.callbacks = ROWS[self.row]()
        arguments = {"max_epochs": EPOCHS.get(self.row, 2), **arguments}
        self.trainer = trainer(self.tmp_path, *self.callbacks, holds, *extra, **arguments)
        self.trainer.fit(toy, data or loader(), loader(2))
        assert holds.steps > 0
        return toy


# Each is tried with masks enforced, and must fail without.


def optimizer_scenario(name):
    return lambda run: run.fit(make_toy(optimizer=OPTIMIZERS[name]))


def accumulation(run):
    if "force" in run.row:
        pytest.skip("is scored on batches of another size")
    torch.manual_seed(0)
    one = copy.deepcopy(NoNorm())
    four = copy.deepcopy(one)
    run.fit(one, data=loader(2, 32))
    masks = masks_of(one)
    run.fit(four, data=loader(8, 8), accumulate_grad_batches=4)
    if run.row in FIXED:  # the others move at calls of the hook, the same number in both runs
        assert_equal(masks, masks_of(four))
    torch.testing.assert_close(one.net[2].weight, four.net[2].weight)


def bf16(run):
    run.fit(make_toy(), precision="bf16-mixed")


class Overflows(Toy):
    """The loss of the third batch is infinite under the scale."""

    def training_step(self, batch, index):
        loss = super().training_step(batch)
        return loss * 1e38 if index == 2 else loss


def scaler_overflow(run):
    torch.manual_seed(0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    run.fit(Overflows(), plugins=[plugin], max_epochs=1)
    assert scaler.get_scale() < 2.0**8  # there was an overflow


class Clipped(Toy):
    """Notes the norm that clipping sees."""

    def configure_gradient_clipping(
        self, optimizer, *_, gradient_clip_val=None, gradient_clip_algorithm=None
    ):
        masks = masks_of(self)
        if all(p.grad is None for p in self.parameters()):  # an update of RigL takes the step's place
            return
        kept = [p.grad[masks[n]] if n in masks else p.grad for n, p in self.named_parameters()]
        seen = torch.stack([p.grad.norm() for p in self.parameters()]).norm()
        torch.testing.assert_close(seen, torch.stack([gradient.norm() for gradient in kept]).norm())
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)


def clip_norm(run):
    torch.manual_seed(0)
    run.fit(Clipped(), gradient_clip_val=0.1)


def clip_value(run):
    torch.manual_seed(0)
    run.fit(Clipped(), gradient_clip_val=0.01, gradient_clip_algorithm="value")


class Gan(pl.LightningModule):
    def __init__(self, raw=False):
        super().__init__()
        self.automatic_optimization = False
        self.raw = raw
        self.generator = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 192))
        self.critic = nn.Sequential(nn.Flatten(), nn.Linear(192, 40), nn.ReLU(), nn.Linear(40, 1))

    def training_step(self, batch, _):
        for optimizer, sign in zip(self.optimizers(use_pl_optimizer=not self.raw), (-1, 1), strict=True):
            if not self.raw:
                self.toggle_optimizer(optimizer)
            fake = self.generator(torch.randn(8, 8, device=self.device))
            loss = sign * (self.critic(fake).mean() - self.critic(batch[0]).mean())
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            if not self.raw:
                self.untoggle_optimizer(optimizer)

    def configure_optimizers(self):
        return [torch.optim.AdamW(net.parameters(), 0.01) for net in (self.generator, self.critic)]


def gan(run):
    if run.row in SCORED:
        pytest.skip("needs a `loss_fn`: tested with the losses")
    torch.manual_seed(0)
    run.fit(Gan())
    assert set(masks_of(run.toy)) == {
        f"{net}.weight" for net in ("generator.0", "generator.2", "critic.1", "critic.3")
    }


def parameter_groups(run):
    def make(params):
        params = list(params)
        groups = [{"params": params[:1], "lr": 0.1}, {"params": params[1:], "weight_decay": 0.1}]
        return torch.optim.SGD(groups, 0.05, momentum=0.9)

    run.fit(make_toy(optimizer=make))


class Centralised(Toy):
    """Changes gradients after the callbacks have seen them."""

    def on_before_optimizer_step(self, optimizer):
        for parameter in self.parameters():
            parameter.grad.sub_(parameter.grad.mean())


def gradients_changed_late(run):
    if run.row in COMPACT:
        pytest.skip("no pruned weight has a gradient")
    torch.manual_seed(0)
    toy, holds = Centralised(), HoldsMasks()
    trainer(run.tmp_path, PruneAtInit("erk", 0.1), holds).fit(toy, loader())
    assert holds.steps == 8


def no_epsilon(run):
    if run.row.startswith(("ASNI", "IMP", "RigL", "SET", "gradual")):
        pytest.skip("ranks weights: where a gradient is zero, Adam itself makes NaN of a kept one")

    def make(params):
        return torch.optim.Adam(params, 0.01, eps=0.0)

    run.fit(make_toy(optimizer=make), max_epochs=1)


class Poisoned(Toy):
    """Gradients of pruned weights are NaN."""

    def on_after_backward(self):
        for name, mask in masks_of(self).items():
            self.get_parameter(name).grad.masked_fill_(~mask, math.nan)


def nan_in_pruned_gradient(run):
    if run.row in COMPACT:
        pytest.skip("no pruned weight has a gradient")
    if run.row not in FIXED:
        pytest.skip("would grow connections by gradients that are not numbers")
    torch.manual_seed(0)
    toy = run.fit(Poisoned())
    assert all(parameter.isfinite().all() for parameter in toy.parameters())


def channels_last(run):
    toy = make_toy(optimizer=OPTIMIZERS["adam-fused"])
    run.fit(toy.to(memory_format=torch.channels_last))


def compiled(run):
    torch._dynamo.reset()
    run.fit(torch.compile(make_toy(dropout=0.0), backend="aot_eager"))


SCENARIOS: dict[str, Callable[[Run], object]] = {
    **{f"optimizer-{name}": optimizer_scenario(name) for name in OPTIMIZERS},
    **{
        function.__name__: function
        for function in (
            accumulation,
            bf16,
            scaler_overflow,
            clip_norm,
            clip_value,
            gan,
            parameter_groups,
            nan_in_pruned_gradient,
            gradients_changed_late,
            no_epsilon,
            channels_last,
            compiled,
        )
    },
}


class NoNorm(Toy):
    """No batch statistics and no dropout: a batch in four parts is the whole batch."""

    def __init__(self):
        super().__init__(optimizer=lambda p: torch.optim.SGD(p, 0.05, momentum=0.9))
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 40), nn.Linear(40, 4))


@pytest.mark.parametrize(
    ("scenario", "row"),
    [(name, row) for name in SCENARIOS for row in (COMPILED if name == "compiled" else ROWS)],
)
def test_masks_hold(tmp_path, row, scenario):
    SCENARIOS[scenario](Run(tmp_path, row))


WITHIN_GROUPS = {
    "PruneAtInit-synflow, 1:8": lambda: [PruneAtInit(SynFlow(5), pattern="1:8", verify=True)],
    "RigL from PruneAtInit, 1:8": lambda: [
        RigLCallback(pattern="1:8", every_n_steps=3, stop_at=100, grad_average=2, verify=True),
        PruneAtInit("magnitude", pattern="1:8"),
    ],
    "SET, n:8, compact": lambda: [
        SETCallback(0.3, pattern="n:8", every_n_steps=2, stop_at=100, storage="compact", verify=True)
    ],
}


@pytest.mark.filterwarnings("ignore:Weights without a multiple of 8 inputs stay dense")
@pytest.mark.parametrize(
    ("row", "scenario"),
    [
        *((row, "optimizer-adam") for row in WITHIN_GROUPS),
        *((row, "bf16") for row in WITHIN_GROUPS),
        ("RigL from PruneAtInit, 1:8", "gan"),
        ("RigL from PruneAtInit, 1:8", "accumulation"),
        ("RigL from PruneAtInit, 1:8", "scaler_overflow"),
        ("SET, n:8, compact", "clip_value"),
        ("RigL from PruneAtInit, 1:8", "clip_norm"),
        ("RigL from PruneAtInit, 1:8", "channels_last"),
        ("SET, n:8, compact", "compiled"),
    ],
)
def test_groups_are_exact_beside_everything(tmp_path, row, scenario, monkeypatch):
    monkeypatch.setitem(ROWS, row, WITHIN_GROUPS[row])
    run = Run(tmp_path, row)
    SCENARIOS[scenario](run)
    for mask in masks_of(run.toy).values():
        (per_group,) = mask.unflatten(1, (-1, 8)).sum(2).unique().tolist()
        assert per_group == (2 if "n:8" in row else 1)


@pytest.mark.parametrize("row", FIXED[:1])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_test_above_fails_without_enforcement(tmp_path, row, scenario, monkeypatch):
    monkeypatch.setattr(SparseState, "mask_gradients_", lambda *_: None)
    monkeypatch.setattr(SparseState, "mask_weights_", lambda *_: None)
    monkeypatch.setitem(ROWS, row, lambda: [PruneAtInit("erk", 0.1)])  # `verify` would find it by itself
    with pytest.raises((AssertionError, RuntimeError)):
        SCENARIOS[scenario](Run(tmp_path, row))


@pytest.mark.parametrize(
    ("part", "scenario"),
    [
        ("mask_gradients_", "clip_norm"),
        ("mask_gradients_", "nan_in_pruned_gradient"),
        ("mask_gradients_", "optimizer-adam"),  # its moments gather
        ("mask_gradients_", "optimizer-sgd-fused"),
        ("mask_weights_", "optimizer-mixes-coordinates"),
    ],
)
def test_each_half_of_the_enforcement_is_needed(tmp_path, part, scenario, monkeypatch):
    monkeypatch.setattr(SparseState, part, lambda *_: None)
    with pytest.raises((AssertionError, RuntimeError)):
        SCENARIOS[scenario](Run(tmp_path, "PruneAtInit-erk"))


@pytest.mark.parametrize("row", FIXED)
def test_lbfgs(tmp_path, row):
    Run(tmp_path, row).fit(make_toy(optimizer=lambda p: torch.optim.LBFGS(p, max_iter=3), dropout=0.0))


@pytest.mark.parametrize("row", ROWS)
def test_double_precision(tmp_path, row):
    Run(tmp_path, row).fit(make_toy(), precision="64-true")


@pytest.mark.parametrize("row", sorted(set(FIXED) - set(SCORED)))
def test_steps_behind_lightnings_back(tmp_path, row):
    """Nothing masks these gradients, so momentum gathers; the weights are held all the same."""
    torch.manual_seed(0)
    holds, callbacks = HoldsMasks(), [PruneAtInit("erk", 0.1)]
    trainer(tmp_path, *callbacks, holds).fit(Gan(raw=True), loader())
    assert holds.steps == 8


def test_compiled_by_inductor(tmp_path):
    torch._dynamo.reset()
    Run(tmp_path, "PruneAtInit-erk").fit(torch.compile(make_toy(dropout=0.0)), max_epochs=1)


def test_moving_masks_compile_nothing_again(tmp_path):
    def frames(*callbacks):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        toy = make_toy(dropout=0.0)
        toy.net = torch.compile(toy.net, backend="aot_eager")
        trainer(tmp_path, *callbacks).fit(toy, loader())
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]

    assert 0 < frames(Rotate()) == frames()


# Lightning's own features.


def test_early_stopping(tmp_path):
    stop = EarlyStopping("val_loss", patience=1, min_delta=10.0)
    run = Run(tmp_path, "PruneAtInit-erk")
    run.fit(make_toy(), stop, max_epochs=5)
    assert run.trainer.current_epoch == 2


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("weights_only", [False, True])
def test_model_checkpoint(tmp_path, row, weights_only):
    """The first sparse net is kept here, of those that train on, and is then tested in that Trainer."""
    checkpoint = SparseCheckpoint(tmp_path, monitor="epoch", save_weights_only=weights_only)
    run = Run(tmp_path, row)
    toy = run.fit(make_toy(), checkpoint, enable_checkpointing=True)
    fresh = Toy()
    if row in COMPACT:  # their keys are those of other layers
        fresh = load_from_checkpoint(Toy, checkpoint.best_model_path)
        to_dense_(fresh)
    else:
        saved = torch.load(checkpoint.best_model_path, "cpu", weights_only=True)
        fresh.load_state_dict(saved["state_dict"], strict=True)
    kept = {name: int(mask.sum()) for name, mask in masks_of(toy).items()}
    assert sum(kept.values()) == 102
    least = 0 if row.startswith("moving masks") else 1  # all that has just moved is zero
    for name, count in kept.items():
        assert least <= int(fresh.get_parameter(name).count_nonzero()) <= count
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "[0-9,]+ weights are not zero here"
        )  # the masks are those of the end
        run.trainer.test(toy, loader(2), ckpt_path=checkpoint.best_model_path, verbose=False)
    if row in COMPACT:
        to_dense_(toy)
    assert_equal(weights_of(toy), weights_of(fresh))


AVERAGING = {
    "swa": lambda: StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1),
    "ema": lambda: EMAWeightAveraging(decay=0.9),
    "wa": lambda: WeightAveraging(use_buffers=False),  # an average of booleans does not exist
    "ema that never starts": lambda: EMAWeightAveraging(update_starting_at_step=10**6),
}
OF_PARAMETERS = {  # an average of positions does not exist either
    **AVERAGING,
    "ema": lambda: EMAWeightAveraging(decay=0.9, use_buffers=False),
    "ema that never starts": lambda: EMAWeightAveraging(update_starting_at_step=10**6, use_buffers=False),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", AVERAGING)
@pytest.mark.parametrize("row", FIXED)
def test_averages_are_as_sparse_where_evaluated_and_saved(tmp_path, row, name, first):
    class Evaluated(Toy):
        def validation_step(self, *arguments):
            if not self.trainer.sanity_checking:
                for key, mask in masks_of(self.trainer.lightning_module).items():
                    assert weight_of(self, key)[~mask].eq(0).all()
            return super().validation_step(*arguments)

    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    pair = [*ROWS[row](), (OF_PARAMETERS if row in COMPACT else AVERAGING)[name]()]
    torch.manual_seed(0)
    toy = Evaluated()
    arguments = {"enable_checkpointing": True, "max_epochs": 3}
    trainer(tmp_path, *pair[:: 1 if first else -1], checkpoint, **arguments).fit(toy, loader(), loader(2))
    saved = torch.load(tmp_path / "last.ckpt", "cpu", weights_only=True)["state_dict"]
    assert sum(int(mask.sum()) for mask in masks_of(toy).values()) == 102
    for key, mask in masks_of(toy).items():
        assert weight_of(toy, key)[~mask].eq(0).all()
        if row in COMPACT:
            values = saved[f"{key.removesuffix('weight')}values"]
            assert torch.equal(values, weight_of(toy, key)[mask])
        else:
            assert saved[key][~mask].eq(0).all()


@pytest.mark.parametrize("name", AVERAGING)
@pytest.mark.parametrize("first", [True, False])
def test_averages_of_moving_masks_are_refused(tmp_path, name, first):
    pair = [Rotate(), AVERAGING[name]()]
    with pytest.raises(ValueError, match=r"Rotate cannot run with .*Averaging"):
        trainer(tmp_path, *pair[:: 1 if first else -1]).fit(make_toy(), loader())


@pytest.mark.parametrize("row", ROWS)
def test_finders(tmp_path, row):
    class Tunable(Toy):
        def __init__(self):
            super().__init__()
            self.lr = 0.1
            self.batch_size = 2

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), self.lr)

        def train_dataloader(self):
            return loader(8, self.batch_size)

        def val_dataloader(self):
            return loader(2)

    finders = [BatchSizeFinder(max_trials=2, steps_per_trial=1), LearningRateFinder(num_training_steps=5)]
    torch.manual_seed(0)
    toy, holds = Tunable(), HoldsMasks()
    runner = trainer(tmp_path, *ROWS[row](), *finders, holds, enable_checkpointing=True)
    runner.fit(toy)
    assert toy.batch_size > 2
    assert holds.steps == 16
    assert int(sum(mask.sum() for mask in masks_of(toy).values())) == 102


@ENDS_EARLY
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(
    "arguments",
    [
        {"overfit_batches": 2},
        {"fast_dev_run": 2},
        {"barebones": True},
        {"max_steps": 3, "max_epochs": -1},
        {"max_time": "00:00:00:02", "max_epochs": -1},
        {"limit_train_batches": 0.5},
        {"val_check_interval": 2},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_trainer_arguments(tmp_path, row, arguments):
    if "barebones" in arguments:
        runner = pl.Trainer(
            callbacks=[*ROWS[row](), holds := HoldsMasks()], accelerator="cpu", max_epochs=1, **arguments
        )
        runner.fit(make_toy(), loader())
        assert holds.steps == 4
    else:
        Run(tmp_path, row).fit(make_toy(), **arguments)


@pytest.mark.parametrize("row", ROWS)
def test_accumulation_scheduler(tmp_path, row):
    Run(tmp_path, row).fit(make_toy(), GradientAccumulationScheduler({0: 2, 1: 4}))


@pytest.mark.filterwarnings("ignore:.*nothing here has been trained so")  # on purpose
@pytest.mark.parametrize("row", ROWS)
def test_validate_before_fit_changes_nothing(tmp_path, row):
    plain = Run(tmp_path, row).fit(make_toy())
    toy = make_toy()
    runner = trainer(tmp_path, *ROWS[row]())
    runner.validate(toy, loader(2), verbose=False)
    assert not masks_of(toy)
    torch.manual_seed(0)
    Toy()  # as make_toy() left the generator
    Run(tmp_path, row).fit(toy)
    assert_equal(weights_of(plain), weights_of(toy))


# Copies, second fits, other processes' checkpoints.


@pytest.mark.parametrize("row", ROWS)
def test_second_fit(tmp_path, row):
    run = Run(tmp_path, row)
    toy = run.fit(make_toy())
    before = masks_of(toy)
    trainer(tmp_path, *run.callbacks, HoldsMasks()).fit(toy, loader())
    if row in FIXED:
        assert_equal(before, masks_of(toy))
    assert int(sum(mask.sum() for mask in masks_of(toy).values())) == 102


class Copies(pl.Callback):
    """Copies module and callbacks in mid-training."""

    def __init__(self, copier):
        self.copier = copier

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == 5:
            callbacks = [
                c for c in trainer.callbacks if type(c).__module__.startswith(("lightning_sparse", "toy"))
            ]
            callbacks = [c for c in callbacks if not isinstance(c, HoldsMasks)]
            module_trainer, pl_module._trainer = pl_module._trainer, None  # Lightning's own rule for pickling
            self.copies = self.copier((pl_module, callbacks))
            pl_module._trainer = module_trainer
            self.masks = masks_of(pl_module)


class MasksAtStart(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.masks = masks_of(pl_module)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_in_mid_training_go_on(tmp_path, row, copier):
    copies, start = Copies(copier), MasksAtStart()
    Run(tmp_path, row).fit(make_toy(optimizer=sgd), copies)
    module, callbacks = copies.copies
    trainer(tmp_path, *callbacks, HoldsMasks(), start, max_epochs=1).fit(module, loader())
    assert_equal(copies.masks, start.masks)


@pytest.mark.parametrize("row", ROWS)
def test_test_on_a_fresh_module(tmp_path, row):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    run = Run(tmp_path, row)
    run.fit(make_toy(), checkpoint, enable_checkpointing=True)
    expected = run.trainer.test(run.toy, loader(2), verbose=False)
    torch.manual_seed(9)
    fresh = Toy()
    runner = trainer(tmp_path, *ROWS[row]())
    assert runner.test(fresh, loader(2), ckpt_path=tmp_path / "last.ckpt", verbose=False) == expected


@pytest.mark.parametrize("row", ROWS)
def test_masks_follow_the_weights_of_a_tested_checkpoint(tmp_path, row):
    """After `test(ckpt_path="best")` module and masks are the checkpoint's; a fit goes on from there."""
    checkpoint = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    run = Run(tmp_path, row)
    toy = run.fit(make_toy(), checkpoint, enable_checkpointing=True)
    run.trainer.test(toy, loader(2), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)
    before = {name: weight_of(toy, name).clone() for name in masks_of(toy)}
    assert before
    for name, mask in masks_of(toy).items():
        assert weight_of(toy, name)[~mask].eq(0).all()
    frozen = {"limit_train_batches": 1, "max_epochs": 1}
    toy.make_optimizer = lambda p: torch.optim.SGD(p, 0.0)
    callbacks = [callback for callback in run.callbacks if not isinstance(callback, Rotate)] or run.callbacks
    if row in FIXED:
        trainer(tmp_path, *callbacks, **frozen).fit(toy, loader())
        assert_equal(before, {name: weight_of(toy, name) for name in masks_of(toy)})


def test_an_optimizer_rebuilt_in_mid_fit_is_guarded_too(tmp_path):
    class Rebuilds(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                trainer.strategy.setup_optimizers(trainer)

    Run(tmp_path, "PruneAtInit-erk").fit(make_toy(optimizer=Mixing), Rebuilds(), max_epochs=3)


def test_a_group_that_swaps_its_parameters_is_noticed(tmp_path):
    class Swaps(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            net = pl_module.net
            layer = net[0] if trainer.current_epoch else net[6]
            trainer.optimizers[0].param_groups[0]["params"] = [layer.weight, layer.bias]

    Run(tmp_path, "PruneAtInit-erk").fit(make_toy(optimizer=lambda p: torch.optim.SGD(p, 0.1)), Swaps())


def test_checkpoints_in_the_old_format_are_not_called_damaged(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    Run(tmp_path, "PruneAtInit-erk").fit(make_toy(), checkpoint, enable_checkpointing=True)
    path = tmp_path / "last.ckpt"
    torch.save(torch.load(path, "cpu", weights_only=True), path, _use_new_zipfile_serialization=False)
    run = Run(tmp_path, "PruneAtInit-erk")
    run.callbacks = ROWS["PruneAtInit-erk"]()
    trainer(tmp_path, *run.callbacks, max_epochs=3).fit(make_toy(), loader(), ckpt_path=path)


@pytest.mark.parametrize("row", ROWS)
def test_changed_model_does_not_resume(tmp_path, row):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    Run(tmp_path, row).fit(make_toy(), checkpoint, enable_checkpointing=True)
    content = (tmp_path / "last.ckpt").read_bytes()
    changed = Toy()
    changed.net[6] = nn.Linear(200, 5)
    match = r"net.6" if row in COMPACT else r"size mismatch for net.6.weight"
    with pytest.raises(RuntimeError, match=match):
        trainer(tmp_path, *ROWS[row](), max_epochs=3).fit(changed, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == content


@pytest.mark.parametrize("row", [FIXED[0], COMPACT[0]])
@pytest.mark.parametrize("damage", ["truncated", "weights", "masks"])
def test_damaged_checkpoint(tmp_path, row, damage):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    toy = Run(tmp_path, row).fit(make_toy(), checkpoint, enable_checkpointing=True)
    path = tmp_path / "last.ckpt"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    else:
        saved = torch.load(path, "cpu", weights_only=True)
        packed = next(value for key, value in saved["callbacks"].items() if key.startswith("PruneAtInit"))
        if row in COMPACT:
            needle = saved["state_dict"]["net.6.values" if damage == "weights" else "net.6.indices"]
        elif damage == "weights":
            needle = toy.net[6].weight.detach()
        else:
            needle = packed["masks"]["net.6.weight"]["bits"]
        content[content.index(needle.numpy().tobytes()) + 40] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        SparsityError, match=r"`ckpt_path` '.*last.ckpt' is damaged .* Use an earlier checkpoint"
    ):
        trainer(tmp_path, *ROWS[row](), max_epochs=3).fit(make_toy(), loader(), ckpt_path=path)
    assert path.read_bytes() == content


# Company.


@pytest.mark.parametrize("first", [True, False])
def test_masks_are_handed_over(tmp_path, first):
    class Start(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, *_):
            self.masks = getattr(self, "masks", masks_of(pl_module))

    start, pair = Start(), [PruneAtInit("magnitude", 0.1), Rotate()]
    toy, alone = make_toy(), make_toy()
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    runner = trainer(tmp_path, *pair[:: 1 if first else -1], start, checkpoint, enable_checkpointing=True)
    runner.fit(toy, loader())
    trainer(tmp_path, PruneAtInit("magnitude", 0.1), max_steps=1).fit(alone, loader())
    assert_equal(start.masks, masks_of(alone))
    assert state_of(toy).owner is pair[1]
    assert not torch.equal(masks_of(toy)["net.6.weight"], start.masks["net.6.weight"])
    saved = torch.load(tmp_path / "last.ckpt", "cpu", weights_only=True)["callbacks"]
    masks = {key.partition("{")[0]: value.get("masks") for key, value in saved.items()}
    assert masks["PruneAtInit"] == {}  # handed over, not stored twice
    assert set(masks["Rotate"]) == {"net.0.weight", "net.6.weight"}


@pytest.mark.parametrize("first", [True, False])
def test_handed_over_masks_resume_with_their_new_owner(tmp_path, first):
    def fit(epochs, ckpt_path=None):
        pair = [PruneAtInit("random", 0.1, seed=epochs), Rotate()]
        checkpoint = ModelCheckpoint(tmp_path, filename=f"{{epoch}}-of-{epochs}", save_top_k=-1)
        toy = make_toy(dropout=0.0)
        runner = trainer(
            tmp_path, *pair[:: 1 if first else -1], checkpoint, max_epochs=epochs, enable_checkpointing=True
        )
        runner.fit(toy, loader(), ckpt_path=ckpt_path)
        return toy

    fit(2)
    resumed = fit(4, tmp_path / "epoch=1-of-2.ckpt")
    whole = make_toy(dropout=0.0)
    trainer(tmp_path, PruneAtInit("random", 0.1, seed=2), Rotate(), max_epochs=4).fit(whole, loader())
    assert_equal(weights_of(whole), weights_of(resumed))


def test_masks_return_to_who_is_there(tmp_path):
    """A later fit without the callback that moved masks: they stay put, and are in the checkpoint."""
    start, move, toy = PruneAtInit("magnitude", 0.1), Rotate(), make_toy()
    trainer(tmp_path, start, move).fit(toy, loader())
    masks, calls = masks_of(toy), move.calls
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, start, checkpoint, HoldsMasks(), enable_checkpointing=True).fit(toy, loader())
    assert move.calls == calls
    assert_equal(masks_of(toy), masks)
    saved = torch.load(tmp_path / "last.ckpt", "cpu", weights_only=True)["callbacks"]
    assert set(saved["PruneAtInit"]["masks"]) == set(masks)


def test_resuming_without_the_owner_of_the_masks(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    pair = [PruneAtInit("magnitude", 0.1), Rotate()]
    trainer(tmp_path, *pair, checkpoint, enable_checkpointing=True).fit(make_toy(), loader())
    runner = trainer(tmp_path, PruneAtInit("magnitude", 0.1), max_epochs=3)
    with pytest.raises(ValueError, match="masks belong to a callback that is not in `callbacks`"):
        runner.fit(make_toy(), loader(), ckpt_path=tmp_path / "last.ckpt")


def test_an_exception_leaves_no_hook_behind(tmp_path):
    class Fails(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, *_):
            if trainer.global_step == 3:
                raise KeyboardInterrupt if trainer.max_epochs == 2 else ArithmeticError

    toy = make_toy()
    optimizer = sgd(toy.parameters())
    toy.make_optimizer = lambda _: optimizer
    runner = trainer(tmp_path, PruneAtInit("erk", 0.1), Fails(), max_epochs=3)
    with pytest.raises(ArithmeticError):
        runner.fit(toy, loader())
    assert not optimizer._optimizer_step_post_hooks
    assert not state_of(toy).enforced
    trainer(tmp_path).fit(toy, loader())  # dense
    assert toy.net[6].weight.count_nonzero() > 400


def test_layers_made_late_may_be_named(tmp_path):
    class Late(Toy):
        def configure_model(self):
            self.head = getattr(self, "head", None) or nn.Linear(4, 4)

    callback = PruneAtInit("uniform", 0.5, density_overrides={"head.weight": 1.0}, verify=True)
    toy = Late()
    trainer(tmp_path, callback).fit(toy, loader())
    assert int(masks_of(toy)["head.weight"].sum()) == 16
    callback = PruneAtInit("erk", 0.5, density_overrides={"hed": 1.0})
    with pytest.raises(ValueError, match="pattern 'hed' matches none"):
        trainer(tmp_path, callback).fit(Late(), loader())


@pytest.mark.parametrize("row", ["PruneAtInit-erk", "PruneAtInit-erk, compact"])
def test_callbacks_kept_after_fit_do_not_keep_the_net(tmp_path, row):
    callbacks = [*ROWS[row](), ExactResume(), SparsityMonitor(), SparsityReport()]
    toy = make_toy()
    trainer(tmp_path, *callbacks).fit(toy, loader())
    for callback in callbacks:  # Lightning's own doing
        callback.__dict__.pop("log", None)
        callback.__dict__.pop("log_dict", None)
    weight = weakref.ref(next(toy.net[6].parameters()))
    del toy
    gc.collect()
    assert weight() is None


@pytest.mark.parametrize("first", [True, False])
def test_two_that_move_are_refused(tmp_path, first):
    class Other(Rotate):
        pass

    pair = [Rotate(), Other()]
    with pytest.raises(ValueError, match="both change masks during training"):
        trainer(tmp_path, *pair[:: 1 if first else -1]).fit(make_toy(), loader())


def test_two_of_a_kind_are_refused(tmp_path):
    callbacks = [PruneAtInit("erk", 0.1, include=[f"net.{i}.weight"]) for i in (0, 6)]
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `PruneAtInit`"):
        trainer(tmp_path, *callbacks)


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_strategies_that_leave_masks_behind_warn(tmp_path, strategy):
    runner = pl.Trainer(strategy=strategy, accelerator="cpu", devices=2, default_root_dir=tmp_path)
    with pytest.warns(UserWarning, match="masks stay in the processes it starts"):
        PruneAtInit("erk", 0.1).setup(runner, make_toy(), "fit")


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("strategy", ["FSDPStrategy", "DeepSpeedStrategy"])
def test_strategies_that_split_weights_are_refused(tmp_path, row, strategy):
    runner = trainer(tmp_path, *ROWS[row]())
    runner.strategy.__class__ = type(strategy, (type(runner.strategy),), {})
    with pytest.raises(
        ValueError, match=rf"cannot run under {strategy}.*Use one device, or `strategy='ddp'`"
    ):
        runner.fit(make_toy(), loader())


# The runtime check itself.


def keep_all(keep):
    keep.fill_(keep.dtype != torch.bool)  # a factor, or, of large weights on a GPU, what is pruned


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda toy, state: toy.net[6].weight.data.add_(1), "pruned weights of 'net.6.weight' are not zero"),
        (
            lambda toy, state: keep_all(state._keep["net.0.weight"]),
            "'net.0.weight' keeps 216 weights instead",
        ),
    ],
)
def test_verify_names_the_layer(tmp_path, harm, message, monkeypatch):
    monkeypatch.setattr(SparseState, "mask_weights_", lambda *_: None)

    class Harms(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step == 2:
                harm(pl_module, state_of(pl_module))

    with pytest.raises(RuntimeError, match=message):
        trainer(tmp_path, PruneAtInit("erk", 0.1, verify=True), Harms()).fit(make_toy(), loader())


def test_verify_finds_momentum_of_pruned_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(SparseState, "mask_gradients_", lambda *_: None)
    with pytest.raises(RuntimeError, match=r"'momentum_buffer' of pruned weights of 'net.0.weight' differs"):
        trainer(tmp_path, PruneAtInit("erk", 0.1, verify=True)).fit(make_toy(), loader())


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_masks_hold_on_a_gpu(tmp_path, row, precision):
    run = Run(tmp_path, row)
    toy = run.fit(make_toy(), accelerator="gpu", precision=precision)
    run.trainer.test(toy, loader(2), verbose=False)  # on the GPU again, the optimizers of fit are on the CPU
    for callback in run.callbacks:  # for a machine without a GPU
        assert not [
            t for t in tree_leaves(callback.__getstate__()) if isinstance(t, torch.Tensor) and t.is_cuda
        ]
    assert {keep.device.type for keep in state_of(toy)._keep.values()} == {"cpu"}  # nothing stays behind
    trainer(tmp_path, *run.callbacks, HoldsMasks(), accelerator="cpu", max_epochs=1).fit(toy, loader())
