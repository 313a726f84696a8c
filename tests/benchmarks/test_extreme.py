"""Trainings at extreme densities: ended in time and gone on with, they are as if nobody had ended them."""

import time

import pytest
import torch

from benchmarks.experiments import extreme
from benchmarks.harness import series
from benchmarks.harness.series import read
from lightning_sparse.layers import compact_layers

pytestmark = pytest.mark.usefixtures("settings_stay")


@pytest.mark.parametrize("method", ["EPL", "DCTpS + RigL"])
def test_goes_on_where_time_was_over(method, tmp_path, monkeypatch):
    monkeypatch.setattr(extreme.Mover.__init__, "__defaults__", (3,))
    images = extreme.Images(extreme.noise(), torch.device("cpu"))
    run = extreme.Run("tiny", 0.05, method, 0)

    def train(path, seconds):
        while True:
            training = extreme.Training(run, images, 3, path)
            try:
                return training.net, training.train(time.monotonic() + seconds)
            except extreme.OutOfTime:
                continue

    (whole, said), (parts, again) = train(tmp_path / "whole.pt", 1_000), train(tmp_path / "parts.pt", -1)
    assert said["accuracy"] == again["accuracy"]
    assert said["val"] == again["val"]
    assert said["moved"] == again["moved"]
    assert (said["moved"] > 0) == method.endswith("RigL")
    layers = zip(compact_layers(whole).values(), compact_layers(parts).values(), strict=True)
    assert all(torch.equal(a.values, b.values) and torch.equal(a.indices, b.indices) for a, b in layers)


def test_what_has_no_path_is_not_trained(tmp_path, monkeypatch):
    images = extreme.Images(extreme.noise(), torch.device("cpu"))
    run = extreme.Run("tiny", 0.01, "EPL", 0)
    net = extreme.make(run, images.plain(4), empty=False)
    assert extreme.has_path(net)
    first, last = compact_layers(net).values()
    first.move_(torch.arange(first.nnz))  # all in the first of eight channels of 8 x 8 pixels
    last.move_(torch.arange(last.nnz))
    assert extreme.has_path(net)
    last.move_(64 + torch.arange(last.nnz))
    assert not extreme.has_path(net)
    monkeypatch.setattr(extreme, "make", lambda *_, **__: net)
    record = extreme.Training(run, images, 1, tmp_path / "run.pt").train(0)
    assert record == {"epochs": 0, "accuracy": extreme.CHANCE, "path": False, "error": None}


def test_a_smoke_run_ends_in_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(extreme, "METHODS", ("SynFlow", "DCTpS"))
    extreme.main(["--smoke", "--results", str(tmp_path)])
    assert len(read(tmp_path / "extreme-smoke" / "runs.jsonl")) == 4
    assert "| DCTpS - SynFlow |" in capsys.readouterr().out


def test_another_number_of_epochs_is_another_run(tmp_path):
    path = tmp_path / "runs.jsonl"
    for epochs in (0, 6, 20):
        series.add({"epochs": epochs}, path)
    assert [record["epochs"] for record in extreme._records(path, 20)] == [0, 20]
