"""The benchmarks of hyperplanes: smoke runs. Nothing is timed."""

import json

import pytest

from benchmarks.experiments import hyperplane as trainings
from benchmarks.speed import hyperplane as steps

pytestmark = pytest.mark.usefixtures("settings_stay")


def test_steps_are_timed_beside_dense_ones(tmp_path):
    steps.main(["--smoke", "--threads", "1", "--results", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    figures = json.loads(path.read_text())["figures"]
    kept = next(figure for figure in figures if figure["name"] == "MiB kept of U")
    assert kept["value"] == pytest.approx(4 * 8 * 61_510 / 2**20)


def test_trainings_are_not_repeated(tmp_path, capsys):
    options = ["--smoke", "--budgets", "8", "--rates", "0.01", "0.1", "--results", str(tmp_path)]
    trainings.main(options)
    (path,) = tmp_path.iterdir()
    first = path.read_text()
    assert [json.loads(line)["rate"] for line in first.splitlines()] == [0.01, 0.1]
    trainings.main(options)
    assert path.read_text() == first
    assert "| trained numbers | Adam 0.01 | Adam 0.1 |" in capsys.readouterr().out
