"""Mistakes on a command line and in a recipe: a line or two that name the argument and the way out."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from lightning_sparse import data
from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.errors import mistake_in
from lightning_sparse.cli.main import main
from lightning_sparse.cli.places import check_ckpt_path
from lightning_sparse.cli.wording import shorten, unknown_argument
from lightning_sparse.models import ImageClassifier, LeNet300100

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "recipes" / "quickstart.yaml")
OVERLAYS = ROOT / "recipes" / "overlays"
TEXT = Path(QUICKSTART).read_text()
FIT = ["fit", "--config", QUICKSTART, "--trainer.max_epochs=1", "--trainer.logger=false"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-sparse"])


@pytest.fixture
def no_training(monkeypatch):
    def trained(*_):
        raise AssertionError("training started")

    monkeypatch.setattr(data.DigitsDataModule, "train_dataloader", trained)


def error_of(capsys, *words):
    """Return what a command line prints on its way out: one line, and nothing of a traceback."""
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    (line,) = printed[printed.index("error: ") :].strip().splitlines()
    return line.removeprefix("error: ")


def recipe(old="", new="", text=TEXT):
    assert old in text
    Path("recipe.yaml").write_text(text.replace(old, new, 1) if old else text)
    return ["fit", "--config", "recipe.yaml"]


# Names of classes.


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RigL", "RigLCallback"),
        ("rigl", "RigLCallback"),
        ("RigLPruner", "RigLCallback"),
        ("PruneInit", "PruneAtInit"),
        ("SET", "SETCallback"),
        ("SetCallback", "SETCallback"),
        ("IMP", "IterativeMagnitudePruning"),
        ("ASNI", "ASNISigmoidPruner"),
        ("Gradual", "GradualMagnitudePruning"),
        ("DCTpS", "DCTpSConversion"),
        ("Monitor", "SparsityMonitor"),
        ("EarlyStop", "EarlyStopping"),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_a_callback_by_a_part_of_its_name(capsys, name, meant):
    message = f"`trainer.callbacks`: There is no class {name!r}; did you mean {meant}?"
    assert error_of(capsys, *FIT, f"--trainer.callbacks+={name}") == message
    assert error_of(capsys, *recipe("class_path: PruneAtInit", f"class_path: {name}")) == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.net=LeNet300"], "`net`: There is no class 'LeNet300'; did you mean LeNet300100?"),
        (["--model.optimizer=Adm"], "`optimizer`: There is no class 'Adm'; did you mean Adam?"),
        (["--model.optimizer=torch.optim.Adm"], "has no attribute 'Adm'; did you mean Adam?"),
        (["--model.lr_scheduler=StepLr"], "There is no class 'StepLr'; did you mean StepLR?"),
        (["--trainer.logger=TensorboardLogger"], "'TensorboardLogger'; did you mean TensorBoardLogger?"),
        (["--data=DigitDataModule"], "There is no class 'DigitDataModule'; did you mean DigitsDataModule?"),
        (["--model.net=lightning_sparse.models.LeNet300"], "'LeNet300'; did you mean LeNet300100?"),
        (["--trainer.callbacks+=lightning_sparse.RigL"], "'RigL'; did you mean RigLCallback?"),
        (["--model.net=my_nets.Net"], "No module named 'my_nets'. Install its package, or set PYTHONPATH"),
        (["--trainer.callbacks.method=masks.pt"], "{class_path: FromFile, init_args: {file: masks.pt}}"),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_a_misspelt_class(capsys, words, message):
    assert message in error_of(capsys, *FIT, *words)


@pytest.mark.usefixtures("no_training")
def test_a_module_of_this_folder(capsys):
    Path("my_nets.py").touch()
    assert error_of(capsys, *FIT, "--model.net=my_nets.Net").endswith("Set PYTHONPATH=. before the command.")


# Values.


@pytest.mark.parametrize("argument", ["exclude", "include"])
@pytest.mark.usefixtures("no_training")
def test_a_list_that_is_a_text(capsys, argument):
    message = error_of(capsys, *FIT, f"--trainer.callbacks.{argument}=head.weight")
    assert message.startswith(f"`trainer.callbacks` (PruneAtInit): `{argument}` must be ")
    assert message.endswith("a list, got head.weight. Write [head.weight].") or "'head.weight'" in message
    in_recipe = error_of(capsys, *recipe("density: 0.05", f"density: 0.05, {argument}: head.weight"))
    assert in_recipe == message


@pytest.mark.parametrize(
    "base", ["pytorch_lightning.Callback", "lightning.Callback", "lightning.pytorch.Callback"]
)
def test_lightnings_base_class_is_not_what_was_meant(base):
    said = shorten(
        "Parser key \"trainer.callbacks\":\n  Errors:\n    - Problem with given class_path 'my.Own':\n"
        "        Parser key \"exclude\":\n          - Expected a <class 'list'>\n"
        "          Given value: head\n"
        f"    - Problem with given class_path '{base}':\n        Option 'exclude' is not accepted"
    )
    assert said == "`trainer.callbacks` (Own): `exclude` must be a list, got head. Write [head]."


class Chosen:
    def __init__(self, include: Literal["all"] | Sequence[str] | None = None) -> None:
        self.include = include


def test_a_list_or_a_word():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Chosen, "x")
    assert parser.parse_args(["--x.include=all"]).x.include == "all"
    with pytest.raises(Exception, match="head") as caught:
        parser.parse_args(["--x.include=head.weight"])
    said = shorten(str(caught.value))
    assert said == "`x.include` must be 'all' or a list, got 'head.weight'. Write [head.weight]."


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("5%", "got 5%. Write 0.05."),
        ("12.5%", "got 12.5%. Write 0.125."),
        ("0,05", "got 0,05. Write 0.05."),
        ("1/20", "got 1/20. Write 0.05."),
        ("'0.05'", "got '0.05'. Write 0.05 without quotes."),
        ("five", "must be a number, got five."),
        ("%", "must be a number, got %."),
        ("1/0", "must be a number, got 1/0."),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_a_density_in_another_notation(capsys, value, hint):
    assert error_of(capsys, *FIT, f"--trainer.callbacks.density={value}").endswith(hint)


@pytest.mark.usefixtures("no_training")
def test_a_density_of_percents_elsewhere(capsys):
    assert error_of(capsys, *recipe("density: 0.05", "density: 5%")).endswith("got 5%. Write 0.05.")
    overrides = "--trainer.callbacks.density_overrides={net.fcs.0.weight: 50%}"
    message = error_of(capsys, *FIT, overrides)
    assert message.endswith("`density_overrides` must have values, each a number, got 50%. Write 0.5.")
    assert "`density` must be in (0, 1], got 5.0" in error_of(capsys, *FIT, "--trainer.callbacks.density=5")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.max_epochs=1.5"], "`trainer.max_epochs` must be an integer, got 1.5."),
        (["--trainer.gradient_clip_val=abc"], "`trainer.gradient_clip_val` must be a number, got abc."),
        (["--trainer.callbacks.verify=yess"], "`verify` must be true or false, got yess."),
        (["--model.optimizer.lr=fast"], "`optimizer`: `lr` must be a number, got fast."),
        (["--trainer.callbacks.density_overrides=0.1"], "must be a mapping (`{name: value}`), got 0.1."),
        (["--trainer.callbacks+=EarlyStopping"], "(EarlyStopping): It needs a value for monitor."),
        (["--trainer.callbacks.method={class_path: X"], "must be YAML, got {class_path: X. Look at its bra"),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_a_value_of_another_type(capsys, words, message):
    error = error_of(capsys, *FIT, *words)
    assert message in error
    assert "Union" not in error
    assert "<class" not in error


# Abbreviations.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--trainer.max_epoch=5"],
            "There is no argument --trainer.max_epoch; did you mean --trainer.max_epochs?",
        ),
        (
            ["--trainer.max_epoch", "5"],
            "There is no argument --trainer.max_epoch; did you mean --trainer.max_epochs?",
        ),
        (["--seed=1"], "There is no argument --seed; did you mean --seed_everything?"),
        (["--ckpt", "x"], "There is no argument --ckpt; did you mean --ckpt_path?"),
        (["--conf", QUICKSTART], "There is no argument --conf; did you mean --config?"),
        (
            ["--trainer.callbacks.densit", "0.1"],
            "Option 'densit' is not accepted, got 0.1; did you mean density",
        ),
        (["--model.opt.lr=8"], "Option 'opt.lr' is not accepted, got 8; did you mean optimizer?"),
        (["--max_epochs=3"], "There is no argument --max_epochs; did you mean --trainer.max_epochs?"),
        (
            ["trainer.max_epochs=3"],
            "There is no argument trainer.max_epochs; did you mean --trainer.max_epochs?",
        ),
        (["--density=0.1"], "There is no argument --density; did you mean --trainer.callbacks.density?"),
        ([QUICKSTART], f"There is no argument {QUICKSTART}; did you mean --config {QUICKSTART}?"),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_an_argument_is_not_guessed_from_a_part_of_its_name(capsys, words, message):
    assert message in error_of(capsys, *FIT, *words)


def test_plots_have_no_abbreviations_either(capsys):
    assert "--ou plots; did you mean out?" in error_of(capsys, "plot", "asni", "run", "--ou", "plots")


def test_what_is_no_unknown_argument():
    assert unknown_argument("something else", "fit", ["data"]) is None


# Recipes as files.


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("density: 0.05}", "density: 0.05", 17),
        ("  devices: 1", "   devices: 1", 6),
        ("  devices: 1", "\tdevices: 1", 6),
        ("max_epochs: 30", "max_epochs 30", 6),
        ("save_last: true}", "save_last: true]", 13),
    ],
)
def test_bad_yaml_names_its_file_and_line(capsys, old, new, line):
    error = error_of(capsys, *recipe(old, new))
    assert error.startswith(
        f"`--config` must be a recipe, got 'recipe.yaml', which is no YAML at line {line}, "
    )
    overlay = error_of(capsys, "plan", "--config", QUICKSTART, "--config=recipe.yaml")
    assert overlay == error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "which is empty. A recipe begins with `trainer:`"),
        ("# a comment\n", "which is empty."),
        ("- trainer\n- model\n", "which holds a list at its top."),
        ("trainer\n", "which holds one value at its top."),
        (f"{TEXT}\ntrainer:\n  max_epochs: 2\n", "where 'trainer' stands twice, in lines 4 and 26."),
        (
            TEXT.replace("density: 0.05", "density: 0.05, density: 0.1"),
            "where 'density' stands twice, in lines 16",
        ),
    ],
)
def test_recipes_that_hold_something_else(capsys, text, message):
    assert message in error_of(capsys, *recipe(text=text))


@pytest.mark.parametrize("content", [bytes(range(256)), TEXT.encode("utf-16"), b"a: \x01"])
def test_recipes_that_are_no_text(capsys, content):
    Path("recipe.yaml").write_bytes(content)
    assert "which is no text. Save it as UTF-8." in error_of(capsys, "fit", "-c", "recipe.yaml")


def test_recipes_that_are_not_there(capsys):
    Path("recipes").mkdir()
    Path("recipes/mine.yaml").touch()
    assert "which is a folder. Name one in it: mine.yaml." in error_of(capsys, "fit", "--config", "recipes")
    error = error_of(capsys, "fit", "--config=recipes/mien.yaml")
    assert error.endswith("got 'recipes/mien.yaml', which does not exist; did you mean mine.yaml?")
    assert "which names no file" in error_of(capsys, "fit", "--config=")


def test_yaml_of_another_option(capsys):
    Path("trainer.yaml").write_text("max_epochs: [1\n")
    error = error_of(capsys, *FIT, "--trainer", "trainer.yaml")
    assert error.startswith(
        "`--trainer` must be a file in YAML, got 'trainer.yaml', which is no YAML at line 2"
    )


@pytest.mark.parametrize("spaces", [0, 300])  # no name of a file is as long
def test_a_recipe_written_out_on_the_command_line_is_no_file(capsys, spaces):
    model = "{class_path: ImageClassifier, init_args: {net: {class_path: LeNet300100}}}"
    main(["plan", "--config", f"{{model: {spaces * ' '}{model}}}"])
    assert "the net stays dense" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "      init_args: {method",
            "      init_arg: {method",
            "'init_arg' is no key of an entry; did you mean init_args?",
        ),
        (
            "class_path: PruneAtInit",
            "class_pth: PruneAtInit",
            "must be a Callback: its name, or `class_path` and `init",
        ),
        (
            "      init_args: {method: erk, density: 0.05}",
            "      density: 0.05",
            "arguments go under `init_args`.",
        ),
        ("density: 0.05", "density:0.05", "Put a space after its colon."),
        ("  init_args: {batch_size", "init_args: {batch_size", "Look at the indentation."),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_entries_of_another_form(capsys, old, new, message):
    error = error_of(capsys, *recipe(old, new))
    assert message in error
    assert "Union" not in error


# Overlays.


@pytest.mark.parametrize("command", ["plan", "fit"])
@pytest.mark.parametrize("name", ["dense.yaml", "ticket.yaml"])
def test_an_overlay_goes_behind_a_recipe(capsys, command, name):
    overlay = str(OVERLAYS / name)
    error = error_of(capsys, command, "--config", overlay)
    assert f"got {overlay}, which has no `model`. An overlay goes behind a recipe" in error
    assert error.endswith(f"lightning-sparse {command} --config RECIPE --config {overlay}")
    assert "got none" in error_of(capsys, command)


@pytest.mark.parametrize("name", ["dense.yaml", "ticket.yaml"])
def test_an_overlay_before_its_recipe_is_told_of(name):
    with pytest.warns(UserWarning, match=f"{name} are replaced by those of .*quickstart.yaml"):
        main(["plan", "--config", str(OVERLAYS / name), "--config", QUICKSTART])


def test_the_command_comes_first(capsys):
    assert "The command comes first" in error_of(capsys, "--config", QUICKSTART, "fit")


# What is not on this machine.


@pytest.mark.parametrize("folder", ["file", "file/inside"])
@pytest.mark.parametrize(
    "argument", ["trainer.default_root_dir", "trainer.logger.save_dir", "trainer.callbacks.dirpath"]
)
@pytest.mark.usefixtures("no_training")
def test_folders_that_cannot_be_written(capsys, argument, folder):
    Path("file").touch()
    words = [] if "logger" in argument else ["--trainer.logger=false"]
    words += ["--trainer.callbacks+=SparseCheckpoint"] if "dirpath" in argument else []
    error = error_of(capsys, "fit", "--config", QUICKSTART, *words, f"--{argument}={folder}")
    name = argument.rpartition(".")[2]
    assert error.startswith(f"`{name}` must be a folder that can be written, got '{Path.cwd() / folder}'")
    assert error.endswith("Not a directory). Name another.")


def test_a_plan_needs_no_folder(capsys):
    Path("file").touch()
    main(["plan", "--config", QUICKSTART, "--trainer.default_root_dir=file"])
    assert "2,510" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["mps", "tpu"])
@pytest.mark.usefixtures("no_training")
def test_accelerators_that_are_not_here(capsys, name):
    error = error_of(capsys, *FIT, f"--trainer.accelerator={name}")
    assert error.endswith("Set `accelerator` to a device of this machine, or to auto or cpu.")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
@pytest.mark.parametrize("name", ["gpu", "cuda"])
@pytest.mark.usefixtures("no_training")
def test_no_gpu_here(capsys, name):
    assert "Set `accelerator` to a device" in error_of(capsys, *FIT, f"--trainer.accelerator={name}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.max_epochs=-3"], "`max_epochs` must be a non-negative integer or -1. You passed in -3."),
        (
            ["--trainer.devices=0", "--trainer.accelerator=cpu"],
            "Set `devices` to as many as this machine has",
        ),
        (["--trainer.profiler=fooo"], "it can only be one of ['simple', 'advanced', 'pytorch', 'xla']."),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_what_lightning_refuses(capsys, words, message):
    assert message in error_of(capsys, *FIT, *words)


def test_recipes_without_data(capsys):
    error = error_of(capsys, *recipe(text=TEXT[: TEXT.index("data:")]))
    assert error.endswith("Name a data module: `data: {class_path: DigitsDataModule}`.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--model.net.in_features=63"],
            "(32x64 and 63x300). Set its `in_features` to what the data has, or",
        ),
        (["--model.net=LeNet5"], "`model.net` (LeNet5) does not fit the data: Given groups=1"),
        (
            ["--model.net=Conv2", "--model.net.in_channels=1"],
            "`in_channels` and `image_size` to what the data",
        ),
        (["--model.net.num_classes=5"], "is out of bounds. Set its `num_classes` to what the data has"),
        (["--model.optimizer.lr=-1"], "`model.optimizer`: Invalid learning rate: -1.0."),
    ],
)
def test_nets_that_do_not_fit_the_data(capsys, words, message):
    assert message in error_of(capsys, *FIT, *QUIET, *words)


@pytest.mark.parametrize("name", ["ImageFolderDataModule", "MNISTDataModule"])
def test_data_that_is_not_there(capsys, name):
    error = error_of(capsys, *FIT, *QUIET, f"--data={name}", "--data.data_dir=nowhere")
    assert error.startswith("`data_dir` must hold ")
    assert "nowhere" in error


def test_data_that_cannot_be_written(capsys):
    Path("file").touch()
    words = ["--data=MNISTDataModule", "--data.data_dir=file", "--data.download=true"]
    assert "Look at its `data_dir` and `download`." in error_of(capsys, *FIT, *QUIET, *words)


# Checkpoints.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "which is empty."),
        (b"hello", "which is another kind of file."),
        (b"PK\x03\x04 and no more", "which is damaged or cut short"),
    ],
)
@pytest.mark.parametrize("command", ["test", "fit"])
def test_files_that_are_no_checkpoints(capsys, command, content, message):
    Path("x.ckpt").write_bytes(content)
    error = error_of(capsys, command, "--config", QUICKSTART, "--ckpt_path", "x.ckpt")
    assert error.startswith("`ckpt_path` must be a checkpoint, got 'x.ckpt', ")
    assert message in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"net.weight": torch.ones(2)}, "which holds a dict of net.weight."),
        (torch.ones(2), "which holds a Tensor."),
        ({"state_dict": None}, "which holds a dict of state_dict."),
        (
            {"state_dict": {}, "more": Chosen()},
            "`ckpt_path` cannot be read (WeightsUnpickler error: Unsupported",
        ),
    ],
)
def test_other_things_that_torch_saved(capsys, content, message):
    torch.save(content, "x.ckpt")
    assert message in error_of(capsys, "test", "--config", QUICKSTART, "--ckpt_path", "x.ckpt")


def test_folders_as_checkpoints():
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/checkpoints/last.ckpt").touch()
    with pytest.raises(SparsityError, match=r"is a folder. Name one of its files: last\.ckpt\."):
        check_ckpt_path("run")
    with pytest.raises(SparsityError, match="'run/checkpoints', which is a folder"):
        check_ckpt_path("run/checkpoints")
    Path("run/meta.pt").touch()  # what a sharded strategy writes
    check_ckpt_path("run")


def test_a_checkpoint_of_another_net(capsys):
    weights = nn.Module()
    weights.net = LeNet300100(in_features=32)
    torch.save({"state_dict": weights.state_dict(), "pytorch-lightning_version": "2.6.6"}, "x.ckpt")
    dense = ["--config", str(OVERLAYS / "dense.yaml")]
    error = error_of(capsys, "test", "--config", QUICKSTART, *dense, "--ckpt_path", "x.ckpt")
    assert error.startswith(
        "`ckpt_path` must be of the recipe's net, got another's: size mismatch for net.fcs.0"
    )


# Errors that are none of the command line's.


class Users(nn.Module):
    """A net of a user's own, with a mistake in it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 10))

    def forward(self, images):
        return images.flatten(1) @ self.scale


class UsersClassifier(ImageClassifier):
    def training_step(self, batch, batch_idx):
        self.log("loss", torch.ones(2))  # must be one value
        return super().training_step(batch, batch_idx)


class UsersOptimizer(ImageClassifier):
    def configure_optimizers(self):
        raise ValueError("mine")


@pytest.mark.parametrize(
    ("words", "kind", "text"),
    [
        ([f"--model.net={__name__}.Users"], RuntimeError, "shapes cannot be multiplied"),
        (
            [f"--model={__name__}.UsersClassifier", "--model.net=LeNet300100"],
            Exception,
            "a single element",
        ),
        ([f"--model={__name__}.UsersOptimizer", "--model.net=LeNet300100"], ValueError, "mine"),
    ],
)
def test_an_error_in_a_users_code_keeps_its_traceback(words, kind, text):
    words = [*words, "--model.net.in_features=64"] if "LeNet" in words[-1] else words
    dense = ["--config", str(OVERLAYS / "dense.yaml")]
    with pytest.raises(kind, match=text) as caught:
        main([*FIT[:3], *dense, *FIT[3:], *QUIET, *words])
    assert Path(__file__) in [Path(entry.path) for entry in caught.traceback[1:]]


def test_other_errors_are_not_taken_for_mistakes():
    with pytest.raises(AttributeError) as caught:
        LeNet300100()(None)
    assert mistake_in(caught.value) is None
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2, 3) @ torch.ones(2, 3)  # in nobody's net
    assert mistake_in(caught.value) is None


def test_a_check_of_ours_is_shown_as_it_is():
    assert mistake_in(SparsityError("`a` must be b, got c.")) == "`a` must be b, got c."


# What earlier versions and YAML itself make of a recipe.


@pytest.mark.parametrize("line", ["exclude: *head", "exclude: [*.head]"])
def test_patterns_that_start_with_a_star_need_quotes(capsys, line):
    Path("overlay.yaml").write_text(f"trainer:\n  callbacks:\n  - init_args:\n      {line}\n")
    error = error_of(capsys, *FIT, "--config", "overlay.yaml")
    assert "at line 4, column" in error
    assert error.endswith('text that starts with `*` needs quotes, as in ["*head"].')


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ('method: erk, density: ""', "`density` must be a number, got an empty text."),
        ("mask_path: x.pt", "write `method: {class_path: FromFile, init_args: {file: ...}}`."),
        ("weight_init: centroids", "init_args: {file: ..., start: centroids}}`."),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_values_of_prune_at_init(capsys, given, message):
    entry = f"{{class_path: PruneAtInit, init_args: {{{given}}}}}"
    Path("overlay.yaml").write_text(f"trainer:\n  callbacks:\n  - {entry}\n")
    error = error_of(capsys, *FIT, "--config", "overlay.yaml")
    assert error.endswith(message)
    assert "mask_ablation" not in error


@pytest.mark.parametrize("callback", ["[]", "[SparsityMonitor]"])
@pytest.mark.usefixtures("no_training")
def test_a_saved_module_is_no_checkpoint(capsys, callback):
    torch.save(LeNet300100(), "net.pt")
    Path("overlay.yaml").write_text(f"trainer:\n  callbacks: {callback}\n")
    error = error_of(capsys, *FIT, "--config", "overlay.yaml", "--ckpt_path=net.pt")
    assert "LeNet300100" in error
    assert "allowe" not in error  # torch's words are not cut off in the middle of one
