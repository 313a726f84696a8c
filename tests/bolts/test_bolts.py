"""Modules of lightning-bolts with each kind of callback: the cells of docs/bolts.md, held to what it says."""

import os
import re
import signal
import tempfile

import pytest

pytest.importorskip("pl_bolts", reason="needs the extra `bolts`: docs/bolts.md")

import pytorch_lightning as pl
import torch
from toy import assert_equal, masks_of, trainer, weights_of

from benchmarks.nets.cell import run
from benchmarks.nets.families.bolts import NETS
from lightning_sparse import DCTpSConversion, ExactResume, PruneAtInit, RigLCallback, SynFlow

pytestmark = [pytest.mark.bolts, pytest.mark.usefixtures("settings_stay")]

METHODS = ("erk", "snip", "synflow", "RigL", "DCTpS", "ASNI")
LEFT_OUT = ("DCGAN", "SimCLR")  # slow, and each like another: `python -m benchmarks.nets` has them
TWO_LOSSES = ("clear error", r"training_step\(\.\.\., optimizer_idx\)` has one for each optimizer.*`loss_fn")
NOISE = (
    "clear error",
    "SynFlow called `forward` of .* with ones in the shape of the data.*`example_input_array`",
)
LOUD = ("warned", "first losses will be high")
NO_PROJECTION = ("warned", "All scores of projection.* are zero")
EXPECTED = {
    ("GAN", "snip"): TWO_LOSSES,
    **{(net, "synflow"): NOISE for net in ("GAN", "GAN, manual optimization")},
    ("SimCLR, LARS", "synflow"): NO_PROJECTION,
    **{(net, "DCTpS"): LOUD for net in ("AE", "VAE", "GAN", "GAN, manual optimization")},
    **{(net, "snip"): ("warned", "No signal passes") for net in ("AE", "VAE")},
    ("GAN, manual optimization", "snip"): ("clear error", "with manual optimization would train"),
    ("VAE", "synflow"): ("clear error", "are not finite"),
}
"""Verdict and text of the cells that are not exact."""


@pytest.mark.filterwarnings("ignore")  # of bolts, that all of it is under review
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("net", [net for net in NETS if net not in LEFT_OUT])
def test_a_module_of_bolts(net, method, tmp_path):
    outcome = run(net, NETS[net], method, tmp_path)
    verdict, text = EXPECTED.get((net, method), ("exact", ""))
    assert outcome.verdict == verdict, outcome.texts
    assert re.search(text, " ".join(outcome.texts))
    assert bool(outcome.texts) is (verdict != "exact")


CALLBACKS = {
    "synflow": lambda: [PruneAtInit(SynFlow(5), 0.1)],
    "RigL": lambda: [RigLCallback(0.1, every_n_steps=2)],
    "DCTpS and RigL": lambda: [DCTpSConversion(0.1), RigLCallback(every_n_steps=2)],
}


def fit(folder, callbacks, *more, ckpt_path=None):
    pl.seed_everything(0 if ckpt_path is None else 1)
    case = NETS["LitMNIST, MNISTDataModule"]()
    pl.seed_everything(0 if ckpt_path is None else 1, workers=True)
    saving = pl.callbacks.ModelCheckpoint(folder, save_last=True)  # a path, as one may give it
    runner = trainer(
        folder, *callbacks(), ExactResume(), saving, *more, max_epochs=3, enable_checkpointing=True
    )
    runner.fit(case.module, case.data, ckpt_path=ckpt_path)
    return runner, case


class Killed(pl.Callback):
    """Ends the process in the middle of the third epoch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 2 and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLBACKS)
def test_a_killed_run_goes_on_as_if_nothing_had_been(name, tmp_path):
    if (child := os.fork()) == 0:
        try:
            fit(tmp_path / "killed", CALLBACKS[name], Killed())
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    _, undisturbed = fit(tmp_path / "whole", CALLBACKS[name])
    _, resumed = fit(tmp_path / "resumed", CALLBACKS[name], ckpt_path=tmp_path / "killed" / "last.ckpt")
    assert_equal(weights_of(undisturbed.module), weights_of(resumed.module))


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_is_tested_with_its_masks(tmp_path):
    """Lightning 1.9 gives callbacks their states only as fit resumes."""
    _, case = fit(tmp_path, CALLBACKS["RigL"])
    pl.seed_everything(2)
    fresh = NETS["LitMNIST, MNISTDataModule"]()
    runner = trainer(tmp_path, *CALLBACKS["RigL"]())
    runner.test(fresh.module, fresh.data, ckpt_path=str(tmp_path / "last.ckpt"), verbose=False)
    assert_equal(weights_of(case.module), weights_of(fresh.module))
    assert sum(int(mask.sum()) for mask in masks_of(fresh.module).values()) == 10_163


@pytest.mark.filterwarnings("ignore")
def test_only_classes_that_the_run_has_itself_are_read(tmp_path):
    """The optimizer's class is among the hyperparameters of bolts' regressions; a foreign one is refused."""
    case = NETS["LogisticRegression, SklearnDataModule"]()
    runner = trainer(tmp_path, PruneAtInit("erk", 0.5), max_epochs=1)
    runner.fit(case.module, case.data)
    runner.save_checkpoint(tmp_path / "own.ckpt")
    case.module.hparams["extra"] = tempfile.TemporaryDirectory
    runner.save_checkpoint(tmp_path / "foreign.ckpt")
    for name in ("own", "foreign"):
        again = NETS["LogisticRegression, SklearnDataModule"]()
        resumed = trainer(tmp_path, PruneAtInit("erk", 0.5), max_epochs=2)
        if name == "own":
            resumed.fit(again.module, again.data, ckpt_path=tmp_path / "own.ckpt")
            assert resumed.current_epoch == 2
            continue
        with pytest.raises(ValueError, match=r"holds an object of tempfile.TemporaryDirectory"):
            resumed.fit(again.module, again.data, ckpt_path=tmp_path / "foreign.ckpt")


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_mid_epoch_is_named(tmp_path):
    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    fit(tmp_path, CALLBACKS["RigL"], Save())
    with pytest.warns(UserWarning, match=r"Lightning before 2\.0 goes on otherwise.*Use Lightning 2"):
        fit(tmp_path, CALLBACKS["RigL"], ckpt_path=tmp_path / "mid.ckpt")


@pytest.mark.filterwarnings("ignore")
def test_synflow_of_a_gan_that_has_an_example_input(tmp_path):
    """Its generator ends in a hyperbolic tangent, which is flat where all weights are positive."""
    case = NETS["GAN"]()
    case.module.example_input_array = torch.zeros(1, 32)
    callbacks = [PruneAtInit(SynFlow(5), 0.1, include=["generator*"])]
    with pytest.raises(ValueError, match=r"Only 0 scores are not zero.*choose a random method"):
        trainer(tmp_path, *callbacks, max_epochs=1).fit(case.module, case.data)
