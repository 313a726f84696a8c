"""The accuracy series: its statistics on figures that are known, and a smoke run."""

import pytest

from benchmarks.experiments import accuracy
from benchmarks.experiments.nets import Experiment, Method
from benchmarks.harness.series import ROOT, add, paired_interval, read

DIGITS = Experiment(
    methods=(
        Method("pruned", "quickstart"),
        Method("dense", "quickstart", (f"--config={ROOT / 'recipes/overlays/dense.yaml'}",), dense=True),
    ),
    budgets=(1_000, 1),
    weights=50_200,
    epochs=1,
    against="pruned",
)


pytestmark = pytest.mark.usefixtures("settings_stay")


def record(method, budget, seed, value):
    return {"method": method, "budget": budget, "seed": seed, "accuracy": value}


def test_an_interval_is_students():
    """Mean 2, standard deviation 1, n = 3: half of it is 4.303 / sqrt(3)."""
    assert paired_interval([1, 2, 3]) == pytest.approx((2 - 2.484, 2, 2 + 2.484), abs=1e-3)
    assert paired_interval([1])[1] != paired_interval([1])[1]  # NaN: nothing can be said


def test_tables_pair_by_seed_and_leave_gaps():
    experiment = Experiment((Method("a", ""), Method("b", "")), (10, 20), 100, 1, against="a")
    records = [record("a", 10, s, 50.0 + s) for s in (0, 1, 2)] + [record("a", 20, 0, None)]
    records += [record("b", 10, 2, 50.0), record("b", 10, 1, 50.0)]
    lines = accuracy.table(experiment, records)
    assert lines[2] == "| a | 51.0 ± 1.0 (3) | - |"
    assert lines[3] == "| b | 50.0 ± 0.0 (2) | - |"
    assert lines[-1] == "| a - b | +1.5 (-4.9 to +7.9) | - |"


def test_differences_from_another_row(tmp_path, monkeypatch, capsys):
    methods = (Method("a", ""), Method("b", ""), Method("c", ""), Method("dense", "", dense=True))
    monkeypatch.setitem(accuracy.EXPERIMENTS, "made", Experiment(methods, (10,), 100, 1, against="a"))
    for name, value in [("a", 50.0), ("b", 53.0), ("c", 51.0)]:
        add(record(name, 10, 0, value), tmp_path / "made.jsonl")
    show = ["made", "--show", "--results", str(tmp_path)]
    accuracy.main([*show, "--against", "b"])
    assert capsys.readouterr().out.splitlines()[-2:] == ["| b - a | +3.0 (1) |", "| b - c | +2.0 (1) |"]
    accuracy.main(show)
    assert capsys.readouterr().out.splitlines()[-2:] == ["| a - b | -3.0 (1) |", "| a - c | -1.0 (1) |"]
    with pytest.raises(SystemExit, match=r"`--against` must be among a, b, c, got dense"):
        accuracy.main([*show, "--against", "dense"])


def test_a_plot_leaves_gaps(tmp_path):
    methods = (Method("a", ""), Method("b", ""), Method("dense", "", dense=True))
    path = tmp_path / "plot.png"
    accuracy.plot(Experiment(methods, (10, 20), 100, 1, against="a"), [record("a", 10, 0, 50.0)], path)
    assert path.stat().st_size > 0


def test_runs_are_kept_and_not_repeated(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(accuracy.EXPERIMENTS, "digits", DIGITS)
    options = ["digits", "--seeds", "0", "--smoke", "--results", str(tmp_path)]
    accuracy.main(options)
    path = tmp_path / "digits-smoke.jsonl"  # real runs must not take these for done
    kept = read(path)
    assert [(r["method"], r["budget"]) for r in kept] == [("pruned", 1_000), ("pruned", 1), ("dense", 50_200)]
    assert [r["accuracy"] is None for r in kept] == [False, True, False]
    assert "density" in kept[1]["error"]
    accuracy.main([*options, "--plot", str(tmp_path / "plot.png")])
    assert read(path) == kept
    assert (tmp_path / "plot.png").stat().st_size > 0
    assert "| pruned | " in capsys.readouterr().out


def test_unknown_methods_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r"`--methods` must be among random uniform, .*got DCT"):
        accuracy.main(["lenet5_budgets", "--methods", "DCT", "--results", str(tmp_path)])
