"""The benchmark of compact layers: smoke runs with rivals and without, and what counts. Nothing is timed."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.speed import compact
from benchmarks.speed.dctps_forms import compact_form, linear_case

pytestmark = pytest.mark.usefixtures("settings_stay")


class Rival(nn.Linear):
    def __init__(self, inputs, outputs, sparsity):
        super().__init__(inputs, outputs)
        assert 0 < sparsity < 1


@pytest.fixture
def no_rivals(monkeypatch):
    for package in ("sparselab", "peft"):
        monkeypatch.setitem(sys.modules, package, None)


def run(tmp_path, *options):
    compact.main([*options, "--smoke", "--threads", "1", "--results", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    return json.loads(path.read_text())["figures"]


def test_it_runs_without_rivals_and_says_so(tmp_path, capsys, no_rivals):
    figures = run(tmp_path)
    assert {f["at_most"] for f in figures} == {None, 0.5, 0.9, 0.18, 1.15, 60.0} - (
        set() if any("peak" in f["name"] for f in figures) else {60.0}
    )
    said = capsys.readouterr().out
    assert "Left out: sparselab, since sparselab is not installed" in said
    assert "Left out: LoRA and SHiRA, since peft is not installed" in said


def test_a_rival_runs_beside_ours(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sparselab", SimpleNamespace(SparseLinear=Rival))
    figures = run(tmp_path, "linear")
    bars = {(f["name"], f["against"]): f["at_most"] for f in figures}
    assert bars == {
        ("auto", "dense"): 0.5,
        ("sparselab", "dense"): None,
        ("auto", "sparselab"): 1.0,
        ("auto", "sparselab, in order"): 1.0,
    }


def test_sections_are_chosen(tmp_path, no_rivals, capsys):
    assert {f["name"] for f in run(tmp_path, "memory")} == {"bytes kept / dense"}
    with pytest.raises(SystemExit):
        compact.main(["steps"])
    assert "`sections` must be among linear, step, memory, tuning, got 'steps'" in capsys.readouterr().err


def test_all_bytes_count():
    """Of a dense layer weight, gradient and two moments; of ours also positions, in three short orders."""
    case = linear_case(64, 48, rows=2)
    x = torch.randn(case.input_size, requires_grad=True)
    steps = 2 * 4  # Adam's count of steps for each of two parameters
    assert compact.bytes_after_a_step(case.make(), x) == 16 * (64 * 48 + 48) + steps
    layer = compact_form(case.make, 0.2, "transform", "none")
    starts = 4 * (48 + 1) + 4 * (64 + 1)
    caches = (2 + 2 + 4) * layer.nnz + starts
    assert compact.bytes_after_a_step(layer, x) == 20 * layer.nnz + 16 * 48 + steps + caches
