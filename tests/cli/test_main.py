import os
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser

from lightning_sparse import callbacks, data, models
from lightning_sparse.callbacks.sparsifier import Sparsifier
from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.errors import refusal_in
from lightning_sparse.cli.main import _has_test_set, _test_if_possible, _to_test, main
from lightning_sparse.cli.places import check_ckpt_path
from lightning_sparse.cli.wording import shorten
from lightning_sparse.trainer.packages import LightningModule, ModelCheckpoint

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "recipes" / "quickstart.yaml")
DENSE = str(ROOT / "recipes" / "overlays" / "dense.yaml")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-sparse"])


def stopped_with(capsys, *words):
    """Return the error of a command line."""
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert stopped.value.code == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return error


def test_quickstart_logs_checkpoints_and_tests(tmp_path, capsys):
    main(["fit", "--config", QUICKSTART, "--trainer.max_epochs", "2"])
    printed = capsys.readouterr().out
    assert "2,510" in printed
    assert "test/acc" in printed
    checkpoint = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)
    kept = sum(int(checkpoint["state_dict"][f"net.fcs.{i}.weight"].count_nonzero()) for i in (0, 2, 4))
    assert kept == 2510


def test_a_fit_that_was_terminated_does_not_end_well(monkeypatch):
    def terminated(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(models.ImageClassifier, "training_step", terminated)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", QUICKSTART, "--trainer.max_epochs", "1"])
    assert stopped.value.code == 128 + signal.SIGTERM


def test_density_from_the_command_line(capsys):
    main(["plan", "--config", QUICKSTART, "--trainer.callbacks.density=0.01"])
    assert "502" in capsys.readouterr().out


def test_dense_overlay(tmp_path, capsys):
    main(["fit", "--config", QUICKSTART, "--config", DENSE, "--trainer.max_epochs", "1"])
    assert "test/acc" in capsys.readouterr().out
    checkpoint = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)
    assert checkpoint["state_dict"]["net.fcs.0.weight"].count_nonzero() == 300 * 64


BEST = ["--trainer.callbacks+=SparseCheckpoint", "--trainer.callbacks.monitor=val/acc"]


def test_fit_tests_the_best_net_where_it_is_kept(tmp_path, capsys, monkeypatch):
    """An optimizer that runs away in the second epoch leaves the first one's net as the best."""
    factors = ["--model.lr_factors", '{"*.bias": 0.1}']
    step = models.ImageClassifier.training_step

    def training_step(self, *batch):
        if self.current_epoch == 1:
            self.net.fcs[4].bias.data[0] += 100
        return step(self, *batch)

    monkeypatch.setattr(models.ImageClassifier, "training_step", training_step)
    best = [*BEST, "--trainer.callbacks.mode=max", "--trainer.callbacks.filename=best"]
    main(["fit", "--config", QUICKSTART, "--trainer.max_epochs", "2", *best, *factors])
    printed = capsys.readouterr().out
    (path,) = tmp_path.rglob("best.ckpt")
    assert f"Tested: the best net by val/acc, {path.relative_to(tmp_path)}\n" in printed
    saved = torch.load(path, weights_only=True)
    assert saved["epoch"] == 0
    assert [group["lr"] for group in saved["optimizer_states"][0]["param_groups"]] == [0.002, 0.0002]
    assert float(re.search(r"test/acc\W+([\d.]+)", printed)[1]) > 0.2  # the last net takes all for zeros


def test_the_last_net_is_tested_where_none_was_sparse_or_chosen():
    kept = callbacks.SparseCheckpoint(monitor="val/acc")
    trainer = SimpleNamespace(fast_dev_run=False, is_global_zero=True, callbacks=[kept])
    with pytest.warns(
        UserWarning, match="kept no net: none was sparse when val/acc was measured. The last net"
    ):
        assert _to_test(trainer) is None
    kept.best_model_path = "best.ckpt"
    assert _to_test(trainer) == "best.ckpt"
    other = ModelCheckpoint(monitor="val/acc")  # by Lightning's own, a net still to be pruned may lead
    other.best_model_path = "dense.ckpt"
    trainer.callbacks = [other]
    assert _to_test(trainer) is None
    trainer.callbacks, trainer.fast_dev_run = [kept], True
    assert _to_test(trainer) is None


def test_fit_resumes_and_tests_from_the_command_line(tmp_path, capsys):
    main(["fit", "--config", QUICKSTART, "--trainer.max_epochs", "1"])
    last = str(next(tmp_path.rglob("last.ckpt")))
    main(["fit", "--config", QUICKSTART, "--trainer.max_epochs", "2", "--ckpt_path", last])
    resumed = next(path for path in tmp_path.rglob("config.yaml") if last in path.read_text())
    capsys.readouterr()
    main(["test", "--config", QUICKSTART, "--ckpt_path", last])
    assert "test/acc" in capsys.readouterr().out
    main(["plan", "--config", str(resumed)])  # what a run has left can be planned, its `ckpt_path` and all
    assert "2,510" in capsys.readouterr().out


def test_plan_trains_nothing_and_names_every_layer(tmp_path, capsys):
    main(["plan", "--config", QUICKSTART])
    printed = capsys.readouterr().out
    for cell in ("net.fcs.0", "300 x 64", "1,045", "2,510", "5.0000%", "nothing here is measured"):
        assert cell in printed
    assert not list(tmp_path.rglob("*.ckpt"))


def test_plan_of_a_dense_net_and_of_a_global_ranking(capsys):
    main(["plan", "--config", QUICKSTART, "--config", DENSE])
    assert "the net stays dense" in capsys.readouterr().out
    arguments = ["--trainer.callbacks.method=magnitude"]
    main(["plan", "--config", QUICKSTART, *arguments])
    printed = capsys.readouterr().out
    assert "by score" in printed
    assert "2,510" in printed


def test_plan_shows_storage_and_flops(capsys):
    """2 m n for each layer, of one image; two thirds more for gradients but for that of the first input."""
    main(["plan", "--config", QUICKSTART])
    printed = capsys.readouterr().out
    assert "masked" in printed
    assert f"{50200 * 8:,}" in printed  # weights and masks
    assert "input 1 x 1 x 8 x 8" in printed
    assert "Forward: 100,400 dense, 5,020 sparse. With backward: 262,800 dense, 12,970 sparse." in printed
    main(["plan", "--config", QUICKSTART, "--trainer.callbacks.storage=compact"])
    printed = capsys.readouterr().out
    assert "compact" in printed
    assert "masked" not in printed.replace("masked weight", "")
    assert f"{2510 * 8:,}" in printed  # values and positions
    recipe = str(ROOT / "recipes" / "mnist" / "lenet300_dctps.yaml")
    main(["plan", "--config", recipe, "--input_size=[2, 1, 28, 28]"])
    printed = capsys.readouterr().out
    assert "dct + compact" in printed
    assert f"{1331 * 8:,}" in printed  # values and positions
    assert "input 2 x 1 x 28 x 28" in printed
    assert f"{2 * 266200 * 2:,} dense" in printed


def test_plan_says_what_fits_no_input(capsys):
    error = stopped_with(capsys, "plan", "--config", QUICKSTART, "--input_size=[1, 3]")
    assert error.startswith(
        "error: `input_size` must be what the net takes, got 1 x 3, which ends in Runtime"
    )
    data = ["--data=SyntheticDataModule", "--data.shape=[3, 8, 8]"]
    main(["plan", "--config", QUICKSTART, *data])
    assert (
        "FLOPs are not counted: `data` must be what the net takes, got 1 x 3 x 8 x 8"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("name", ["RigLCallback", "SETCallback"])
def test_plan_of_moving_supports_counts_only_masks_of_their_own(capsys, name):
    main(["plan", "--config", QUICKSTART, f"--trainer.callbacks+={name}"])
    printed = capsys.readouterr().out
    assert f"{name}: " in printed
    assert printed.count("net.fcs.0") == 1  # in the table of PruneAtInit
    assert "by score" not in printed
    overlay = ["--config", DENSE, f"--trainer.callbacks+={name}", "--trainer.callbacks.density=0.01"]
    main(["plan", "--config", QUICKSTART, *overlay])
    assert "502" in capsys.readouterr().out


def test_method_objects_by_class_path(capsys):
    method = "{class_path: Magnitude, init_args: {allocation: epl}}"
    main(["plan", "--config", QUICKSTART, f"--trainer.callbacks.method={method}"])
    assert "Magnitude(allocation='epl')" in capsys.readouterr().out


# Dotted keys go to the last callback of a recipe, which is PruneAtInit.
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trainer.callbacks+=PruneAtInt"], "There is no class 'PruneAtInt'; did you mean PruneAtInit?"),
        (["--trainer.callbacks.method=snpi"], "must be one of 'random', 'uniform', 'erk'"),
        (["--trainer.callbacks.method=ekr"], "'grasp', 'synflow', got 'ekr'; did you mean erk?"),
        (
            ["--trainer.callbacks.method.class_path=SNIP", "--trainer.callbacks.method.init_args.batches=2"],
            "Option 'batches' is not accepted, got 2; did you mean num_batches?",
        ),
        (
            [
                "--trainer.callbacks.method.class_path=FORCE",
                "--trainer.callbacks.method.init_args.iteration=3",
            ],
            "`trainer.callbacks` (PruneAtInit): `method` (FORCE): "
            "Option 'iteration' is not accepted, got 3; did you mean iterations?",
        ),
        (
            [
                "--trainer.callbacks.method.class_path=SNIP",
                "--trainer.callbacks.method.init_args.num_batches=0",
            ],
            "`num_batches` must be an integer of at least 1, got 0",
        ),
        (
            ["--trainer.callbacks.method.class_path=Snip"],
            "'snip', 'iterative_snip', 'force', 'grasp', 'synflow', got 'Snip'; did you mean snip or SNIP?",
        ),
        (["--trainer.callbacks.method={class_path: snip}"], "'synflow', got 'snip'; did you mean SNIP?"),
        (["--trainer.callbacks.mask_ablation=shufle"], "'invert', got 'shufle'; did you mean shuffle?"),
        (["--trainer.callbacks.density=0"], "`density` must be in (0, 1], got 0"),
        (["--trainer.callbacks.density=1.5"], "`density` must be in (0, 1], got 1.5"),
        (["--trainer.callbacks.density=abc"], "`density` must be a number, got abc."),
        (
            ["--trainer.callbacks.densty=0.1"],
            "Option 'densty' is not accepted, got 0.1; did you mean density?",
        ),
        (
            ["--model.net.in_feature=3"],
            "Option 'in_feature' is not accepted, got 3; did you mean in_features?",
        ),
        (
            ["--model.optimizer.lrr=3"],
            "`optimizer`: Option 'lrr' is not accepted, got 3; did you mean lr?",
        ),
        (["--trainer.callbacks.exclude=[nope]"], "`exclude` pattern 'nope' matches no parameter"),
        (
            ["--trainer.callbacks.exclude=[net.fc.*]"],
            "names here: net.fcs.4.weight, net.fcs.2.weight, net.fcs.0.weight.",
        ),
        (
            ["--trainer.callbacks.density_overrides={net.fcs.0.weight: 1.0}"],
            "`density_overrides` must leave the other 2 layers between",
        ),
        (["--trainer.nope=3"], "There is no argument --trainer.nope (see `lightning-sparse fit --help`)"),
        (
            ["--trainer.max_epchs=3"],
            "There is no argument --trainer.max_epchs; did you mean --trainer.max_epochs?",
        ),
        (
            ["--trianer.max_epochs=3"],
            "There is no argument --trianer.max_epochs; did you mean --trainer.max_epochs?",
        ),
        (["--ckpt_pth=last"], "There is no argument --ckpt_pth; did you mean --ckpt_path?"),
        (
            ["--data.nope=1"],
            "Option 'nope' is not accepted, got 1. DigitsDataModule takes test_fraction, batch_",
        ),
        (["--data=MNISTDataModule", "--data.data_dir=nowhere"], "`data_dir` must hold MNIST"),
        (["--config=nowhere.yaml"], "`--config` must be a recipe, got 'nowhere.yaml', which does not exist."),
        (
            [f"--config={ROOT}/recipes/mnist/lenet300_rgil.yaml"],
            "lenet300_rgil.yaml', which does not exist; did you mean lenet300_rigl.yaml",
        ),
        (
            ["--ckpt_path=nope.ckpt"],
            "`ckpt_path` must be a checkpoint, got 'nope.ckpt', which does not exist.",
        ),
    ],
)
def test_a_mistake_costs_two_lines(capsys, arguments, message, monkeypatch):
    def no_training(*_):
        raise AssertionError("training started")

    monkeypatch.setattr(data.DigitsDataModule, "train_dataloader", no_training)
    error = stopped_with(capsys, "fit", "--config", QUICKSTART, *arguments)
    assert message in error
    assert len(error) < 500


def test_misspelt_options_in_a_recipe(tmp_path, capsys):
    text = Path(QUICKSTART).read_text()
    recipe = tmp_path / "recipe.yaml"
    for word, wrong, message in [
        ("density:", "densty:", "Option 'densty' is not accepted, got 0.05; did you mean density?"),
        (
            "max_epochs:",
            "max_epoch:",
            "There is no argument trainer.max_epoch; did you mean --trainer.max_epochs?",
        ),
    ]:
        recipe.write_text(text.replace(word, wrong))
        assert stopped_with(capsys, "fit", "--config", str(recipe)).endswith(message)


def test_a_value_is_shown_only_where_it_is_sure():
    refused = "Option 'lr' is not accepted"
    assert shorten(f"- {refused}\nGiven value: {{'lr': 0.1}}") == f"{refused}, got 0.1."
    assert shorten(f"- {refused}\nGiven value: {{'lr': 0.1, 'net': {{'lr': 3}}}}") == f"{refused}."


def test_what_follows_a_refused_option_is_kept():
    assert shorten("Option 'lr' is not accepted\nand more") == "Option 'lr' is not accepted. and more."


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_missing_checkpoint_stops_before_data_is_touched(capsys, monkeypatch, command):
    def no_data(*_):
        raise AssertionError("data was touched")

    monkeypatch.setattr(data.DigitsDataModule, "setup", no_data)
    Path("last.ckpt").touch()
    error = stopped_with(capsys, command, "--config", QUICKSTART, "--ckpt_path", "lst.ckpt")
    assert error.endswith("got 'lst.ckpt', which does not exist; did you mean last.ckpt?")


@pytest.mark.parametrize("path", [None, "best", "last", "hpc", "registry:a:b", "s3://a/b.ckpt"])
def test_checkpoints_that_lightning_finds_by_itself(path):
    check_ckpt_path(path)


def test_plan_refuses_masks_as_fit_does(tmp_path, capsys):
    overlay = ["--config", QUICKSTART, "--config", str(ROOT / "recipes" / "overlays" / "ticket.yaml")]
    errors = {stopped_with(capsys, command, *overlay) for command in ("plan", "fit")}
    assert errors == {"error: `file` must be a file, got 'ticket.pt', which does not exist."}
    torch.save({"net.fcs.0.weight": torch.ones(2, 2, dtype=torch.bool)}, "ticket.pt")
    (error,) = {stopped_with(capsys, command, *overlay) for command in ("plan", "fit")}
    assert error.startswith("error: `file` 'ticket.pt' has a mask of shape (2, 2) for 'net.fcs.0.weight'")


def test_a_missing_extra_names_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    with pytest.raises(SystemExit) as stopped:
        main(["fit"])
    assert str(stopped.value.code).startswith(
        "error: `jsonargparse` must be installed for the command line: pip"
    )


def test_an_error_in_training_keeps_its_traceback(monkeypatch):
    def fails(*_):
        raise ValueError("the user's own")

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", fails)
    with pytest.raises(ValueError, match="the user's own"):
        main(["fit", "--config", QUICKSTART])


def test_a_check_that_fails_in_training_costs_a_line_whatever_was_raised_from_it(capsys, monkeypatch):
    def fails(*_):
        try:
            raise SparsityError("`loss` must be finite, got nan. Lower the rate.")
        except SparsityError as error:
            raise RuntimeError("a tool's own words") from error

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", fails)
    error = stopped_with(capsys, "fit", "--config", QUICKSTART)
    assert error == "error: `loss` must be finite, got nan. Lower the rate."


def test_an_error_while_a_refusal_is_handled_is_not_ours():
    refusal = SparsityError("`a` must be b, got c.")
    error = RuntimeError("the user's own")
    error.__context__ = refusal
    assert refusal_in(error) is None
    error.__cause__ = refusal
    assert refusal_in(error) is refusal


def test_a_test_set_made_in_setup_is_found():
    class Late(data.SyntheticDataModule):
        def setup(self, stage="fit"):
            super().setup(stage)
            self.stages = [*getattr(self, "stages", []), stage]

        def test_dataloader(self):
            assert "test" in self.stages
            return super().test_dataloader()

    assert _has_test_set(Late())


def test_a_module_without_a_test_step_is_not_tested(monkeypatch):
    """Lightning would end a fit that went well with an error, though the data has a test set."""
    trainer = SimpleNamespace(
        interrupted=False, fast_dev_run=True, test=lambda *_, **__: pytest.fail("it was tested")
    )
    _test_if_possible(trainer, LightningModule(), data.DigitsDataModule())
    with pytest.raises(pytest.fail.Exception):
        _test_if_possible(trainer, models.ImageClassifier(models.LeNet300100(64)), data.DigitsDataModule())


def test_shorten_keeps_what_it_does_not_know():
    assert shorten("something else") == "something else."


SPARSIFIERS = [name for name in callbacks.__all__ if issubclass(getattr(callbacks, name), Sparsifier)]


@pytest.mark.parametrize("name", [name for name in SPARSIFIERS if name != "SparsityCallback"])
def test_every_argument_has_a_type_a_default_and_a_text_in_the_help(name):
    """Also those that a child hands on to its base as ``**arguments``."""
    parser = ArgumentParser()
    parser.add_class_arguments(getattr(callbacks, name), "x")
    actions = {action.dest.removeprefix("x."): action for action in parser._actions if action.dest != "help"}
    assert {"density", "include", "exclude", "density_overrides"} <= set(actions)
    for argument, action in actions.items():
        text = action.help or ""
        assert len(text) > 20, argument
        assert getattr(action, "_typehint", None) is not Any, argument
        assert "`SparsityCallback` has" not in text, argument


def test_plan_refuses_company_as_fit_does(capsys):
    """Two that would do the same to one net."""
    callbacks_of_both = ["--trainer.callbacks+=RigLCallback", "--trainer.callbacks+=SETCallback"]
    with pytest.raises(SystemExit):
        main(["plan", "--config", QUICKSTART, *callbacks_of_both])
    assert "RigLCallback and SETCallback both change masks during training" in capsys.readouterr().err
