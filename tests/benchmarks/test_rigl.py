"""The benchmark of RigL: a smoke run, and that what it compares is the same. Nothing is timed."""

import json
import platform
from itertools import pairwise

import pytest
import torch

from benchmarks.harness.nets import tiny_net, weights_of
from benchmarks.harness.runner import Sample
from benchmarks.speed import rigl
from benchmarks.speed.masked_training import SMOKE, inside_all
from lightning_sparse.layers import compact_layers
from lightning_sparse.weights.state import state_of

pytestmark = pytest.mark.usefixtures("settings_stay")


def test_rigl_runs(tmp_path, capsys):
    rigl.main(["--smoke", "--threads", "1", "--results", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    figures = json.loads(path.read_text())["figures"]
    assert {figure["case"].split(",")[0] for figure in figures} == {"update", "memory", "training"}
    assert {figure["at_most"] for figure in figures} == {None, rigl.UPDATE_AT_MOST, rigl.SHARE_AT_MOST}
    peaks = [figure for figure in figures if figure["name"].startswith("peak extra MiB")]
    assert len(peaks) == (len(rigl.PHASES) if platform.libc_ver()[0] == "glibc" else 0)
    assert "Smoke run" in capsys.readouterr().out


@pytest.mark.parametrize("density", rigl.DENSITIES)
def test_all_ways_make_the_same_masks(density):
    """Without ties, that is: the scores are random."""
    torch.manual_seed(0)
    for weight in weights_of(tiny_net()).values():
        layer = rigl.random_layer(weight, density)
        expected = rigl.ours_by_mask(layer)
        moved = int((expected & ~layer.mask).sum())
        assert expected.sum() == layer.mask.sum() == int(density * weight.numel())
        assert 0 < moved <= 0.3 * layer.mask.sum()
        for way in (rigl.topk, rigl.topk_of_active, rigl.sort):
            assert torch.equal(way(layer), expected)
        assert torch.equal(rigl.ours_by_support(layer), expected.flatten().nonzero().squeeze(1))


def test_every_fourth_step_of_the_fit_is_an_update():
    """From the masks that the static fit has; the work that is clocked belongs to the steps in turn."""
    fits = {name: rigl.fit(name == "RigL", "SGD+momentum", SMOKE, 4) for name in ("static", "RigL")}
    masks = {name: [] for name in fits}

    def advance(steps):
        for _ in range(5):
            for name, (_, module, _) in fits.items():
                state = state_of(module)
                masks[name].append({weight: mask.clone() for weight, mask in state.masks.items()})
                if len(masks[name]) <= 4:
                    steps[name]()

    inside_all(fits, advance)

    def same(ours, theirs):
        return all(torch.equal(mask, theirs[name]) for name, mask in ours.items())

    assert masks["static"][0]
    assert same(masks["static"][0], masks["RigL"][0])
    assert same(masks["static"][0], masks["static"][4])
    changed = [not same(*pair) for pair in pairwise(masks["RigL"])]
    assert changed == [False, False, False, True]


def test_every_third_step_of_the_compact_fit_is_an_update():
    fit = rigl.compact_fit(16, 0.25, 6)
    (layer,) = compact_layers(fit[1]).values()
    supports, asked = [layer.indices.clone()], []

    def advance(steps):
        for _ in range(6):
            asked.append(layer.dense_gradient.wanted)
            steps["RigL"]()
            supports.append(layer.indices.clone())

    inside_all({"RigL": fit}, advance)
    changed = [not torch.equal(*pair) for pair in pairwise(supports)]
    assert changed == asked == [False, False, True] * 2


def test_one_update_in_a_hundred_steps_is_added():
    """2 + (50 + 97 * 1) / 100 and 1 + (20 + 97 * 0) / 100; an update's work is spread over three steps."""
    mean = rigl.add_work(Sample(2.0, 1.0), Sample(50.0, 20.0), Sample(1.0, 0.0))
    assert mean == pytest.approx((3.47, 1.2))


def test_work_is_what_the_clocked_methods_spend():
    """Reading the clocks moves them on by a second: two calls in the first step, none in the second."""
    ticks = iter(range(100))

    class Owner:
        calls = 0

        def count(self, by):
            self.calls += by

    owner, work = Owner(), rigl.Work(lambda: Sample(next(ticks), 0))
    work.clock(owner, "count")
    work.step(lambda: [owner.count(2), owner.count(3)])
    work.step(lambda: None)
    assert work.steps == [(2, 0), (0, 0)]
    assert owner.calls == 5
