import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torchdata.stateful_dataloader import StatefulDataLoader
from toy import Toy, assert_equal, loader, make_toy, trainer, weights_of

from lightning_sparse import ExactResume


def draws():
    return torch.rand(2).tolist(), float(np.random.random()), random.random()  # noqa: NPY002


def test_state_round_trip_through_a_safe_checkpoint(tmp_path):
    runner, resume = trainer(tmp_path), ExactResume()
    resume.setup(runner, None, "fit")
    torch.save(resume.state_dict(), tmp_path / "state.pt")
    expected = draws()
    draws()
    resume.load_state_dict(torch.load(tmp_path / "state.pt", "cpu", weights_only=True))
    assert draws() == expected


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_other_stages_leave_the_generators_alone(stage, tmp_path):
    runner, resume = trainer(tmp_path), ExactResume()
    state = resume.state_dict()
    expected = draws()
    resume.load_state_dict(state)
    resume.setup(runner, None, stage)
    resume.load_state_dict(state)
    assert draws() != expected


def test_another_number_of_processes_is_an_error(tmp_path):
    runner, resume = trainer(tmp_path), ExactResume()
    resume.setup(runner, None, "fit")
    ranks = resume.state_dict()["ranks"]
    with pytest.raises(ValueError, match="2 processes wrote the checkpoint, this run has 1"):
        resume.load_state_dict({"ranks": ranks * 2})


def stateful(**arguments):
    return StatefulDataLoader(loader().dataset, 8, shuffle=True, **arguments)


def plain(**arguments):
    return loader(shuffle=True, **arguments)


def own_generator():
    return loader(shuffle=True, generator=torch.Generator().manual_seed(torch.initial_seed()))


@pytest.mark.parametrize("make_loader", [plain, stateful, own_generator])
@pytest.mark.parametrize(
    ("saving", "limits"),
    [
        ({}, {}),
        ({"every_n_epochs": 1}, {"limit_train_batches": 3}),
        ({"save_on_train_epoch_end": False}, {}),
        ({}, {"val_check_interval": 0.5}),
    ],
    ids=["default", "limited", "in validation", "twice an epoch"],
)
def test_resumed_from_the_end_of_an_epoch(tmp_path, make_loader, saving, limits):
    """Whichever hook wrote the checkpoint; the process that resumes has drawn other numbers before."""

    def fit(epochs, ckpt_path=None, seed=7):
        pl.seed_everything(seed)
        toy = Toy()
        checkpoint = ModelCheckpoint(tmp_path / f"{epochs}", filename="{step}", save_top_k=-1, **saving)
        arguments = {"max_epochs": epochs, "enable_checkpointing": True, "num_sanity_val_steps": 0, **limits}
        runner = trainer(tmp_path, ExactResume(), checkpoint, **arguments)
        runner.fit(toy, make_loader(), loader(2), ckpt_path=ckpt_path)
        return toy, runner

    whole, _ = fit(4)
    _, half = fit(2)
    resumed, _ = fit(4, tmp_path / "2" / f"step={half.global_step}.ckpt", seed=99)
    assert_equal(weights_of(whole), weights_of(resumed))


def test_a_checkpoint_without_it_still_resumes(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, checkpoint, enable_checkpointing=True).fit(make_toy(), loader())
    runner = trainer(tmp_path, ExactResume(), max_epochs=3)
    runner.fit(make_toy(), loader(), ckpt_path=tmp_path / "last.ckpt")
    assert runner.global_step == 12
