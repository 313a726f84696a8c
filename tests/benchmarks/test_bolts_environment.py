"""The environment of lightning-bolts: what is skipped, what is a failure, and what it does not touch."""

import subprocess
import sys

import pytest

from benchmarks.bolts import environment

UNREACHABLE = """  error: subprocess-exited-with-error
  ╰─> [2 lines of output]
      ERROR: Could not find a version that satisfies the requirement hatchling (from versions: none)
      ERROR: No matching distribution found for hatchling
note: This error originates from a subprocess, and is likely not a problem with pip."""
CONFLICT = "ERROR: ResolutionImpossible: for help visit https://pip.pypa.io"

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="NumPy 1.23.5 is for Python 3.11 and earlier"
)


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Run the command with a pip that says something, and without what takes long."""

    def run(said="", status=0, folder=tmp_path / "environment"):
        monkeypatch.setattr(sys, "argv", ["environment", str(folder), "python", "-c", "pass"])
        monkeypatch.setattr(environment.venv, "create", lambda folder, **_: folder.mkdir(exist_ok=True))
        monkeypatch.setattr(environment, "share", lambda _: None)

        def ended(words, **_):
            installs = "install" in words
            return subprocess.CompletedProcess(words, int(bool(said)) if installs else status, "", said)

        monkeypatch.setattr(environment.subprocess, "run", ended)
        return environment.main()

    return run


def test_without_an_index_the_reason_is_printed(command, capsys, tmp_path):
    assert command(UNREACHABLE) == 0
    assert "skipped" in (printed := capsys.readouterr().out)
    assert "No matching distribution found for hatchling" in printed
    assert "note:" not in printed
    assert not (tmp_path / "environment").exists()


@pytest.mark.parametrize("said", [CONFLICT, "the build of lightning-sparse failed"])
def test_packages_that_cannot_be_installed_are_a_failure(said, command, capsys):
    assert command(said) == 1
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("status", [0, 1, -9])
def test_the_status_is_that_of_the_command(status, command):
    assert command(status=status) == status
    assert command("no index is asked again: No matching distribution found", status) == status


def test_a_folder_with_other_files_stays_as_it_is(command, capsys, tmp_path):
    (tmp_path / "thesis.tex").write_text("of years")
    assert command(folder=tmp_path) == 2
    assert command(folder=tmp_path / "thesis.tex") == 2
    assert (tmp_path / "thesis.tex").read_text() == "of years"
    assert "must be new, empty or built by this" in capsys.readouterr().out
