"""The benchmark of Dense-plus-Sparse layers: a smoke run, and what it compares. Nothing is timed."""

import itertools
import json
import math

import pytest
import torch

from benchmarks.experiments.dctps_growth import Point, exponents
from benchmarks.speed import backend_rule, dctps
from benchmarks.speed.dctps_forms import AuthorsForm, ForwardBackward, compact_form
from lightning_sparse.layers.backends import BACKEND_ROWS, Work
from lightning_sparse.layers.backends.transform import CONSTANTS
from lightning_sparse.layers.offsets import dct, offset_from_name, pretrained

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


def test_the_constants_of_the_rule_are_fitted(tmp_path, capsys):
    options = ["--smoke", "--threads", "1", "--results", str(tmp_path)]
    backend_rule.main(options)
    said = capsys.readouterr().out
    fitted = ("materialize: linear", "materialize: conv", "few, linear", "pointwise", "spatial")
    assert all(name in said for name in fitted)
    assert all(f"{offset}: 12 timings" in said for offset in backend_rule.OFFSETS)
    (path,) = tmp_path.iterdir()
    backend_rule.main([*options, "--timings", str(path)])
    assert said.endswith(capsys.readouterr().out)  # the same fits, of what was written down
    with pytest.raises(SystemExit, match="`--threads` must be 1, since CPU time counts, got 2"):
        backend_rule.main(["--smoke", "--threads", "2"])


def test_a_fit_finds_the_constants_that_made_the_times(capsys):
    timings = []
    for shape, k, rows in itertools.product([(2, 2), (4, 4), (8, 2), (3, 40)], [1, 4], [1, 16, 64]):
        for offset, own in (("none", 0), ("dct", 1)):
            entries, features = math.prod(shape), sum(shape)
            time = 5 + (2 + own) * entries + 4 * k + 6 * rows * features + 3 * rows * entries
            timings.append(backend_rule.Timing(shape, k, rows, offset, {"materialize": time}))
    backend_rule.fit("known", timings, lambda t: backend_rule.materialized(t)[1], "materialize")
    assert capsys.readouterr().out == "known: 5, 2, 1, 4, 6, 3; off by 0%, at most 0%\n"


@pytest.mark.parametrize("offset", backend_rule.OFFSETS)
@pytest.mark.parametrize("ways", [("few", "linear"), ("pointwise",), ("spatial",)])
def test_what_is_fitted_is_what_the_rule_adds_up(ways, offset):
    """The parts of an estimate, in the order in which their constants are printed."""
    shapes = {"few": (30, 20), "linear": (300, 200), "pointwise": (8, 8, 1, 1), "spatial": (8, 8, 3, 3)}
    own = "LINEAR" if "linear" in ways else ways[0].upper()
    constants = [constant for way in ways for constant in CONSTANTS[way]]
    constants += [*getattr(dct, own), *getattr(pretrained, own)]
    for way in ways:
        timing = backend_rule.Timing(shapes[way], 90, 7, offset, {})
        work = Work(torch.Size(shapes[way]), 90, 7, torch.device("cpu"), 1, 1, offset_from_name(offset))
        found = sum(c * f for c, f in zip(constants, backend_rule.parts(ways, timing), strict=True))
        assert found == pytest.approx(BACKEND_ROWS["transform"]().time(work))
