"""The benchmark of exported files: a smoke run."""

import json

import pytest

from benchmarks.speed import export_sizes

pytestmark = pytest.mark.usefixtures("settings_stay")


def test_export_sizes_runs(tmp_path, capsys):
    export_sizes.main(["--smoke", "--threads", "1", "--results", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    figures = {(f["case"], f["name"]): f["value"] for f in content["figures"] if "value" in f}
    assert 1.0 < figures["LeNet-300-100, 0.1", "safetensors / least"] < 1.15
    assert (
        figures["LeNet-300-100, 0.1", "safetensors / dense"] < figures["LeNet-300-100, 0.1", "gzip / dense"]
    )
    assert figures["LeNet-300-100, DCTpS, 0.01", "small / dense"] < 0.05
    assert figures["0.1", "bits per position, entropy"] < figures["0.1", "bits per position, steps"] < 5.1
    assert set(content["samples"]["784 to 300, 1 rows, 0.1"]) == {"dense", "csr", "compact"}
    assert "Smoke run" in capsys.readouterr().out
