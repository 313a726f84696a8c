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
AS_IN_ONE = ["monitored", "random", "erk", "magnitude", "file", "snip and rigl", "adamw", "replicated"]
BY_TWO, BY_ONE = "exactly", "by one process"  # from a folder of shards, and from one file


def start(out, *arguments, ranks=1, sharded=False):
    out.mkdir(exist_ok=True)
    arguments = [out, *arguments, "--processes", ranks, *(["--sharded"] if sharded or ranks > 1 else [])]
    return forked.start(SCRIPT, *arguments, output=out / "output.txt", ranks=ranks)


def result(out, case):
    return torch.load(out / case.replace(" ", "-") / "result.pt", weights_only=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All cases, in one process and split over two, which make many fits, one by one.

    A few steps each, and 100 where connections move after SNIP.
    """
    out = tmp_path_factory.mktemp("sharded")
    masks = {"net.0.weight": torch.rand(33, 12) < 0.3, "net.2.weight": torch.rand(16, 33) < 0.1}
    for name in ("one", "two"):
        (out / name).mkdir()
        torch.save(masks, out / name / "masks.pt")
    two = [*AS_IN_ONE, "meta in bf16", BY_ONE, BY_TWO]
    for run in (start(out / "one", *AS_IN_ONE), start(out / "two", *two, ranks=2)):
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
    assert result(runs / "two", "snip and rigl")["metrics"]["rigl/survived"] < 0.8


def test_other_precision_and_delayed_weights_make_no_other_masks(runs):
    """Weights on the meta device are drawn elsewhere, but these masks need none."""
    assert_equal(result(runs / "two", "meta in bf16")["masks"], result(runs / "two", "erk")["masks"])


@pytest.mark.parametrize("case", ["snip and rigl", "replicated"])
def test_the_first_forward_is_sparse(runs, case):
    """The validation before it has left whole, dense weights in the module, where its root alone is split."""
    found = result(runs / "two", case)
    assert found["first forward"] == int(found["masks"]["net.0.weight"].sum())


def test_saved_masks_are_whole(runs):
    saved = load_masks(runs / "two" / "adamw" / "saved.pt")
    assert_equal(saved, result(runs / "two", "adamw")["masks"])


@pytest.fixture(scope="module")
def resumed(runs):
    """Each case stopped between two of its checkpoints, the last one by SIGKILL; resumed after an epoch."""
    killed = runs / "killed"
    stopped = start(killed, BY_ONE, BY_TWO, "--save-every", 10, "--kill-at", 17, ranks=2)
    code, said = forked.finish(stopped)
    assert code == -signal.SIGKILL, said[-3000:]
    two = start(runs / "again", BY_TWO, "--resume", killed, ranks=2)
    for run in (two, start(runs / "by one", BY_ONE, "--resume", killed, sharded=True)):
        code, said = forked.finish(run)
        assert code == 0, said[-3000:]
    return runs


def test_killed_and_resumed_is_undisturbed(resumed):
    whole, again = (result(resumed / name, BY_TWO) for name in ("two", "again"))
    assert_equal(whole["masks"], again["masks"])
    assert_equal(whole["weights"], again["weights"])
    assert whole["metrics"] == again["metrics"]


def test_what_two_processes_saved_goes_on_in_one(resumed):
    whole, alone = result(resumed / "two", BY_ONE), result(resumed / "by one", BY_ONE)
    assert_equal(whole["masks"], alone["masks"])
    for name, value in whole["weights"].items():
        torch.testing.assert_close(value, alone["weights"][name], rtol=0, atol=1e-6)


def test_a_damaged_folder_of_shards_is_refused(resumed, tmp_path):
    saved = shutil.copytree(resumed / "killed" / BY_TWO, tmp_path / BY_TWO)
    meta = saved / "last.ckpt" / "meta.pt"
    content = bytearray(meta.read_bytes())
    content[len(content) // 2] ^= 1
    meta.write_bytes(content)
    code, said = forked.finish(start(tmp_path / "out", BY_TWO, "--resume", tmp_path, sharded=True))
    assert code == 1
    assert "meta.pt' is damaged" in said
