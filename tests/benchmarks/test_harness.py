"""The statistics of the benchmarks on times that are known, and a smoke run of each. Nothing is timed."""

import argparse
import gc
import json
import os
import platform
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

from benchmarks.harness import runner
from benchmarks.harness.memory import MIB, peak_extra
from benchmarks.harness.report import Bar, Report, file_of_run, verdict
from benchmarks.harness.runner import (
    Ratio,
    Sample,
    interleave,
    interval_rank,
    paired_ratio,
    parse,
    timed,
    timed_at_length,
    turns,
)
from benchmarks.speed import lenet_loop, masked_training, saliency
from lightning_sparse import FORCE, PruningProblem, SynFlow
from lightning_sparse.functional.pruning import prune_along

pytestmark = pytest.mark.usefixtures("settings_stay")


@pytest.fixture
def options(tmp_path):
    return argparse.Namespace(threads=2, rounds=5, smoke=False, results=tmp_path / "results")


def samples(*walls, cpu=1.0):
    return [Sample(wall, cpu) for wall in walls]


def test_ratios_are_taken_round_by_round():
    """The load doubles in the second round: medians of the times would give 4.4 / 4 = 1.1 as well as 2.2."""
    ratio = paired_ratio([2.2, 4.4, 2.0, 2.6, 4.8], [2.0, 4.0, 2.0, 2.0, 4.0])
    assert ratio == pytest.approx((1.1, 1.0, 1.3))


def test_median_of_an_even_number_is_between_the_two_in_the_middle():
    assert paired_ratio([1, 2, 4, 8], [1, 1, 1, 1]) == (3, 1, 8)


@pytest.mark.parametrize(
    ("rounds", "rank"),
    [
        (2, 1),
        (5, 1),  # covers 1 - 2 / 32: less than 95%, but there is nothing wider
        (6, 1),  # 1 - 2 / 64 = 96.9%; rank 2 would leave out 2 * 7 / 64
        (8, 1),
        (9, 2),  # 1 - 2 * (1 + 9) / 512 = 96.1%
        (15, 4),  # 1 - 2 * (1 + 15 + 105 + 455) / 32768 = 96.5%
        (20, 6),
    ],
)
def test_interval_is_that_of_the_order_statistics(rounds, rank):
    assert interval_rank(rounds) == rank


def test_interval_leaves_out_the_outliers():
    ratios = [9.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 0.1]
    assert paired_ratio(ratios, [1.0] * 9) == (1.3, 1.0, 1.6)


def test_order_rotates_and_turns_round():
    orders = ["".join(turns("abc", number)) for number in range(7)]
    assert orders == ["abc", "bca", "cab", "cba", "acb", "bac", "abc"]


def test_alternatives_take_turns():
    calls = []

    def alternative(name):
        calls.append(name)
        return Sample(len(calls), 0)

    taken = interleave({name: lambda name=name: alternative(name) for name in "ab"}, rounds=3)
    assert "".join(calls) == "abbabaab"
    # The first two were to warm up.
    assert taken == {"a": [(4, 0), (6, 0), (7, 0)], "b": [(3, 0), (5, 0), (8, 0)]}


def test_collections_leave_out_what_came_since_an_outer_block_began(monkeypatch):
    monkeypatch.setattr(runner, "_OPEN_BLOCKS", [])
    calls = []
    monkeypatch.setattr(gc, "unfreeze", lambda: calls.append("unfreeze"))  # a block is open around all tests
    with runner.short_collections():
        kept, before = [[] for _ in range(1000)], gc.get_freeze_count()
        with runner.short_collections():
            assert gc.get_freeze_count() >= before + len(kept)
        assert not calls
    assert calls == ["unfreeze"]


def test_timed_divides_by_the_number_of_calls():
    clocks = iter([Sample(10, 1), Sample(16, 5)])
    calls = []
    assert timed(lambda: calls.append(0), calls=4, clocks=lambda: next(clocks))() == (1.5, 1.0)
    assert len(calls) == 4


def test_a_sample_is_as_many_calls_as_fill_the_time():
    """The first call does not count; of the next three, which take 9, 3 and 5 s, the shortest does."""
    clocks = iter([Sample(*pair) for pair in [(0, 0), (9, 0), (10, 0), (13, 0), (20, 0), (25, 0)]])
    calls = []
    alternative = timed_at_length(lambda: calls.append(0), seconds=7, clocks=lambda: next(clocks))
    assert len(calls) == 4
    clocks = iter([Sample(0, 0), Sample(12, 6)])
    assert alternative() == (4, 2)
    assert len(calls) == 7


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (Ratio(1.0, 0.9, 1.02), "met"),
        (Ratio(1.0, 0.9, 1.03), "met, open"),
        (Ratio(1.03, 1.02, 1.1), "missed, open"),
        (Ratio(1.03, 1.025, 1.1), "missed"),
    ],
)
def test_verdict(ratio, expected):
    assert verdict(ratio, 1.02) == expected
    assert verdict(ratio, None) == "-"


def test_report_is_written_once_with_everything(options, capsys):
    report = Report("nothing", options)
    taken = {"new": samples(3, 3, 3, 3, 3, cpu=1.0), "old": samples(2, 2, 2, 2, 2, cpu=4.0)}
    report.add("case", taken, [Bar("new", "old", 1.2), Bar("old", "new")])
    report.add_value("case", "memory", 0.02, at_most=0.02)
    path = report.finish()
    content = json.loads(path.read_text())
    assert list(options.results.iterdir()) == [path]
    assert [figure["verdict"] for figure in content["figures"]] == ["missed", "-", "met"]
    assert content["figures"][0]["wall"] == {"median": 1.5, "low": 1.5, "high": 1.5}
    assert content["figures"][0]["cpu"]["median"] == 0.25
    assert content["samples"]["case"]["new"][0] == {"wall": 3, "cpu": 1}
    assert content["options"]["threads"] == 2
    assert {"torch", "CPU", "threads", "load average at the start"} <= content["environment"].keys()
    printed = capsys.readouterr().out
    assert "new / old  1.500 (1.500-1.500)  0.250 (0.250-0.250)  1.2      missed" in printed
    assert "case  new          3000.000" in printed


def test_on_one_thread_cpu_time_decides(options):
    options.threads = 1
    report = Report("nothing", options)
    taken = {"new": samples(3, 3, 3, 3, 3, cpu=1.0), "old": samples(2, 2, 2, 2, 2, cpu=4.0)}
    report.add("case", taken, [Bar("new", "old", 1.2)])
    assert report.figures[0]["verdict"] == "met"


def test_overview_has_one_row_per_case(options):
    options.threads = 1
    report = Report("nothing", options)
    taken = {"new": samples(*[3] * 5, cpu=1.0), "old": samples(*[2] * 5, cpu=4.0)}
    report.add("one", taken, [Bar("new", "old", 1.2)])
    report.add("two", taken, [Bar("new", "old")])
    report.notes["two"] = "as found"
    header, one, two = report.overview(["one", "two"], "old").splitlines()
    assert header.split("  ") == ["case", "old, ms", " new / old"]
    assert one.split() == ["one", "4000.000", "0.250", "<=", "1.2:", "met"]
    assert two.split() == ["two", "4000.000", "0.250", "as", "found"]
    assert (report.ratio("one", "new", "old"), report.seconds("one", "old")) == (0.25, 4)


def test_fewer_than_five_rounds_are_refused(capsys):
    with pytest.raises(SystemExit):
        parse(None, ["--rounds", "4"], rounds=10)
    assert "`--rounds` must be at least 5, got 4." in capsys.readouterr().err


@pytest.mark.parametrize("benchmark", [lenet_loop, masked_training], ids=lambda module: module.__name__)
def test_benchmark_runs(benchmark, tmp_path, capsys):
    benchmark.main(["--smoke", "--threads", "1", "--results", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    assert {figure["case"] for figure in content["figures"]} == {"SGD+momentum", "fused Adam"}
    assert {figure["at_most"] for figure in content["figures"]} >= {benchmark.AT_MOST, 1.0}
    assert "Smoke run" in capsys.readouterr().out


def test_saliency_runs(tmp_path, capsys):
    saliency.main(["--smoke", "--threads", "1", "--results", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    figures = json.loads(path.read_text())["figures"]
    assert {figure["case"].split()[0].strip(",") for figure in figures} == {"ranking", "SynFlow", "FORCE"}
    assert {figure["at_most"] for figure in figures} >= {0.12, 0.5, 0.65}
    assert "Smoke run" in capsys.readouterr().out


def random_tiny_net():
    torch.manual_seed(0)
    return saliency.tiny_net()


@pytest.mark.parametrize("start", [None, 0.5])
def test_the_authors_synflow_makes_our_masks(start):
    """In float64, by their rounding, from the dense net or from masks."""
    net = random_tiny_net().double()
    masks = None if start is None else saliency.random_masks(net, start)
    method = SynFlow(5, list(saliency.IMAGE), conformance="reference")
    path = [(start or 1) * density for density in method.path(0.2)]
    method.path = lambda _: path
    before = {name: value.clone() for name, value in net.state_dict().items()}
    theirs = saliency.authors_synflow(deepcopy(net), path, masks)
    problem = PruningProblem(net, saliency.weights_of(net), torch.Generator(), masks)
    for ours in prune_along(method, problem, path[-1], min_weights=0):
        for mask, expected in zip(ours.values(), next(theirs), strict=True):
            assert torch.equal(mask, expected.bool())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_authors_force_makes_our_masks():
    net = random_tiny_net()
    batch = torch.randn(8, *saliency.IMAGE), torch.randint(10, (8,))
    method = FORCE(5, num_batches=1, conformance="reference")
    theirs = saliency.authors_force(deepcopy(net), batch, method.path(0.2))
    losses = [lambda: F.cross_entropy(net(batch[0]), batch[1])]
    weights = saliency.weights_of(net)
    problem = PruningProblem(net, weights, torch.Generator(), losses=lambda _: losses)
    for ours in prune_along(method, problem, 0.2, min_weights=0):
        for mask, expected in zip(ours.values(), next(theirs), strict=True):
            assert torch.equal(mask, expected.bool())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is read as Linux tells it")
def test_peak_memory_is_that_of_the_turn():
    extra = peak_extra(lambda: torch.ones(64 * MIB, dtype=torch.uint8))
    assert 63 * MIB < extra < 80 * MIB


def test_nested_fits_train_as_fits_do():
    """Steps taken in turn, inside each other's Trainers, end in the weights of fits one after the other."""
    nested = {
        name: masked_training.prepare(name, "SGD+momentum", masked_training.SMOKE, 3)
        for name in ("dense", "PruneAtInit")
    }
    alone = {name: masked_training.prepare(name, "SGD+momentum", masked_training.SMOKE, 3) for name in nested}

    def alternate(steps):
        for _ in range(3):
            for step in steps.values():
                step()

    masked_training.inside_all(nested, alternate)
    for name, (trainer, module, data) in alone.items():
        trainer.fit(module, data)
        assert nested[name][0].global_step == trainer.global_step == 3
        for ours, theirs in zip(nested[name][1].parameters(), module.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_pruning_is_the_same_for_both():
    """Lightning's callback is applied once, at the start, to the weights and the density that ours has."""
    setting = masked_training.FULL._replace(shape=(2, 3, 8, 8))
    fits = {
        name: masked_training.prepare(name, "SGD+momentum", setting, 2)
        for name in ("PruneAtInit", "ModelPruning")
    }
    kept = {}
    for name, (trainer, module, data) in fits.items():
        trainer.fit(module, data)
        weights = [p for p in module.parameters() if p.ndim > 1]
        kept[name] = [int(weight.count_nonzero()) for weight in weights]
    assert kept["PruneAtInit"] == kept["ModelPruning"]
    assert sum(kept["PruneAtInit"]) == round(0.1 * 11_164_352)


def test_every_run_has_a_file_of_its_own_in_a_folder_that_is_there(tmp_path, monkeypatch):
    first = file_of_run("dctps", tmp_path / "new" / "results")
    assert first.parent.is_dir()
    assert first.match("dctps-*.json")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert file_of_run("dctps", first.parent) != first
