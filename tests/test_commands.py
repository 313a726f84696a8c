"""Every command line of README and docs is one: options and names are known, and what is cheap runs."""

import argparse
import contextlib
import importlib
import inspect
import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml
from commands import ROOT, lines
from packaging.requirements import Requirement

from lightning_sparse.cli.commands import COMMANDS
from lightning_sparse.cli.help import ON_RECIPES
from lightning_sparse.cli.library import recipe_file
from lightning_sparse.cli.main import main

FOUND = lines()
OURS = [line for line in FOUND if line.words[0] == "lightning-sparse"]
MODULES = [line for line in FOUND if line.words[:2] == ["python", "-m"]]
SCRIPTS = [line for line in FOUND if line.words[:2] == ["python", "train.py"]]
BASH = [line for line in FOUND if line.words[0] == "bash" and line.words[1:2] != ["-c"]]
PIP = [line for line in FOUND if line.words[:2] == ["pip", "install"]]
RUNS = "runs/quickstart"
HERE = ("quickstart.yaml", "sweep.yaml")
SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.enable_progress_bar=false"]


class ParsedError(Exception):
    """Raised in the place of what a program does once its words are parsed."""


@contextlib.contextmanager
def only_parsing(monkeypatch):
    """Stop every program where it has parsed its words, which it has to do."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(ParsedError):
        yield


@contextlib.contextmanager
def leaving_out(capsys, monkeypatch):
    """The same, but that an argument may be missing."""
    try:
        with only_parsing(monkeypatch):
            yield
    except SystemExit:
        assert "arguments are required" in capsys.readouterr().err


def filled(words):
    """Put names in the place of what a reader, or a shell, fills in."""
    names = {"<run>": f"{RUNS}/version_0", "<folder>": "data", "$seed": "0", "$SLURM_ARRAY_TASK_ID": "1"}
    return [re.sub("|".join(map(re.escape, names)), lambda name: names[name[0]], word) for word in words]


def is_cheap(words):
    """Tell whether a command takes a second or two: it trains nothing, or the quickstart for a step."""
    command, *others = words
    if "--help" in words or command == "recipes" or others == ["sweeps/digits", "--dry-run"]:
        return True
    if command in ON_RECIPES:
        return others in (
            ["--config", "quickstart"],
            ["--config", "quickstart", "--config", "overlays/dense"],
            ["--config", "quickstart.yaml"],
        )
    return others[:1] in ([RUNS], [f"{RUNS}/version_0"], ["quickstart"]) and "--compare" not in words


CHEAP = [line for line in OURS if is_cheap(filled(line.words[1:]))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of a reader who has run the quickstart for a moment, and copied its recipe."""
    here = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        main(["fit", "--config", "quickstart", *SHORT])
        main(["recipes", "copy", "quickstart"])
    sweep = re.search(r"```yaml\n(recipe:.*?)```", (ROOT / "docs" / "sweeps.md").read_text(), flags=re.DOTALL)
    (here / "sweep.yaml").write_text(sweep[1])
    (here / "benchmarks").symlink_to(ROOT / "benchmarks")
    return here


def show(line):
    return f"{line.page}: {line.text}"


@pytest.mark.parametrize("line", CHEAP, ids=show)
def test_cheap_commands_run(line, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    words = filled(line.words[1:])
    if words[:3] == ["recipes", "copy", "quickstart"]:
        (folder / "quickstart.yaml").unlink()
    short = [*SHORT, "--trainer.logger.save_dir=others"] if words[0] == "fit" else []
    if "--help" in words:
        with pytest.raises(SystemExit, match="0"):
            main(words)
    else:
        main([*words, *short])
    assert capsys.readouterr().out.strip()


def with_recipe_of_page(line, words):
    """Write the recipe that a page shows for a net of the reader's; the quickstart's net takes its place."""
    for own in [word for word in words if re.fullmatch(r"\w+\.yaml", word) and word not in HERE]:
        blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / line.page).read_text(), flags=re.DOTALL)
        (recipe,) = [block for block in blocks if f"class_path: {Path(own).stem}." in block]
        shown = {key: value for key, value in yaml.safe_load(recipe).items() if key not in ("model", "data")}
        Path(own).write_text(yaml.safe_dump(shown))
        words = ["--config", "quickstart", *words]
    return words


@pytest.mark.parametrize("line", [line for line in OURS if line not in CHEAP], ids=show)
def test_other_commands_are_parsed(line, folder, monkeypatch, capsys):
    """By the parsers that would run them, with the recipes and sweeps they name."""
    monkeypatch.chdir(folder)
    command, *others = filled(line.words[1:])
    if not others:
        assert command in {*COMMANDS, *ON_RECIPES}
    elif command in ON_RECIPES:
        if any(word.startswith("bolts/") for word in others):
            pytest.importorskip("pl_bolts")
        others = with_recipe_of_page(line, others)
        with pytest.raises(SystemExit) as stopped:
            main([command, *others, "--print_config"])
        assert not stopped.value.code, capsys.readouterr().err
    else:
        with only_parsing(monkeypatch) if not line.is_mention else leaving_out(capsys, monkeypatch):
            main([command, *others])
        if command in ("sweep", "diagnose"):
            assert recipe_file(others[0], "RECIPE") is not None
            assert (folder / recipe_file(others[0], "RECIPE")).is_file(), others[0]


@pytest.mark.parametrize("line", MODULES, ids=show)
@pytest.mark.usefixtures("settings_stay")
def test_modules_are_there_and_know_their_options(line, monkeypatch):
    name, *others = filled(line.words[2:])
    if name in ("venv", "build", "twine"):
        return
    if name == "pytest":
        assert all((ROOT / path).exists() for path in others)
        return
    spec = importlib.util.find_spec(name)
    module = importlib.import_module(f"{name}.__main__" if spec.submodule_search_locations else name)
    needed = [p for p in inspect.signature(module.main).parameters.values() if p.default is p.empty]
    if needed:
        assert len(others) == len(needed)
        return
    monkeypatch.setattr(sys, "argv", [name, *others])
    with only_parsing(monkeypatch):
        module.main()


@pytest.mark.parametrize("line", SCRIPTS, ids=show)
def test_programs_of_a_page_know_their_options(line, tmp_path, monkeypatch, capsys):
    """By LightningCLI, which the page's Python block makes."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / line.page).read_text(), flags=re.DOTALL)
    (program,) = [block for block in blocks if "LightningCLI(" in block]
    (tmp_path / "train.py").write_text(program)
    monkeypatch.setattr(sys, "argv", [*line.words[1:], "--print_config"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(tmp_path / "train.py"), run_name="__main__")
    assert not stopped.value.code, capsys.readouterr().err


def test_shell_scripts_are_there():
    assert BASH
    for line in BASH:
        assert (ROOT / line.words[1]).is_file(), line


@pytest.mark.parametrize("line", PIP, ids=show)
def test_what_pip_is_told_to_install_is_there(line):
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    words = line.words[2:]
    for before, word in zip(["", *words], words, strict=False):
        if before == "-r":
            assert (ROOT / word).is_file()
        elif not word.startswith("-"):
            wanted = Requirement(re.sub(r"^\.", project["name"], word))
            if wanted.name == project["name"]:
                assert wanted.extras <= set(project["optional-dependencies"])


def test_the_commands_were_found():
    """A pattern that found none of a kind would let the tests above pass."""
    assert {line.words[1] for line in CHEAP} >= {
        "fit",
        "plan",
        "recipes",
        "summary",
        "report",
        "export",
        "diagnose",
    }
    assert {line.words[1] for line in OURS} <= {*COMMANDS, *ON_RECIPES, "--help", "--version"}
    assert min(len(CHEAP), len(OURS) - len(CHEAP), len(MODULES)) > 10
    assert PIP
