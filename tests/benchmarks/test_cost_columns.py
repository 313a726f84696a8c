"""The cost columns: bytes are those that can be worked out by hand, and every row can be measured."""

import pytest
import torch
from torch import nn

from benchmarks.harness.allocations import peak_allocated
from benchmarks.speed import cost_columns
from benchmarks.speed.cost_columns import Case, Cost, measure, table, ways

pytestmark = pytest.mark.usefixtures("settings_stay")
ROWS = (
    "dense",
    "random, masked",
    "random, compact",
    "FORCE, 60, compact",
    "IMP, last round",
    "DCTpS + RigL, auto",
)


def test_the_peak_of_a_piece_of_work():
    def work():
        whole = torch.empty(1_000, 1_000)
        half = torch.empty(500, 1_000)
        del whole
        return half, torch.empty(250, 1_000)

    found, peak = peak_allocated(work)
    assert len(found) == 2
    assert peak == 6_000_000


@pytest.fixture(scope="module")
def costs():
    torch.manual_seed(0)
    batch = torch.randn(8, 1, 8, 8), torch.randint(10, (8,))
    case = Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 50, bias=False)), 0.1, batch)
    return {way.name: measure(way, case) for way in ways() if way.name in ROWS}


def test_bytes_by_hand(costs):
    weights, kept = 4 * 64 * 50, 320
    dense, compact, scored = costs["dense"], costs["random, compact"], costs["FORCE, 60, compact"]
    assert (dense.start_kept, dense.start_peak, dense.end) == (weights, weights, weights)
    assert dense.kept == 4 * weights + 4  # gradient, two moments, and the count of steps
    assert compact.start_kept == scored.start_kept == compact.end == 8 * kept  # values, int32 positions
    assert compact.kept >= 5 * 4 * kept + 4
    assert scored.start_peak > 2 * weights  # the dense net, and its gradient
    assert costs["IMP, last round"].kept >= dense.kept + 2 * weights  # masks, and the weights of the start


def test_the_table_has_the_papers_column_beside(costs):
    times = {"step_seconds": 2e-3, "update_seconds": 4e-3}
    timed = {name: Cost(**vars(cost) | times) for name, cost in costs.items()}
    lines = table([way for way in ways() if way.name in costs], timed)
    assert len(lines) == 2 + len(costs)
    assert "| 0, pmn, pmn; PN, PN, PN |" in lines[3]
    assert timed["dense"].mean_seconds == pytest.approx(2.02e-3)


def test_every_row_is_there_once():
    names = [way.name for way in ways()]
    assert len(set(names)) == len(names) == 20
    assert {"tiny", "lenet5", "resnet18"} <= cost_columns.NETS.keys()
