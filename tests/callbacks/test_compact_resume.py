"""Checkpoints of compact nets: what is kept comes from them, whatever the fresh module would have kept."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.callbacks.weight_averaging import EMAWeightAveraging
from toy import HoldsMasks, Toy, assert_equal, loader, make_toy, masks_of, trainer, weights_of

from lightning_sparse import (
    FORCE,
    SNIP,
    DCTpSConversion,
    ExactResume,
    Magnitude,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    load_from_checkpoint,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.weights.found import sparse_weights

MOVING = {"every_n_steps": 3, "stop_at": 100}
ROWS = {
    "magnitude": lambda: [PruneAtInit("magnitude", 0.1, storage="compact")],
    "force": lambda: [PruneAtInit(FORCE(3, 2), 0.1, storage="compact")],
    "RigL": lambda: [RigLCallback(0.1, grad_average=2, storage="compact", **MOVING)],
    "RigL from PruneAtInit": lambda: [
        RigLCallback(**MOVING),
        PruneAtInit("magnitude", 0.1, storage="compact"),
    ],
    "SET": lambda: [SETCallback(0.1, storage="compact", **MOVING)],
}


def fit(tmp_path, callbacks, toy, *more, epochs=4, ckpt_path=None, **arguments):
    checkpoint = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    options = {"max_epochs": epochs, "enable_checkpointing": True, **arguments}
    runner = trainer(tmp_path, *callbacks, ExactResume(), checkpoint, HoldsMasks(), *more, **options)
    runner.fit(toy, loader(), ckpt_path=ckpt_path)
    return runner


def other_toy():
    torch.manual_seed(9)
    return Toy()


@pytest.mark.parametrize("row", ROWS)
def test_a_net_of_other_weights_resumes(tmp_path, row):
    """By global ranking each layer would keep another number of those."""
    whole = make_toy()
    fit(tmp_path, ROWS[row](), whole)
    resumed = other_toy()
    before = masks_of(resumed)
    assert not before
    fit(tmp_path, ROWS[row](), resumed, ckpt_path=tmp_path / "epoch=1.ckpt")
    assert_equal(weights_of(whole), weights_of(resumed))


@pytest.mark.parametrize("row", ["magnitude", "force"])
def test_a_resumed_fit_takes_no_scores(tmp_path, row, monkeypatch):
    fit(tmp_path, ROWS[row](), make_toy(), epochs=2)

    def refuse(*_):
        raise AssertionError("scored again")

    monkeypatch.setattr(Magnitude, "scores", refuse)
    monkeypatch.setattr(FORCE, "scores", refuse)
    fit(tmp_path, ROWS[row](), other_toy(), ckpt_path=tmp_path / "epoch=1.ckpt", epochs=3)
    with pytest.raises(AssertionError, match="scored again"):
        fit(tmp_path, ROWS[row](), other_toy(), epochs=1)


@pytest.mark.filterwarnings("ignore:.*found no masks of its own in the checkpoint")
@pytest.mark.parametrize("row", ["magnitude", "RigL from PruneAtInit"])
def test_one_trainer_for_a_resumed_fit_and_a_fresh_one(tmp_path, row):
    """What it had resumed from is not what the next fit starts from."""
    fit(tmp_path, ROWS[row](), make_toy(), epochs=2)
    runner = fit(tmp_path, ROWS[row](), other_toy(), ckpt_path=tmp_path / "epoch=0.ckpt", epochs=2)
    fresh, holds = make_toy(), HoldsMasks()
    runner.callbacks.append(holds)
    runner.fit_loop.max_epochs = 3
    runner.fit(fresh, loader())
    assert holds.steps == 4
    assert sum(weight.nnz for weight in sparse_weights(fresh).values()) == 102


@pytest.mark.parametrize("first", [True, False])
def test_an_average_resumes(tmp_path, first):
    def pair():
        made = [
            PruneAtInit("magnitude", 0.1, storage="compact"),
            EMAWeightAveraging(decay=0.9, use_buffers=False),
        ]
        return made[:: 1 if first else -1]

    whole, resumed = make_toy(), other_toy()
    fit(tmp_path, pair(), whole)
    fit(tmp_path, pair(), resumed, ckpt_path=tmp_path / "epoch=1.ckpt")
    assert_equal(weights_of(whole), weights_of(resumed))


@pytest.mark.parametrize("callback", [PruneAtInit, RigLCallback, SETCallback])
@pytest.mark.parametrize("saved", ["masked", "compact"])
def test_the_other_storage_is_refused_before_anything_is_loaded(tmp_path, callback, saved):
    def make(storage):
        moving = {} if callback is PruneAtInit else {"every_n_steps": 3, "stop_at": 100}
        arguments = ("erk", 0.1) if callback is PruneAtInit else (0.1,)
        return [callback(*arguments, seed=1, storage=storage, **moving)]

    (other,) = {"masked", "compact"} - {saved}
    fit(tmp_path, make(saved), make_toy(), epochs=1)
    with pytest.raises(SparsityError) as refused:
        fit(tmp_path, make(other), make_toy(), ckpt_path=tmp_path / "epoch=0.ckpt", epochs=2)
    assert f"`storage` of {callback.__name__} is {other!r}" in str(refused.value)
    assert f"made with {saved!r}" in str(refused.value)
    with pytest.raises(SparsityError, match=f"made with {saved!r}"):
        trainer(tmp_path, *make(other)).test(make_toy(), loader(2), ckpt_path=tmp_path / "epoch=0.ckpt")


def test_a_dense_checkpoint_does_not_resume_and_is_tested_as_it_is(tmp_path):
    toy = make_toy()
    saves = ModelCheckpoint(tmp_path, filename="dense")
    trainer(tmp_path, saves, enable_checkpointing=True).fit(toy, loader())
    path, callback = tmp_path / "dense.ckpt", PruneAtInit("erk", 0.1, storage="compact")
    with pytest.raises(SparsityError, match="'compact', but the checkpoint has no layers that are stored so"):
        trainer(tmp_path, callback, max_epochs=3).fit(make_toy(), loader(), ckpt_path=path)
    tested = make_toy()
    with pytest.warns(UserWarning, match="nothing here has been trained so"):
        trainer(tmp_path, callback).test(tested, loader(2), ckpt_path=path, verbose=False)
    assert_equal(weights_of(toy), weights_of(tested))


def test_weights_alone_are_enough_to_test(tmp_path):
    toy = make_toy()
    saves = ModelCheckpoint(tmp_path, filename="weights", save_weights_only=True)
    callback = PruneAtInit("magnitude", 0.1, storage="compact")
    trainer(tmp_path, callback, saves, enable_checkpointing=True).fit(toy, loader())
    fresh = other_toy()
    trainer(tmp_path, PruneAtInit("erk", 0.5, storage="compact")).test(
        fresh, loader(2), ckpt_path=tmp_path / "weights.ckpt", verbose=False
    )
    assert_equal(weights_of(toy), weights_of(fresh))
    assert_equal(weights_of(toy), weights_of(load_from_checkpoint(Toy, tmp_path / "weights.ckpt")))


@pytest.mark.parametrize("data", [False, True])
def test_layers_made_late(tmp_path, data):
    class Late(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.toy = None

        def configure_model(self):
            self.toy = self.toy or make_toy()

        def training_step(self, batch, *_):
            return torch.nn.functional.cross_entropy(self.toy.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return self.toy.make_optimizer(self.parameters())

    def callback():
        return PruneAtInit(SNIP(2) if data else "erk", 0.1, storage="compact")

    whole, resumed = Late(), Late()
    fit(tmp_path, [callback()], whole)
    fit(tmp_path, [callback()], resumed, ckpt_path=tmp_path / "epoch=1.ckpt")
    assert_equal(weights_of(whole), weights_of(resumed))
    assert sum(weight.nnz for weight in sparse_weights(resumed).values()) == 102


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("converts", [True, False])
def test_connections_rest_in_a_later_fit_without_who_moved_them(tmp_path, keep, converts):
    start = DCTpSConversion(0.1) if converts else PruneAtInit("magnitude", 0.1, storage="compact")
    moves, toy = RigLCallback(**MOVING), make_toy()
    trainer(tmp_path, start, moves).fit(toy, loader())
    if not keep:
        del moves
    before = masks_of(toy)
    trainer(tmp_path, start, HoldsMasks()).fit(toy, loader())
    assert_equal(before, masks_of(toy))


class Momentum(Toy):
    """A target net that follows the first layer, frozen."""

    def __init__(self):
        super().__init__()
        self.target = copy.deepcopy(self.net).requires_grad_(False)

    def on_train_batch_end(self, *_):
        with torch.no_grad():
            for q, p in zip(self.target.parameters(), self.net.parameters(), strict=True):
                if q.shape == p.shape:
                    q.lerp_(p, 0.5)


@pytest.mark.filterwarnings("ignore:Frozen copies of layers are converted alike")
@pytest.mark.filterwarnings("ignore:Frozen weights stay dense")
@pytest.mark.parametrize("exclude", [[], ["target.*"]])
def test_frozen_copies_resume_as_they_were_stored(tmp_path, exclude):
    def start():
        return [PruneAtInit("magnitude", 0.1, storage="compact", exclude=exclude)]

    torch.manual_seed(0)
    whole = Momentum()
    fit(tmp_path, start(), whole)
    resumed = Momentum()
    fit(tmp_path, start(), resumed, ckpt_path=tmp_path / "epoch=1.ckpt")
    assert_equal(weights_of(whole), weights_of(resumed))
    stored = {name for name in sparse_weights(resumed) if name.startswith("target")}
    assert stored == (set() if exclude else {"target.0.weight", "target.6.weight"})


def test_arguments_are_compared(tmp_path):
    fit(tmp_path, [PruneAtInit("erk", 0.1, storage="compact")], make_toy(), epochs=1)
    other = [PruneAtInit("erk", 0.2, storage="compact")]
    with pytest.raises(SparsityError, match=r"`density` is 0\.2, but the checkpoint was made with 0\.1"):
        fit(tmp_path, other, make_toy(), ckpt_path=tmp_path / "epoch=0.ckpt", epochs=2)
