"""The benchmark of adapter files: a smoke run."""

import importlib.util
import json

import pytest

from benchmarks.speed import adapters

pytestmark = pytest.mark.usefixtures("settings_stay")


def test_adapters_runs(tmp_path, capsys):
    adapters.main(["--smoke", "--threads", "1", "--results", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    figures = {(f["case"], f["name"]): f["value"] for f in content["figures"]}
    assert len(figures) == (12 if importlib.util.find_spec("peft") else 8)
    for case in ("64 squared, 0.1", "64 squared, 0.004"):
        assert figures[case, "bytes per number, drawn"] < figures[case, "bytes per number, moved"]
        assert set(content["samples"][case]) == {"write", "read"}
    assert 4.6 < figures["64 squared, 0.1", "the least of them"] < 4.7
    assert figures["64 squared, 0.1", "bits per position"] < 4.8
    assert "Smoke run" in capsys.readouterr().out
