"""The benchmark of what is stored: a smoke run, whose bytes are worked by hand."""

import json
import os

import torch

from benchmarks.speed import storage

WEIGHTS, REST = 8 * 3 * 9 + 10 * 512, 8 + 8 + 10  # a convolution and a linear layer; norm and bias
KEPT = 53  # 1% of 5,336


def test_bytes_of_a_tiny_net(tmp_path, capsys):
    before = dict(os.environ)
    storage.main(["--smoke", "--only", "masked", "compact", "--results", str(tmp_path)])
    assert not torch.distributed.is_initialized()
    assert dict(os.environ) == before
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text())["bytes"]
    assert list(found) == ["dense", "masked", "compact"]
    dense, masked, compact = found.values()
    full, few = 4 * (WEIGHTS + REST), 4 * (KEPT + REST)
    steps = {"dense": 5, "compact": 5}  # Adam counts the steps of each parameter, in 4 bytes
    assert [dense[name] for name in ("parameters", "gradients", "reduced")] == [full] * 3
    assert [compact[name] for name in ("parameters", "gradients", "reduced")] == [few] * 3
    assert dense["optimizer"] == 2 * full + 4 * steps["dense"]
    assert compact["optimizer"] == 2 * few + 4 * steps["compact"]
    assert (dense["positions"], masked["positions"], compact["positions"]) == (0, 4 * WEIGHTS, 4 * KEPT)
    assert masked["reduced"] == full
    assert compact["checkpoint"] < dense["checkpoint"] < masked["checkpoint"]
    said = capsys.readouterr().out
    assert all(row in said for row in storage.ROWS)
    assert f"({few / full:.4f})" in said


def test_memory_counts_once():
    base = torch.zeros(10)
    assert storage.nbytes([base, base[2:], torch.zeros(3)]) == 52
    marker = torch.zeros(7)
    assert any(tensor is marker for tensor in storage.alive())
