"""Runs that were resumed, trained in two fits, never retrained, or validated when they were over."""

import asni_toy
import pytest
from asni_toy import MASKS, RETRAINED, SCHEDULE, SEARCHED, E, asni_state, fixed_state, log, save
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from toy import loader, make_toy, trainer

from lightning_sparse.callbacks import ASNISigmoidPruner
from lightning_sparse.reporting.asni import plots as asni_plots
from lightning_sparse.reporting.asni.report import report_asni
from lightning_sparse.reporting.asni.runs import best, parts_of
from lightning_sparse.reporting.runs import read_run

OTHERS = {name: mask.flip(-1) for name, mask in MASKS.items()}
"""The masks of another seed."""


def parts_in(*folders):
    return [part for folder in folders for part in parts_of(read_run(folder))]


def epochs_of(parts, name="val/acc"):
    return [(part.variant, list(part.curves.get(name, {}))) for part in parts]


def said_of(word, *folders, out):
    return [line for line in report_asni(folders, out) if word in line]


# What is search, what is retraining.


def test_without_a_retraining_all_is_search(tmp_path):
    log(tmp_path / "a", 2 * E, SCHEDULE)
    for epoch in (E - 1, 2 * E - 1):
        save(tmp_path / "a", epoch, SEARCHED, asni_state(epoch + 1, False, reinit=None))
    (search,) = parts_in(tmp_path / "a")
    assert epochs_of([search]) == [("A", list(range(2 * E)))]
    assert (search.checkpoint.epoch, search.finished) == (2 * E - 1, True)
    assert said_of("left out C in accuracy.png", tmp_path / "a", out=tmp_path / "out") == [
        "left out C in accuracy.png: no run with ASNISigmoidPruner and `reinit: centroids` is given."
    ]


def test_a_search_without_a_retraining_may_stop_early(tmp_path):
    save(tmp_path / "a", 0, SEARCHED, asni_state(1, False, reinit=None))
    assert [part.finished for part in parts_in(tmp_path / "a")] == [False]


@pytest.mark.parametrize(
    ("before", "here", "searched", "retrained"),
    [(0, 5, [0, 1, 2], [0, 1]), (1, 4, [1, 2], [0, 1]), (3, 2, [], [0, 1]), (4, 2, [], [1, 2])],
)
@pytest.mark.parametrize("saved", ["when its last epoch ended", "in its last epoch", "after it"])
def test_a_second_fit_goes_on_with_the_epochs_of_the_first(
    tmp_path, before, here, searched, retrained, saved
):
    over = here - (saved == "in its last epoch")
    epoch = here - (saved != "after it")
    ended = over - 1 if over else None
    log(tmp_path / "a", here)
    save(tmp_path / "a", epoch, SEARCHED, asni_state(before + over, True, ended=ended))
    assert epochs_of(parts_in(tmp_path / "a")) == [("A", searched), ("C", retrained)]


def test_a_second_fit_that_is_in_its_first_epoch(tmp_path):
    log(tmp_path / "a", 1)
    save(tmp_path / "a", 0, SEARCHED, asni_state(E + 1, True, ended=None))
    assert epochs_of(parts_in(tmp_path / "a")) == [("A", []), ("C", [1])]


@pytest.mark.filterwarnings("ignore")  # of what two fits in place of one may do
@pytest.mark.parametrize("every_n_train_steps", [None, 3], ids=["epoch end", "every third batch"])
def test_a_real_retraining_in_a_fit_of_its_own(tmp_path, every_n_train_steps):
    asni, module, found = ASNISigmoidPruner(density=0.2, search_epochs=2), make_toy(), []
    for version in range(3):
        logger = CSVLogger(tmp_path, name="", version=version)
        saves = ModelCheckpoint(every_n_train_steps=every_n_train_steps, save_top_k=-1)
        runner = trainer(tmp_path, asni, saves, logger=logger, enable_checkpointing=True)
        runner.fit(module, loader(), loader(2))
        found.append(epochs_of(parts_in(tmp_path / f"version_{version}"), "val_loss"))
    searched, *retrained = found
    assert searched == [("A", [0, 1]), ("C", [])]
    assert retrained == [[("A", []), ("C", [0, 1])], [("A", []), ("C", [2, 3])]]


# Which weights, of several runs and folders.


def resumed(tmp_path, masks=MASKS, name="x"):
    """A run that was killed one epoch into the retraining, and the folder in which it was resumed."""
    killed, to_the_end = tmp_path / name / "version_0", tmp_path / name / "version_1"
    log(killed, E + 1, SCHEDULE)
    save(killed, E - 1, SEARCHED, asni_state(E, False, masks=masks))
    save(killed, E, SEARCHED, asni_state(E + 1, True, masks=masks))
    log(to_the_end, 2 * E, SCHEDULE, first=E + 1)
    save(to_the_end, 2 * E - 1, RETRAINED, asni_state(2 * E, True, masks=masks))
    return killed, to_the_end


def test_of_a_resumed_run_the_furthest_checkpoint_counts(tmp_path):
    killed, to_the_end = resumed(tmp_path)
    for folders in ((killed, to_the_end), (to_the_end, killed)):
        parts = parts_in(*folders)
        assert best(parts, "C").run.folder == to_the_end
        assert best(parts, "A").run.folder == killed
    (line,) = said_of("weights of C", killed, to_the_end, out=tmp_path / "out")
    assert line == (
        f"weights of C from {to_the_end / 'checkpoints' / 'epoch=5.ckpt'}, "
        "the furthest in 2 folders that may be of one run"
    )
    (line,) = said_of("weights of A", killed, to_the_end, out=tmp_path / "out")
    assert line == f"weights of A from {killed / 'checkpoints' / 'epoch=2.ckpt'}"


def test_of_other_seeds_the_first_counts(tmp_path):
    killed, to_the_end = resumed(tmp_path)
    other = resumed(tmp_path, OTHERS, "y")
    assert best(parts_in(killed, *other), "C").run.folder == killed
    assert best(parts_in(killed, *other, to_the_end), "C").run.folder == to_the_end
    assert best(parts_in(*other, killed, to_the_end), "C").run.folder == other[1]


def test_within_an_epoch_the_step_tells_what_is_furthest(tmp_path):
    for name, step in (("x", 43), ("y", 47), ("z", 45)):
        save(tmp_path / name, 4, SEARCHED, asni_state(4, True, ended=3), step=step)
    assert best(parts_in(*(tmp_path / name for name in "xyz")), "C").run.folder.name == "y"


def test_how_far_a_second_fit_is_does_not_depend_on_its_trainer(tmp_path):
    save(tmp_path / "x", E, SEARCHED, asni_state(E + 1, True))
    save(tmp_path / "y", 1, SEARCHED, asni_state(E + 2, True, ended=1))
    assert best(parts_in(tmp_path / "x", tmp_path / "y"), "C").run.folder.name == "y"


def test_a_search_that_goes_on_after_the_last_pruning_counts_where_it_ends(tmp_path):
    for name, masks, epoch in (("x", MASKS, E), ("y", MASKS, E + 2), ("z", OTHERS, E + 3)):
        save(tmp_path / name, epoch - 1, SEARCHED, asni_state(epoch, False, reinit=None, masks=masks))
    assert best(parts_in(*(tmp_path / name for name in "xyz")), "A").run.folder.name == "y"


def test_dense_runs_cannot_be_told_apart(tmp_path):
    asni_toy.search_and_retrain(tmp_path / "ac")
    for name, epoch in (("x", 0), ("y", E), ("z", E)):
        save(tmp_path / name, epoch, asni_toy.DENSE, {})
    (line,) = said_of("weights of D", *(tmp_path / name for name in ("ac", *"xyz")), out=tmp_path / "out")
    assert line == (
        f"weights of D from {tmp_path / 'y' / 'checkpoints' / 'epoch=3.ckpt'}, "
        "the furthest in 3 folders that may be of one run"
    )


def test_fixed_masks_are_told_apart_by_their_masks(tmp_path):
    for name, masks, epoch in (("x", MASKS, 0), ("y", OTHERS, 2), ("z", MASKS, 1)):
        save(tmp_path / name, epoch, RETRAINED, fixed_state(masks))
    assert best(parts_in(*(tmp_path / name for name in "xyz")), "S").run.folder.name == "z"


# Epochs in which nothing was trained.


def fit_and_validate(folder, logger, *callbacks, batches=4, validate=True, ckpt_path=None, **arguments):
    """Train four epochs, then validate the net that they end with."""
    arguments |= {"logger": logger(folder.parent, name="", version=folder.name), "enable_checkpointing": True}
    runner, module = trainer(folder, *callbacks, max_epochs=4, **arguments), make_toy()
    runner.fit(module, loader(batches), loader(2), ckpt_path=ckpt_path)
    if validate:
        runner.validate(module, loader(2), verbose=False)
        runner.test(module, loader(2), verbose=False)
    return folder


@pytest.mark.parametrize("logger", [CSVLogger, TensorBoardLogger])
def test_what_is_validated_after_the_fit_is_no_epoch(tmp_path, logger):
    asni = ASNISigmoidPruner(density=0.2, search_epochs=2)
    sparse = fit_and_validate(tmp_path / "ac", logger, asni)
    dense = fit_and_validate(tmp_path / "d", logger)
    found = parts_in(sparse, dense)
    assert epochs_of(found, "val_loss") == [("A", [0, 1]), ("C", [0, 1]), ("D", [0, 1, 2, 3])]


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize(
    "arguments",
    [
        {"batches": 1},
        {"accumulate_grad_batches": 2},
        {"accumulate_grad_batches": 4},
        {"val_check_interval": 0.5},
        {"log_every_n_steps": 1},
    ],
    ids=str,
)
def test_epochs_that_were_trained_stay(tmp_path, arguments, validate):
    folder = fit_and_validate(tmp_path / "d", CSVLogger, validate=validate, **arguments)
    assert epochs_of(parts_in(folder), "val_loss") == [("D", [0, 1, 2, 3])]


def test_epochs_of_which_nothing_was_logged_are_trained_as_well(tmp_path):
    folder = fit_and_validate(tmp_path / "d", CSVLogger, check_val_every_n_epoch=3)
    assert epochs_of(parts_in(folder), "val_loss") == [("D", [2])]


def test_epochs_after_the_last_checkpoint_stay(tmp_path):
    log(tmp_path / "d", 5)
    save(tmp_path / "d", 2, asni_toy.DENSE, {})
    assert epochs_of(parts_in(tmp_path / "d")) == [("D", [0, 1, 2, 3, 4])]


def test_a_checkpoint_may_count_several_steps_a_batch(tmp_path):
    log(tmp_path / "d", 5)
    save(tmp_path / "d", 3, asni_toy.DENSE, {}, step=2 * 41)
    assert epochs_of(parts_in(tmp_path / "d")) == [("D", [0, 1, 2, 3, 4])]


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_a_resumed_fit_is_validated(tmp_path, batches):
    first = trainer(tmp_path, max_epochs=2, enable_checkpointing=True)
    first.fit(make_toy(), loader(batches))
    ckpt_path = first.checkpoint_callback.best_model_path
    folder = fit_and_validate(tmp_path / "d", CSVLogger, batches=batches, ckpt_path=ckpt_path)
    assert epochs_of(parts_in(folder), "val_loss") == [("D", [2, 3])]


def test_one_epoch_alone_stays(tmp_path):
    log(tmp_path / "d", 1)
    save(tmp_path / "d", 0, asni_toy.DENSE, {})
    assert epochs_of(parts_in(tmp_path / "d")) == [("D", [0])]


# The schedule.


@pytest.fixture
def drawn(monkeypatch):
    """What curves ``schedule.png`` was drawn from."""
    curves, schedule = [], asni_plots.schedule

    def recorded(*pair):
        curves.append(pair)
        return schedule(*pair)

    monkeypatch.setattr(asni_plots, "schedule", recorded)
    return curves


def searched(folder, epochs, at, **state):
    """A finished search over so many epochs, at one sparsity all the time."""
    log(folder, epochs, {"asni/target_sparsity": lambda _: at, "asni/sparsity": lambda _: at})
    save(folder, epochs - 1, SEARCHED, asni_state(epochs, False, search_epochs=epochs, **state))
    return folder


def test_searches_of_other_lengths_are_not_joined(tmp_path, drawn):
    short = searched(tmp_path / "short", 2, 0.25)
    long = searched(tmp_path / "long", 4, 0.5, masks=OTHERS)
    said = report_asni([short, long], tmp_path / "out")
    (curves,) = drawn
    assert curves == ({0: 0.25, 1: 0.25}, {0: 0.25, 1: 0.25})
    assert f"left out {long} in schedule.png: its schedule is not that of {short}." in said


def test_searches_to_other_sparsities_are_not_joined(tmp_path, drawn):
    one = searched(tmp_path / "one", 2, 0.25, path=[7])
    other = searched(tmp_path / "other", 2, 0.5, path=[5], masks=OTHERS)
    said = report_asni([one, other], tmp_path / "out")
    assert drawn[0][1] == {0: 0.25, 1: 0.25}
    assert f"left out {other} in schedule.png: its schedule is not that of {one}." in said


def test_the_schedule_is_that_of_the_net_whose_weights_are_shown(tmp_path, drawn):
    log(tmp_path / "x", 1, SCHEDULE)
    save(tmp_path / "x", 0, SEARCHED, asni_state(1, False, search_epochs=5))
    done = searched(tmp_path / "y", 2, 0.25)
    said = report_asni([tmp_path / "x", done], tmp_path / "out")
    assert drawn[0][1] == {0: 0.25, 1: 0.25}
    assert f"left out {tmp_path / 'x'} in schedule.png: its schedule is not that of {done}." in said


def test_a_resumed_search_is_one_curve(tmp_path, drawn):
    log(tmp_path / "x", 2, SCHEDULE)
    save(tmp_path / "x", 1, SEARCHED, asni_state(2, False))
    log(tmp_path / "y", 2 * E, SCHEDULE, first=2)
    save(tmp_path / "y", 2 * E - 1, SEARCHED, asni_state(2 * E, True))
    said = report_asni([tmp_path / "x", tmp_path / "y"], tmp_path / "out")
    assert drawn == [({0: 0.2, 1: 0.5, 2: 0.5}, {0: 0.1, 1: 0.5, 2: 0.5})]
    assert not [line for line in said if "left out" in line and "schedule.png" in line]
