"""One table of all bars: what is run, what is left out, and what of it is shown."""

import json

import pytest

from benchmarks.speed import bars
from benchmarks.speed.bars import Benchmark

pytestmark = pytest.mark.usefixtures("settings_stay")
FIGURES = [
    {"case": "big", "name": "ours", "against": "dense", "at_most": 0.5, "verdict": "met"}
    | {"wall": {"median": 0.7}, "cpu": {"median": 0.4}},
    {"case": "big", "name": "bytes", "value": 12.0, "at_most": 10.0, "verdict": "missed"},
    {"case": "small", "name": "no bar", "value": 1.0, "at_most": None, "verdict": "-"},
]


def write(folder, threads):
    folder.mkdir()
    content = {"options": {"threads": threads}, "figures": FIGURES}
    (folder / "compact-1.json").write_text(json.dumps(content))


@pytest.mark.parametrize(("threads", "ours"), [(1, "ours / dense: 0.4"), (2, "ours / dense: 0.7")])
def test_figures_with_bars_are_shown_by_the_clock_that_decides(tmp_path, threads, ours):
    write(tmp_path / "run", threads)
    assert list(bars.rows(tmp_path / "run")) == [
        ("compact", "big", ours, "0.5", "met"),
        ("compact", "big", "bytes: 12", "10", "missed"),
    ]


def test_an_earlier_run_is_shown_again(tmp_path, capsys):
    write(tmp_path / "run", 1)
    bars.main(["--threads", "1", "--show", str(tmp_path / "run")])
    assert "ours / dense: 0.4" in capsys.readouterr().out


def test_one_that_fails_is_named_and_one_without_its_packages_left_out(tmp_path, capfd, monkeypatch):
    found = {
        "adapters": Benchmark("benchmarks.speed.adapters"),
        "lacking": Benchmark("benchmarks.speed.adapters", ("no_such_package",)),
        "broken": Benchmark("benchmarks.speed.no_such_benchmark"),
    }
    monkeypatch.setattr(bars, "BENCHMARKS", found)
    with pytest.raises(SystemExit, match="ended in an error: broken"):
        bars.main(["--threads", "1", "--smoke", "--rounds", "5", "--results", str(tmp_path)])
    assert "lacking is left out: it needs no_such_package" in capfd.readouterr().out
    assert len(list(tmp_path.glob("bars-*/adapters-*.json"))) == 1
