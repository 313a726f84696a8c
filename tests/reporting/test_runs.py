import sys

import asni_toy
import pytest
import torch
from asni_toy import MASKS, SEARCHED, E, asni_state, fixed_state, log, save
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.packing import pack_masks
from lightning_sparse.reporting.asni.runs import best, masks_of, parts_of
from lightning_sparse.reporting.runs import read_curves, read_run

LOGGERS = [CSVLogger, TensorBoardLogger]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "version_0"


@pytest.mark.parametrize("logger", LOGGERS)
def test_curves_by_epoch(folder, logger):
    log(folder, 3, {"val/loss": lambda e: 2.0**-e}, logger)
    curves = read_curves(folder)
    assert curves["val/loss"] == {0: 1.0, 1: 0.5, 2: 0.25}
    assert curves["val/acc"] == pytest.approx({0: 0.5, 1: 0.6, 2: 0.7})
    assert curves.keys() == {"val/loss", "val/acc"}


@pytest.mark.parametrize("logger", LOGGERS)
def test_the_last_value_of_an_epoch_counts_and_one_without_an_epoch_does_not(folder, logger):
    made = logger(folder.parent, name="", version=folder.name)
    for step, value in enumerate((0.25, 0.5, 0.75)):
        made.log_metrics({"train/loss": value, "epoch": step // 2}, step=step)
    made.log_metrics({"train/loss": 9.0, "train/own": 1.0}, step=7)
    made.finalize("success")
    assert read_curves(folder) == {"train/loss": {0: 0.5, 1: 0.75}}


def test_a_resumed_run_has_several_event_files_in_one_folder(folder):
    for start, epochs in ((0.5, 2), (0.75, 1)):
        log(folder, epochs, start=start, logger=TensorBoardLogger)
    assert read_curves(folder)["val/acc"] == pytest.approx({0: 0.75, 1: 0.6})  # later is right


def test_no_log_is_no_curve(tmp_path):
    assert read_curves(tmp_path) == {}


def test_event_files_need_tensorboard_and_a_table_does_not(folder, monkeypatch):
    log(folder, 1, logger=TensorBoardLogger)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "lightning-sparse\[plots\]"'):
        read_curves(folder)
    log(folder, 1)
    assert read_curves(folder) == {"val/acc": {0: 0.5}}


def test_checkpoints_from_first_to_last(folder):
    for epoch, step in ((10, 110), (9, 100), (10, 105)):
        save(folder, epoch, SEARCHED, {}, step, f"{1000 - step}.ckpt")
    assert [c.step for c in read_run(folder).checkpoints] == [100, 105, 110]


def test_weights_by_plain_names(folder):
    save(folder, 0, {"net._orig_mod.a.weight": torch.ones(2), "net._orig_mod.b.weight": torch.zeros(3)}, {})
    weights = read_run(folder).checkpoints[0].weights(["net.a.weight", "net.c.weight"])
    assert weights.keys() == {"net.a.weight"}
    assert weights["net.a.weight"].tolist() == [1, 1]


def test_checkpoints_that_tell_nothing_are_left_out_and_named(folder):
    save(folder, 1, SEARCHED, {})
    torch.save(
        {"epoch": 2, "global_step": 5, "state_dict": SEARCHED}, folder / "checkpoints" / "weights.ckpt"
    )
    (folder / "checkpoints" / "cut.ckpt").write_bytes(b"PK\x03\x04 cut short")
    run = read_run(folder)
    assert [c.epoch for c in run.checkpoints] == [1]
    assert [reason.split()[0] for reason in run.skipped] == ["cut.ckpt", "weights.ckpt"]
    assert "'callbacks'" in run.skipped[1]


def test_the_name_of_a_run_will_do_if_it_has_one_version(tmp_path):
    save(tmp_path / "version_0", 0, SEARCHED, {})
    assert read_run(tmp_path).folder == tmp_path / "version_0"
    save(tmp_path / "version_1", 0, SEARCHED, {})
    with pytest.raises(ValueError, match=r"which holds 2. Name one, such as .*version_1"):
        read_run(tmp_path)


def test_a_folder_that_is_no_run(tmp_path, folder):
    with pytest.raises(
        ValueError, match=r"`RUN` must be a folder of one run, got .*nowhere'.* nothing there"
    ):
        read_run(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="a file"):
        read_run(tmp_path / "file")
    log(folder, 1)
    with pytest.raises(ValueError, match="has no checkpoint"):
        read_run(folder)


def variants(folder):
    return [part.variant for part in parts_of(read_run(folder))]


def test_variants_are_told_from_callback_states(tmp_path):
    assert variants(asni_toy.dense(tmp_path / "s")) == ["D"]
    assert variants(asni_toy.from_ticket(tmp_path / "d")) == ["S"]
    assert variants(asni_toy.from_ticket(tmp_path / "c", start="centroids")) == ["C"]
    assert variants(asni_toy.search_and_retrain(tmp_path / "e")) == ["A", "C"]
    assert variants(asni_toy.search_and_retrain(tmp_path / "f", reinit="original")) == ["A", "S"]


@pytest.mark.parametrize("name", ["RigLCallback", "IterativeMagnitudePruning", "DCTpSConversion"])
def test_other_methods_are_no_variant(folder, name):
    handed_over = {"PruneAtInit": {"config": {}, "finished": True, "masks": {}}}
    other = {"config": {}} if name == "DCTpSConversion" else {"masks": pack_masks(MASKS)}
    save(folder, 0, SEARCHED, {**handed_over, name: other})
    assert variants(folder) == []


def test_search_and_retraining_are_cut_apart(folder):
    a, c = parts_of(read_run(asni_toy.search_and_retrain(folder)))
    assert a.curves["val/acc"] == pytest.approx({0: 0.5, 1: 0.6, 2: 0.7})
    assert c.curves["val/acc"] == pytest.approx({0: 0.8, 1: 0.9, 2: 1.0})
    assert (a.checkpoint.epoch, c.checkpoint.epoch) == (E - 1, 2 * E - 1)
    assert a.finished
    assert all(torch.equal(mask, MASKS[name]) for name, mask in masks_of(a.checkpoint).items())


def test_the_last_checkpoint_of_each_part_counts(folder):
    for epoch in range(2 * E):
        save(folder, epoch, SEARCHED, asni_state(epoch + 1, restarted=epoch >= E))
    a, c = parts_of(read_run(folder))
    assert (a.checkpoint.epoch, c.checkpoint.epoch) == (E - 1, 2 * E - 1)


def test_a_search_that_is_not_over(folder):
    save(folder, 1, SEARCHED, asni_state(2, restarted=False))
    a, c = parts_of(read_run(folder))
    assert (a.finished, c.checkpoint) == (False, None)


def test_only_the_retrained_net_was_kept(folder):
    save(folder, 2 * E - 1, SEARCHED, asni_state(2 * E, restarted=True))
    a, c = parts_of(read_run(folder))
    assert (a.checkpoint, a.finished) == (None, False)
    assert c.checkpoint is not None


def test_weights_are_those_of_a_finished_search_else_of_the_longest(tmp_path):
    parts = []
    for name, epoch in (("x", 0), ("y", 1), ("z", E - 1), ("zz", E - 1)):
        save(tmp_path / name, epoch, SEARCHED, asni_state(epoch + 1, restarted=False))
        parts += parts_of(read_run(tmp_path / name))
    assert best(parts, "A").run.folder.name == "z"
    assert best(parts[:4], "A").run.folder.name == "y"
    assert best(parts, "C") is None
    assert best(parts, "D") is None


def test_masks_of_a_dense_net(folder):
    save(folder, 0, SEARCHED, {})
    assert masks_of(read_run(folder).checkpoints[0]) == {}
    save(folder, 1, SEARCHED, fixed_state())
    assert masks_of(read_run(folder).checkpoints[1]).keys() == MASKS.keys()


def test_a_table_that_cannot_be_read_is_named(folder):
    log(folder, 3)
    table = folder / "metrics.csv"
    table.write_text(table.read_text().replace("0.5", "0.x", 1))
    with pytest.raises(SparsityError, match=r"`RUN` has a table '.*metrics.csv' whose line 2 cannot be read"):
        read_curves(folder)


def test_a_state_of_another_class_or_version_is_named(folder):
    for state, message in (({"total": 3}, "lacks 'config'"), ("text", "must be a dict, got 'text'")):
        save(folder, 2, SEARCHED, {"ASNISigmoidPruner": state})
        with pytest.raises(SparsityError, match=rf"ASNISigmoidPruner \(epoch=2.*ckpt\) {message}"):
            parts_of(read_run(folder))


def test_flipped_bits_are_named_where_they_are_used(folder):
    """Weights when they are asked for, all else when the run is read."""
    save(folder, 2, SEARCHED, asni_state(3, restarted=False))
    (path,) = folder.rglob("*.ckpt")
    whole, name = path.read_bytes(), next(iter(SEARCHED))
    place = whole.index(SEARCHED[name].numpy().tobytes())
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
    (checkpoint,) = read_run(folder).checkpoints
    with pytest.raises(SparsityError, match=r"`RUN` '.*ckpt' is damaged"):
        checkpoint.weights([name])
    place = whole.index(b"callbacks")
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
    with pytest.raises(
        SparsityError, match=r"which has no checkpoint \(.*ckpt cannot be read: .* is damaged"
    ):
        read_run(folder)
