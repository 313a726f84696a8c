"""Weights that are split over two processes: masks, their enforcement, moves and resumed runs."""

import shutil
import signal
from pathlib import Path

import forked
import pytest
import torch
from toy import assert_equal

from lightning_sparse import load_masks

SCRIPT = Path(__file__).parent / "scripts" / "sharded.py"
AS_IN_ONE = [
    *("random", "erk", "magnitude", "file", "rigl", "snip and rigl"),
    *("adamw", "clip by value", "root alone", "replicated", "monitored"),
]
OF_THEIR_OWN = ["bf16", "meta"]
RESUMED = ["resumed", "resumed from one file", "resumed by one process"]
SAVING = ("--save-every", 20)


def start(out, *arguments, ranks=1, sharded=False):
    out.mkdir(exist_ok=True)
    arguments = [out, *arguments, "--processes", ranks, *(["--sharded"] if sharded or ranks > 1 else [])]
    return forked.start(SCRIPT, *arguments, output=out / "output.txt", ranks=ranks)


def result(out, case):
    return torch.load(out / case.replace(" ", "-") / "result.pt", weights_only=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All cases, in one process and split over two; each pair of processes makes many fits, one by one.

    12 steps each, and 100 where connections move.
    """
    out = tmp_path_factory.mktemp("sharded")
    masks = {"net.0.weight": torch.rand(33, 12) < 0.3, "net.2.weight": torch.rand(16, 33) < 0.1}
    for name in ("one", "two"):
        (out / name).mkdir()
        torch.save(masks, out / name / "masks.pt")
    started = [
        start(out / "one", *AS_IN_ONE),
        start(out / "two", *AS_IN_ONE, *OF_THEIR_OWN, ranks=2),
        start(out / "whole", *RESUMED, *SAVING, ranks=2),
    ]
    for run in started:
        code, said = forked.finish(run)
        assert code == 0, said[-3000:]
    return out


@pytest.mark.parametrize("case", AS_IN_ONE)
def test_two_processes_are_one_on_the_joint_batch(runs, case):
    """The same masks, to the bit; the same weights, to rounding; the same figures in the logs."""
    one, two = (result(runs / name, case) for name in ("one", "two"))
    assert_equal(one["masks"], two["masks"])
    for name, value in one["weights"].items():
        torch.testing.assert_close(value, two["weights"][name], rtol=0, atol=1e-6)
    assert one["metrics"].keys() == two["metrics"].keys()
    for name in (name for name in one["metrics"] if name != "loss"):  # that is rank 0's own
        assert one["metrics"][name] == pytest.approx(two["metrics"][name], abs=1e-5), name
    assert one["tested"][0] == pytest.approx(two["tested"][0], abs=1e-5)


def test_connections_have_moved(runs):
    for case in ("rigl", "snip and rigl"):
        assert result(runs / "two", case)["metrics"]["rigl/survived"] < 0.8


def test_other_precision_and_delayed_weights_make_no_other_masks(runs):
    """Weights on the meta device are drawn elsewhere, so only masks that need none can be the same."""
    assert_equal(result(runs / "two", "meta")["masks"], result(runs / "two", "erk")["masks"])
    bf16, rigl = (result(runs / "two", case)["masks"] for case in ("bf16", "rigl"))
    assert {name: int(mask.sum()) for name, mask in bf16.items()} == {
        name: int(mask.sum()) for name, mask in rigl.items()
    }


@pytest.mark.parametrize("case", ["root alone", "replicated"])
def test_the_first_forward_is_sparse(runs, case):
    """The validation before it has left whole, dense weights in the module."""
    found = result(runs / "two", case)
    assert found["first forward"] == int(found["masks"]["net.0.weight"].sum())


def test_saved_masks_are_whole(runs):
    saved = load_masks(runs / "two" / "rigl" / "saved.pt")
    assert_equal(saved, result(runs / "two", "rigl")["masks"])


@pytest.fixture(scope="module")
def resumed(runs):
    """Each case stopped between two of its checkpoints, the last one by SIGKILL, and resumed."""
    killed = runs / "killed"
    code, said = forked.finish(start(killed, *RESUMED, *SAVING, "--kill-at", 27, ranks=2))
    assert code == -signal.SIGKILL, said[-3000:]
    how = (*SAVING, "--resume", killed)
    one = start(runs / "by one", RESUMED[-1], *how, sharded=True)
    for run in (start(runs / "again", *RESUMED, *how, ranks=2), one):
        code, said = forked.finish(run)
        assert code == 0, said[-3000:]
    return runs


@pytest.mark.parametrize("case", RESUMED)
def test_killed_and_resumed_is_undisturbed(resumed, case):
    whole, again = (result(resumed / name, case) for name in ("whole", "again"))
    assert_equal(whole["masks"], again["masks"])
    assert_equal(whole["weights"], again["weights"])
    assert whole["metrics"] == again["metrics"]


def test_what_two_processes_saved_goes_on_in_one(resumed):
    whole, alone = result(resumed / "whole", RESUMED[-1]), result(resumed / "by one", RESUMED[-1])
    assert_equal(whole["masks"], alone["masks"])
    for name, value in whole["weights"].items():
        torch.testing.assert_close(value, alone["weights"][name], rtol=0, atol=1e-6)


def test_a_damaged_folder_of_shards_is_refused(resumed, tmp_path):
    saved = shutil.copytree(
        resumed / "killed" / "resumed-by-one-process", tmp_path / "resumed-by-one-process"
    )
    meta = saved / "last.ckpt" / "meta.pt"
    content = bytearray(meta.read_bytes())
    content[len(content) // 2] ^= 1
    meta.write_bytes(content)
    code, said = forked.finish(start(tmp_path / "out", RESUMED[-1], "--resume", tmp_path, sharded=True))
    assert code == 1
    assert "meta.pt' is damaged" in said
