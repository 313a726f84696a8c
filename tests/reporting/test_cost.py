import pytest
import torch
from torch import nn

from lightning_sparse import convert_, sparsify_, summary
from lightning_sparse.layers import DCTOffset, NoOffset
from lightning_sparse.layers.offsets import PretrainedOffset
from lightning_sparse.layers.offsets.base import OFFSETS
from lightning_sparse.reporting.cost import LayerCost, cost_table, planned_bytes, planned_storage


def test_hand_worked_costs():
    linear = LayerCost("fc", (16, 64), kept=10)
    assert linear.dense == 1024
    assert linear.dctps == 64 * 6 + 10
    assert linear.density_floor == pytest.approx(6 / 16)
    conv = LayerCost("conv", (32, 4, 2, 2), kept=5)  # 32 filters on patches of 16
    assert conv.dctps == 32 * 5 + 5
    assert conv.density_floor == pytest.approx(5 / 16)


def test_extreme_shapes():
    assert LayerCost("one", (1, 1), kept=1).dctps == 1
    assert LayerCost("thin", (1, 64), kept=1).density_floor == 1.0


def test_table_without_known_budgets_still_has_the_total():
    text = cost_table([LayerCost("fc", (16, 64), None)], kept=102)
    assert "by score" in text
    assert "102" in text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("offset", [None, *OFFSETS])
def test_plans_say_what_will_be_stored(offset, dtype):
    net = nn.Sequential(nn.Linear(32, 10)).to(dtype)
    if offset is None:
        sparsify_(net, "erk", 0.1)
    else:
        convert_(net, 0.1, offset=offset)
    (layer,), plan = summary(net).layers, OFFSETS[offset]() if offset else None
    weight = torch.empty(10, 32, dtype=dtype)
    planned = planned_storage(plan), planned_bytes(weight, layer.kept, plan, on_cpu=True)
    assert (layer.storage, layer.stored) == planned


def test_storages_and_bytes_of_a_plan():
    weight = torch.empty(10, 32, dtype=torch.bfloat16)
    found = {
        offset and offset.name: (planned_storage(offset), planned_bytes(weight, 30, offset, on_cpu=True))
        for offset in (None, NoOffset(), DCTOffset(), PretrainedOffset())
    }
    assert found == {
        None: ("masked", 320 * 2 + 320 * 2),
        "none": ("compact", 30 * (2 + 4)),
        "dct": ("dct + compact", 30 * (2 + 4)),
        "pretrained": ("pretrained + compact", 30 * (4 + 4) + 320 * 2),
    }
    assert planned_bytes(weight, 30, None, on_cpu=False) == 320 * 2 + 320
    assert planned_bytes(weight, None, NoOffset(), on_cpu=True) is None
    assert "by score" in cost_table([LayerCost("fc", (10, 32), None, "compact", None)], 30)
