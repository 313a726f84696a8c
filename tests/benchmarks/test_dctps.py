"""The benchmark of Dense-plus-Sparse layers: a smoke run, and what it compares. Nothing is timed."""

import json

import pytest
import torch

from benchmarks.experiments.dctps_growth import Point, exponents
from benchmarks.speed import backend_rule, dctps
from benchmarks.speed.dctps_forms import AuthorsForm, ForwardBackward, compact_form

pytestmark = pytest.mark.usefixtures("settings_stay")


def test_dctps_runs(tmp_path, capsys):
    plot = tmp_path / "plots" / "growth.png"
    options = ["--threads", "1", "--results", str(tmp_path / "results"), "--plot", str(plot)]
    dctps.main(["--smoke", *options])
    (path,) = (tmp_path / "results").iterdir()
    content = json.loads(path.read_text())
    assert {f["at_most"] for f in content["figures"]} == {None, dctps.AUTO_AT_MOST, dctps.STEP_AT_MOST}
    assert {f["name"] for f in content["figures"]} >= {"auto", "authors'", "materialize", "transform"}
    assert {"exponent of seconds, compact", "exponent of seconds, dense"} <= {
        f["name"] for f in content["figures"] if f["case"] == "growth"
    }
    assert content["notes"]["24 -> 16, 0.1"] == "materialize"
    assert plot.stat().st_size > 0
    assert "Smoke run" in capsys.readouterr().out


def test_sections_and_sizes_of_dctps_are_chosen(tmp_path, capsys):
    dctps.main(["linear", "--smoke", "--threads", "1", "--largest", "24", "--results", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    assert {figure["case"] for figure in json.loads(path.read_text())["figures"]} == {"24 -> 16, 0.1"}
    with pytest.raises(SystemExit):
        dctps.main(["liner"])
    assert "`sections` must be among linear, conv," in capsys.readouterr().err


@pytest.mark.parametrize("case", [dctps.SMOKE.linear[0], dctps.SMOKE.conv[0]], ids=lambda case: case.name)
def test_the_authors_layer_computes_what_ours_does(case):
    torch.manual_seed(0)
    layer = compact_form(case.make, 0.1).double()
    authors, x = AuthorsForm(layer), torch.randn(case.input_size, dtype=torch.float64)
    authors.double()
    ours, theirs = ForwardBackward(layer, x), ForwardBackward(authors, x)
    theirs.grad = ours.grad
    ours()
    theirs()
    assert torch.allclose(layer(x), authors(x))
    assert torch.allclose(ours.x.grad, theirs.x.grad)
    assert torch.allclose(layer.alpha.grad, authors.alpha.grad)
    expected = torch.zeros(layer.shape, dtype=torch.float64)
    expected[layer.support()] = layer.values.grad
    assert torch.allclose(authors.sparse.grad, expected)


def test_exponents_are_those_of_power_laws():
    """Time 3 q and memory q squared; sizes of which the memory is unknown do not count for it."""
    points = [Point("compact", q, 3.0 * q, None if q == 8 else q * q) for q in (2, 4, 8)]
    found = exponents([*points, Point("dense", 2, 1.0, 1)])
    assert found == pytest.approx({("compact", "seconds"): 1, ("compact", "extra"): 2})


def test_the_constants_of_the_rule_are_fitted(capsys):
    backend_rule.main(["--smoke", "--threads", "1"])
    said = capsys.readouterr().out
    assert all(f"{name}: " in said for name in ("materialize", "linear", "pointwise", "spatial"))
    assert "9 timings" in said
    with pytest.raises(SystemExit, match="`--threads` must be 1, since CPU time counts, got 2"):
        backend_rule.main(["--smoke", "--threads", "2"])


def test_a_fit_finds_the_constants_that_made_the_times(capsys):
    timings = [
        backend_rule.Timing(torch.Size((n, n)), 1, rows, {"materialize": 5 + 2 * n * n + 3 * rows * n * n})
        for n in (2, 4, 8)
        for rows in (1, 16)
    ]
    backend_rule.fit("known", timings, backend_rule.materialize_features, "materialize")
    assert capsys.readouterr().out == "known: 5, 2, 3; off by 0%, at most 0%\n"
