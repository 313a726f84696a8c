import importlib
import sys

import asni_toy
import pytest

from lightning_sparse.cli.commands import COMMANDS
from lightning_sparse.cli.main import main
from lightning_sparse.reporting import REPORT_PAGES
from lightning_sparse.reporting.asni import report

cli = importlib.import_module("lightning_sparse.cli.main")  # the package has a function of that name


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-sparse"])


@pytest.fixture
def no_lightning_cli(monkeypatch):
    def fails():
        raise AssertionError("LightningCLI was loaded")

    monkeypatch.setattr(cli, "cli_module", fails)


def stopped_with(capsys, *words):
    """Return the one line that a mistake costs."""
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.usefixtures("no_lightning_cli")
def test_plots_land_beside_the_run(tmp_path, capsys):
    asni_toy.search_and_retrain(tmp_path / "runs" / "ac" / "version_0")
    asni_toy.dense(tmp_path / "runs" / "d" / "version_0")
    main(["plot", "asni", "runs/ac", "runs/d/version_0"])
    printed = capsys.readouterr().out.splitlines()
    assert "wrote runs/ac/version_0/plots/accuracy.png" in printed
    assert "left out S in accuracy.png: no run with PruneAtInit is given." in printed
    assert (tmp_path / "runs/ac/version_0/plots/layers.csv").is_file()


@pytest.mark.usefixtures("no_lightning_cli")
def test_the_words_of_the_shell_are_read(tmp_path, capsys, monkeypatch):
    asni_toy.search_and_retrain(tmp_path / "ac")
    words = ["plot", "asni", "ac", "--out", "here/there", "--metric", "sparsity/net.a"]
    monkeypatch.setattr(sys, "argv", ["lightning-sparse", *words])
    main()
    assert (tmp_path / "here" / "there" / "accuracy.png").is_file()
    assert not (tmp_path / "ac" / "plots").exists()
    assert "left out A in accuracy.png" not in capsys.readouterr().out


@pytest.mark.usefixtures("no_lightning_cli")
def test_help_names_the_options(capsys):
    for words in (["plot", "--help"], ["plot", "asni", "--help"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for word in ("asni", "RUN", "--out", "--metric", "val/acc"):
        assert word in printed


def test_general_help_mentions_plot(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "`lightning-sparse plot KIND RUN...`: Draws" in " ".join(capsys.readouterr().out.split())


def test_no_command_or_an_unknown_one_names_them_all(capsys):
    names = ", ".join(["fit", "validate", "test", "predict", "plan", *COMMANDS])
    line = stopped_with(capsys)
    assert line.startswith(f"error: the command must be one of {names}, got none")
    line = stopped_with(capsys, "plto", "asni")
    assert line.startswith(f"error: the command must be one of {names}, got")
    assert line.endswith("got 'plto'; did you mean plot?")


@pytest.mark.usefixtures("no_lightning_cli")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rigl"], "error: argument KIND: invalid choice: 'rigl' (choose from"),
        ([], "error: the following arguments are required: KIND"),
        (["asni"], "error: the following arguments are required: RUN"),
        (["asni", "d", "--nope"], "error: unrecognized arguments: --nope"),
        (["asni", "nowhere"], "error: `RUN` must be a folder of one run, got 'nowhere': nothing there."),
        (["asni", "empty"], "error: `RUN` must be a folder of one run, with logs and checkpoints"),
        (["asni", "d"], "error: `RUN` must name a run with ASNISigmoidPruner or PruneAtInit, got none"),
        (["asni", "ac", "--out", "file"], "error: [Errno 17] File exists: 'file'"),
    ],
)
def test_mistakes(tmp_path, capsys, words, message):
    asni_toy.dense(tmp_path / "d")
    asni_toy.search_and_retrain(tmp_path / "ac")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert stopped_with(capsys, "plot", *words).startswith(message)


def test_a_damaged_mask_is_an_error(tmp_path, capsys):
    state = asni_toy.asni_state(3, restarted=False)
    state["ASNISigmoidPruner"]["masks"]["net.a.weight"]["crc32"] += 1
    asni_toy.save(tmp_path / "ac", 2, asni_toy.SEARCHED, state)
    assert "mask of 'net.a.weight' is corrupt" in stopped_with(capsys, "plot", "asni", "ac")


def test_an_error_of_ours_keeps_its_traceback(tmp_path, monkeypatch):
    def fails(*_):
        raise ValueError("a bug")

    monkeypatch.setattr(report, "report_asni", fails)
    with pytest.raises(ValueError, match="a bug"):
        main(["plot", "asni", "ac"])


def test_a_missing_extra_names_the_pip_command(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as stopped:
        main(["plot", "asni", "ac"])
    assert str(stopped.value.code).endswith(
        'for plots: pip install ".[recipes]" in a checkout, else pip install "lightning-sparse[recipes]"'
    )


PLUGIN = """
from dataclasses import dataclass, field
from lightning_sparse.checks import SparsityError
from lightning_sparse.reporting import ReportPage, register_page

@register_page
@dataclass(frozen=True)
class Listed(ReportPage):
    \"\"\"List runs under numbers.\"\"\"

    name = "listed"
    summary = "runs under numbers"
    usual_folder = "here"
    first_number: int = field(default=1, metadata={"help": "number of the first run"})

    def write(self, runs, out):
        if self.first_number < 0:
            raise SparsityError("`first_number` must be 0 or more.")
        return [f"{number} {run} {out}" for number, run in enumerate(runs, self.first_number)]
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Install a package that brings a page of its own."""
    (tmp_path / "listed_pages.py").write_text(PLUGIN)
    installed = tmp_path / "listed_pages-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: listed_pages\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[lightning_sparse]\npages = listed_pages\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    REPORT_PAGES.pop("listed", None)
    sys.modules.pop("listed_pages", None)


@pytest.mark.usefixtures("no_lightning_cli", "plugin")
def test_a_page_of_another_package(capsys):
    main(["plot", "listed", "a", "b", "--first-number", "3", "--out", "there"])
    assert capsys.readouterr().out.splitlines() == ["3 a there", "4 b there"]
    line = stopped_with(capsys, "plot", "listed", "a", "--first-number=-1")
    assert line == "error: `first_number` must be 0 or more."
    assert "invalid int value: 'x'" in stopped_with(capsys, "plot", "listed", "a", "--first-number", "x")
    for words in (["plot", "--help"], ["plot", "listed", "--help"]):
        with pytest.raises(SystemExit):
            main(words)
    printed = capsys.readouterr().out
    for text in ("runs under numbers", "List runs under numbers.", "number of the first run; default: 1"):
        assert text in printed


@pytest.mark.usefixtures("plugin")
def test_a_page_whose_name_is_taken_costs_a_line(tmp_path, capsys):
    (tmp_path / "listed_pages.py").write_text(PLUGIN.replace('"listed"', '"asni"'))
    line = stopped_with(capsys, "plot", "asni", "a")
    assert line.startswith("error: `name` must be new, got 'asni', which is lightning_sparse.reporting.asni")


def test_without_the_package_there_is_no_such_page(capsys):
    assert "invalid choice: 'listed'" in stopped_with(capsys, "plot", "listed", "a")
