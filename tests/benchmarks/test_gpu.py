"""What runs on a GPU, tried on the CPU: every section, the table, and what happens when a section fails."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.harness import device as on_device
from benchmarks.harness.device import by_events, peak_on, tf32, timed_on
from benchmarks.harness.runner import Sample
from benchmarks.speed.gpu import layers, numerics, rows, sections, suite, table
from benchmarks.speed.gpu.__main__ import main
from benchmarks.speed.gpu.passes import Cell, Passes
from benchmarks.speed.gpu.rows import Bench, row_of, share_row, value_row
from benchmarks.speed.gpu.sections import SECTIONS, Section

pytestmark = pytest.mark.usefixtures("settings_stay")
CPU = torch.device("cpu")

TESTS = """
import time, pytest
def test_passes(): pass
def test_fails(): assert False
def test_is_skipped(): pytest.skip("as told")
"""


@pytest.fixture
def test_file(tmp_path):
    path = tmp_path / "test_made.py"
    path.write_text(TESTS.replace("assert False", "pass"))
    return path


def as_section(monkeypatch, name, measure, needs=()):
    """Register a section that measures in this way."""
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(measure=measure))
    monkeypatch.setitem(SECTIONS, name, Section(name, needs))


def put_together(folder, *names):
    """Return what the table says of some sections, and the file's content."""
    table.main([str(folder), *names, "--results", str(folder / "results")])
    (path,) = (folder / "results").glob("*.json")
    return json.loads(path.read_text())


def test_every_section_runs(tmp_path, capsys, monkeypatch, test_file):
    monkeypatch.setattr(suite, "SMOKE", (suite.Run("made", (str(test_file),)),))
    there = [name for name, section in SECTIONS.items() if not section.missing]
    main([*there, "--smoke", "--results", str(tmp_path)])
    content = put_together(tmp_path, *there)
    assert {"card", "driver", "torch", "date"} <= content["environment"].keys()
    assert [section["section"] for section in content["sections"]] == there
    assert {section["status"] for section in content["sections"]} == {"done"}
    shown = capsys.readouterr().out
    for section in content["sections"]:
        assert section["rows"]
        for row in section["rows"]:
            assert row["what"] in shown
            assert row["ours"] >= 0
            assert (row["at_most"] is None) == (row["verdict"] == "-")
    (text,) = (tmp_path / "results").glob("*.txt")
    assert text.read_text() in shown


def test_every_section_file_is_registered():
    """A section is a module with ``measure``; none is forgotten."""
    files = Path(sections.__file__).parent.glob("*.py")
    made = {path.stem for path in files if "\ndef measure(bench: Bench)" in path.read_text()}
    assert made == {section.module.rpartition(".")[2] for section in SECTIONS.values()}


def test_a_section_that_raises_is_shown_and_the_others_run(tmp_path, capsys, monkeypatch):
    def breaks(bench):
        yield value_row("before", 1.0, "ms")
        raise RuntimeError("as told\nin two lines")

    as_section(monkeypatch, "broken", breaks)
    as_section(monkeypatch, "needy", breaks, needs=("a_package_that_is_not_there",))
    with pytest.raises(SystemExit, match="1"):
        main(["broken", "needy", "card", "--smoke", "--results", str(tmp_path)])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        put_together(tmp_path, "broken", "needy", "card", "forgotten")
    shown = capsys.readouterr().out
    assert "failed: RuntimeError: as told\n" in shown
    assert "before" in shown
    assert "skipped: needs a_package_that_is_not_there\n" in shown
    assert "matrix product 16^3, bf16" in shown
    assert "did not run" in shown


def test_what_is_skipped_or_out_of_time_has_not_failed(tmp_path, monkeypatch, capsys):
    def endless(bench):
        while True:
            yield value_row("once", 1.0, "ms")
            assert bench.seconds_left > 0, "asked for a row when the time was up"

    as_section(monkeypatch, "endless", endless)
    as_section(monkeypatch, "needy", endless, needs=("a_package_that_is_not_there",))
    main(["endless=0.05", "needy", "--smoke", "--results", str(tmp_path)])
    put_together(tmp_path, "endless", "needy")
    assert "out of time after" in capsys.readouterr().out


def test_a_process_that_is_ended_leaves_its_rows(tmp_path, monkeypatch, capsys):
    def ended(bench):
        yield value_row("measured", 1.0, "ms")
        raise KeyboardInterrupt

    as_section(monkeypatch, "ended", ended)
    with pytest.raises(KeyboardInterrupt):
        main(["ended", "--smoke", "--results", str(tmp_path)])
    with pytest.raises(SystemExit, match="1"):
        put_together(tmp_path, "ended")
    shown = capsys.readouterr().out
    assert "measured" in shown
    assert "stopped" in shown


def run_script(tmp_path, *arguments):
    script = suite.ROOT / "benchmarks" / "gpu.sh"
    command = ["bash", str(script), *arguments, "--results", str(tmp_path)]
    # Where CUDA shows nothing, a run that is no smoke run fails on every machine.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment["PATH"] = os.path.dirname(sys.executable) + os.pathsep + environment["PATH"]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)


def test_the_script_runs_what_is_named(tmp_path):
    run = run_script(tmp_path, "--smoke", "card")
    assert run.returncode == 0, run.stderr
    (path,) = tmp_path.glob("*.json")
    assert [section["status"] for section in json.loads(path.read_text())["sections"]] == ["done"]
    assert "copy, read and written" in run.stdout


def test_the_script_tells_a_failure_after_all_have_run(tmp_path):
    run = run_script(tmp_path, "numerics", "card")
    assert run.returncode == 1
    (path,) = tmp_path.glob("*.json")
    found = {s["section"]: s["status"] for s in json.loads(path.read_text())["sections"]}
    assert all(found[name].startswith("failed: ") for name in ("numerics", "card"))


def test_a_wrong_result_fails_the_numerics(monkeypatch):
    monkeypatch.setattr(numerics, "errors_of", lambda *_: numerics.Errors(1e-9, 1e-9, float("nan"), 1e-9))
    found = []
    with pytest.raises(AssertionError, match=r"above their bars: 24 -> 17, materialize, fp32"):
        found.extend(numerics.measure(Bench(CPU, True, 1, time.monotonic() + 60)))
    assert [row.verdict for row in found].count("met") == 2  # the masks


def test_errors_are_found(monkeypatch):
    """A transform that is off by a thousandth is far above the bar of fp32."""
    case = numerics.SMOKE[0]
    assert numerics.worst(numerics.errors_of(case, "transform", "fp32", CPU)) < 1e-6
    passed = numerics.passed

    def off(*arguments):
        return [1.001 * t if t.dtype == torch.float32 else t for t in passed(*arguments)]

    monkeypatch.setattr(numerics, "passed", off)
    assert numerics.worst(numerics.errors_of(case, "transform", "fp32", CPU)) == pytest.approx(1e-3, rel=0.1)


def test_the_outcome_of_tests_is_read(tmp_path):
    path = tmp_path / "test_made.py"
    path.write_text(TESTS)
    outcome = suite.outcome_of([str(path)], 60, "cpu")
    assert (outcome.passed, outcome.skipped, outcome.ended) == (1, 1, True)
    assert [name.rpartition("::")[2] for name in outcome.failed] == ["test_fails"]


def test_tests_are_interrupted_when_their_time_is_up(tmp_path):
    path = tmp_path / "test_made.py"
    path.write_text("import time\ndef test_hangs(): time.sleep(100)\n")
    start = time.monotonic()
    outcome = suite.outcome_of([str(path)], 3, "cpu")
    assert time.monotonic() - start < 60
    assert not outcome.ended


def test_rows_compare_round_by_round():
    samples = {"new": [Sample(1e-3, 0), Sample(4e-3, 0)], "old": [Sample(2e-3, 0), Sample(4e-3, 0)]}
    row = row_of("it", samples, "new", "old", 0.8)
    assert (row.ours, row.theirs, row.unit) == (2.5, 3.0, "ms")
    assert row.ratio == pytest.approx((0.75, 0.5, 1.0))
    assert row.verdict == "met, open"
    assert share_row("it", 1.0, 4.0, "MiB", "old", 0.2).verdict == "missed"
    assert value_row("it", 1.0, "ms").verdict == "-"


def test_bars_hold_for_the_transform_and_for_what_auto_takes():
    samples = {name: [Sample(1.0, 0)] for name in ("dense", "transform", "materialize")}
    cell = Cell(4096, 4096, 0.001)
    bars = {
        (precision, name, chosen): layers.against_dense(
            cell, f"{cell}, dct, {precision}, {name}", name, chosen, samples
        ).at_most
        for precision in ("fp32", "bf16")
        for name in ("transform", "materialize")
        for chosen in ("transform", "materialize")
    }
    assert bars["fp32", "transform", "transform"] == bars["fp32", "transform", "materialize"] == 0.35
    assert bars["fp32", "materialize", "materialize"] == bars["bf16", "transform", "transform"] == 1.05
    assert bars["fp32", "materialize", "transform"] is bars["bf16", "transform", "materialize"] is None


def test_passes_take_inputs_in_turn():
    seen = []

    class Noting(torch.nn.Linear):
        def forward(self, x):
            seen.append(x.flatten()[0].item())
            return super().forward(x)

    passes = Passes(Noting(2, 2), [torch.full((1, 2), float(n)) for n in range(2)], [torch.ones(1, 2)] * 2)
    for _ in range(3):
        passes()
    assert seen == [0, 1, 0]
    assert passes.parameters[0].grad.tolist() == [[0, 0], [0, 0]]


def test_tf32_is_put_back():
    before = torch.get_float32_matmul_precision()
    with tf32():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_events_are_milliseconds_for_all_calls(monkeypatch):
    done = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = len(done)

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return 8.0 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("settled"))
    sample = by_events(lambda: done.append("call"), calls=4)()
    assert done == ["settled", *["call"] * 4]
    assert sample.wall == pytest.approx(8e-3)


def test_peak_memory_of_a_gpu_is_above_what_was_held(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 350)
    assert peak_on(torch.device("cuda"), lambda: None) == 250


def test_the_driver_is_named_where_there_is_one(monkeypatch):
    answer = SimpleNamespace(stdout="580.159.04\n")
    monkeypatch.setattr(on_device.subprocess, "run", lambda *_, **__: answer)
    assert on_device.driver_version() == "580.159.04"

    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(on_device.subprocess, "run", missing)
    assert on_device.driver_version() == "unknown"


@pytest.mark.parametrize(("factor", "expected"), [(1, 9), (1.1, 5)])
def test_slow_calls_have_fewer_rounds(monkeypatch, factor, expected):
    monkeypatch.setattr(rows, "timed_on", lambda *_: lambda: Sample(rows.SLOW * factor, 0))
    assert len(Bench(CPU, False, 9, 0.0).in_turn({"it": lambda: None})["it"]) == expected


def test_the_tests_to_run_are_there():
    paths = [a for run in suite.FULL + suite.SMOKE for a in run.arguments if a.startswith("tests/")]
    assert paths
    assert all((suite.ROOT / path).exists() for path in paths)


def test_clocks_and_memory_of_the_cpu():
    assert timed_on(CPU, lambda: time.sleep(0.01), 0.0)().wall >= 0.01
    extra = peak_on(CPU, lambda: torch.ones(2**26, dtype=torch.uint8))
    assert extra is None or extra > 2**25
