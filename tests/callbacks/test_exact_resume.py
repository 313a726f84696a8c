import random

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from toy import loader, make_toy, trainer

from lightning_sparse import ExactResume


def draws():
    return torch.rand(2).tolist(), float(np.random.random()), random.random()  # noqa: NPY002


def test_state_round_trip_through_a_safe_checkpoint(tmp_path):
    runner, resume = trainer(tmp_path), ExactResume()
    resume.setup(runner, None, "fit")
    torch.save(resume.state_dict(), tmp_path / "state.pt")
    expected = draws()
    draws()
    resume.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
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


def test_a_checkpoint_without_it_still_resumes(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, checkpoint, enable_checkpointing=True).fit(make_toy(), loader())
    runner = trainer(tmp_path, ExactResume(), max_epochs=3)
    runner.fit(make_toy(), loader(), ckpt_path=tmp_path / "last.ckpt")
    assert runner.global_step == 12
