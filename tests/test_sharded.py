"""Weights that are split over two processes: masks, their enforcement, moves and resumed runs."""

from pathlib import Path

import forked
import pytest
import torch
from toy import assert_equal

SCRIPT = Path(__file__).parent / "scripts" / "sharded.py"
AS_IN_ONE = [
    *("random", "erk", "magnitude", "by layer", "gradient", "file", "rigl", "snip and rigl"),
    *("adamw", "clip by value", "root alone", "replicated", "monitored"),
]
OF_THEIR_OWN = ["bf16", "meta"]


def start(out, *arguments, ranks=1):
    out.mkdir(exist_ok=True)
    arguments = [out, *arguments, "--processes", ranks, *(["--sharded"] if ranks > 1 else [])]
    return forked.start(SCRIPT, *arguments, output=out / "output.txt", ranks=ranks)


def result(out, case):
    return torch.load(out / case.replace(" ", "-") / "result.pt", weights_only=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All cases, 100 steps each, in one process and split over two; each pair of processes makes all fits."""
    out = tmp_path_factory.mktemp("sharded")
    masks = {"net.0.weight": torch.rand(33, 12) < 0.3, "net.2.weight": torch.rand(16, 33) < 0.1}
    for name in ("one", "two"):
        (out / name).mkdir()
        torch.save(masks, out / name / "masks.pt")
    one = start(out / "one", *AS_IN_ONE)
    two = start(out / "two", *AS_IN_ONE, *OF_THEIR_OWN, ranks=2)
    for run in (one, two):
        code, said = forked.finish(run)
        assert code == 0, said[-3000:]
    return out / "one", out / "two"


@pytest.mark.parametrize("case", AS_IN_ONE)
def test_two_processes_are_one_on_the_joint_batch(runs, case):
    one, two = (result(out, case) for out in runs)
    assert_equal(one["masks"], two["masks"])
    assert one["metrics"].keys() == two["metrics"].keys()
    for name, value in one["weights"].items():
        torch.testing.assert_close(value, two["weights"][name], rtol=0, atol=1e-6)
