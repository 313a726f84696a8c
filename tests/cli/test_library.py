"""Recipes of the package by their names: found, listed, copied; and what the command line says of itself."""

import logging
import sys
from pathlib import Path

import pytest

from lightning_sparse.checks import SparsityError
from lightning_sparse.cli import library as module
from lightning_sparse.cli.commands import COMMANDS
from lightning_sparse.cli.help import ON_RECIPES
from lightning_sparse.cli.library import find_recipe, library, recipe_file
from lightning_sparse.cli.main import main
from lightning_sparse.cli.recipes import with_files
from lightning_sparse.trainer.packages import cli_module
from lightning_sparse.version import VERSION

LOGGERS = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric", "lightning")
FOLDER = Path(__file__).parents[2] / "recipes"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-sparse"])


def error_of(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert stopped.value.code == 2
    return capsys.readouterr().err.strip().removeprefix("error: ")


def test_every_file_of_the_folder_has_a_name():
    assert {recipe.path for recipe in library().values()} == set(FOLDER.rglob("*.yaml"))
    assert next(iter(library())) == "quickstart"


@pytest.mark.parametrize("recipe", library().values(), ids=lambda recipe: recipe.name)
def test_the_list_has_something_to_say_of_each(recipe):
    assert recipe.summary.endswith(".")
    assert 20 < len(recipe.summary) < 125
    assert bool(recipe.data) != recipe.is_overlay
    assert "recipes/" not in recipe.text  # names, which hold in a wheel too


def test_a_wheel_has_them_within_the_package(tmp_path, monkeypatch):
    inside = tmp_path / "site" / "package" / "recipes"
    inside.mkdir(parents=True)
    (tmp_path / "site" / "recipes").mkdir()  # somebody else's
    monkeypatch.setattr(module, "files", lambda _: tmp_path / "site" / "package")
    assert library() == {}
    (inside / "quickstart.yaml").write_text("# Mine.\ndata: {class_path: DigitsDataModule}\n")
    found = find_recipe("quickstart")
    assert (found.path, found.summary, found.time) == (inside / "quickstart.yaml", "Mine.", "not measured")


@pytest.mark.parametrize("name", ["mnist/lenet300_synflow", "lenet300_synflow"])
def test_a_name_or_its_last_part(name):
    assert find_recipe(name).path == FOLDER / "mnist" / "lenet300_synflow.yaml"
    assert with_files(["fit", "--config", name, f"-c={name}", "--x", name]) == [
        *("fit", "--config", str(FOLDER / "mnist" / "lenet300_synflow.yaml")),
        *(f"-c={FOLDER / 'mnist' / 'lenet300_synflow.yaml'}", "--x", name),
    ]


@pytest.mark.parametrize("name", ["", ".", "/", "mnist", "ynflow", "/quickstart", "nowhere.yaml", "{a: 1}"])
def test_what_is_no_name_stays_as_it_is(name):
    assert recipe_file(name) == name
    with pytest.raises(SparsityError):
        find_recipe(name)


def test_a_file_of_that_name_comes_first_and_a_folder_does_not():
    Path("quickstart").mkdir()
    assert recipe_file("quickstart") == str(FOLDER / "quickstart.yaml")
    Path("quickstart").rmdir()
    Path("quickstart").touch()
    assert recipe_file("quickstart") == "quickstart"


@pytest.mark.parametrize("words", [["plan", "--config"], ["recipes", "show"]])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lenet300_dense", "which may be digits/lenet300_dense or mnist/lenet300_dense."),
        ("quickstrat", "did you mean quickstart?"),
        ("recipes/quickstart.yaml", "did you mean quickstart?"),
        ("mnist/lenet300_rgil", "did you mean mnist/lenet300_rigl"),
        ("lenet300_synflo", "did you mean mnist/lenet300_synflow"),
        ("cifar10/wrn22_rigl", "did you mean rigl/wrn22_rigl"),
        ("dnse", "did you mean overlays/dense?"),
        ("of my own", "lightning-sparse recipes"),
    ],
)
def test_names_that_are_not_one(capsys, words, name, message):
    error = error_of(capsys, *words, name)
    assert repr(name) in error
    assert message in error
    assert len(error.splitlines()) == 1


def test_overlays_are_named_as_they_were_given(capsys):
    error = error_of(capsys, "fit", "--config", "dense")
    assert error.endswith("goes behind a recipe: lightning-sparse fit --config RECIPE --config dense")
    assert error_of(capsys, "fit").endswith("lightning-sparse fit --config quickstart")


def test_a_command_line_of_its_own_process_names_files_for_those_that_lightning_starts(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lightning-sparse", "plan", "--config", "quickstart"])
    main()
    assert sys.argv[1:] == ["plan", "--config", str(FOLDER / "quickstart.yaml")]
    assert "2,510" in capsys.readouterr().out


def test_a_misspelt_word_about_the_whole(capsys):
    assert error_of(capsys, "--versoin").endswith("without a command; did you mean --version?")
    assert "argument [list|copy|show]: invalid choice: 'lsit'" in error_of(capsys, "recipes", "lsit")


def test_the_list_is_of_folders(capsys):
    main(["recipes"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 25
    folders = {recipe.folder for recipe in library().values() if recipe.folder}
    for folder in folders:
        (line,) = (line for line in lines if line.startswith(f"{folder}/ "))
        inside = [recipe for recipe in library().values() if recipe.folder == folder]
        assert line.split()[1] == str(len(inside))
        assert line.endswith(inside[0].about_folder)
        assert inside[0].about_folder
    assert lines[1].split()[:3] == ["quickstart", "1", "Digits"]


def test_the_list_of_all(capsys):
    main(["recipes", "list"])
    lines = capsys.readouterr().out.splitlines()
    overlays = next(i for i, line in enumerate(lines) if line.startswith("Overlays"))
    for name, recipe in library().items():
        (at,) = (i for i, line in enumerate(lines) if line.startswith(f"{name} "))
        assert (at > overlays) == recipe.is_overlay
        assert recipe.summary in lines[at]
        assert recipe.is_overlay or f"  {recipe.time}  " in lines[at]


@pytest.mark.parametrize("folder", ["mnist", "mnist/", "recipes/mnist"])
def test_the_list_of_a_folder(capsys, folder):
    main(["recipes", "list", folder])
    printed = capsys.readouterr().out
    names = {name for name in library() if name.startswith("mnist/")}
    assert {line.split()[0] for line in printed.splitlines() if "/" in line.split(" ")[0]} == names
    assert "Overlays" not in printed


def test_folders_that_are_none(capsys):
    error = error_of(capsys, "recipes", "list", "sweep")
    assert error.startswith("`FOLDER` must be one of asni, ")
    assert error.endswith("got 'sweep'; did you mean sweeps?")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("words", [[], ["list"]])
def test_the_list_is_wrapped_to_a_terminal(capsys, monkeypatch, words):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    main(["recipes", *words])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 120


def test_copies_are_the_file_and_overwrite_nothing_by_themselves(capsys):
    text = (FOLDER / "mnist" / "lenet300_erk.yaml").read_text()
    main(["recipes", "show", "lenet300_erk"])
    assert capsys.readouterr().out == text
    main(["recipes", "copy", "lenet300_erk", "new/a b"])
    assert "lightning-sparse fit --config 'new/a b/lenet300_erk.yaml'" in capsys.readouterr().out
    copy = Path("new/a b/lenet300_erk.yaml")
    assert copy.read_text() == text
    copy.write_text("mine")
    error = error_of(capsys, "recipes", "copy", "lenet300_erk", "new/a b")
    assert error.startswith("`FOLDER` must not hold a lenet300_erk.yaml yet, got 'new/a b'.")
    assert copy.read_text() == "mine"
    main(["recipes", "copy", "lenet300_erk", "new/a b", "--force"])
    assert copy.read_text() == text
    assert "which is a file" in error_of(capsys, "recipes", "copy", "quickstart", str(copy))


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out.startswith(f"lightning-sparse {VERSION} (")


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_has_every_command_on_a_line_of_its_own(capsys, word):
    main([word])
    printed = capsys.readouterr().out
    commands = {**ON_RECIPES, **{name: command.summary for name, command in COMMANDS.items()}}
    for name, summary in commands.items():
        assert [line for line in printed.splitlines() if line.startswith(f"  {name} ") and summary in line]
    assert {*cli_module().LightningCLI.subcommands(), "plan"} == set(ON_RECIPES)


def test_plan_prints_nothing_of_lightning_and_gives_its_loggers_back(capsys):
    class Kept(logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())

    said, handler = [], Kept()
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        main(["plan", "--config", "quickstart"])
        assert said == []
        assert [logger.level for logger in loggers] == before
        main(["validate", "--config", "quickstart", "--config", "dense", "--trainer.logger=false"])
        assert any("GPU available" in line for line in said)
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    assert capsys.readouterr().out.startswith("PruneAtInit: ")
