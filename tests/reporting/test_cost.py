import pytest

from lightning_sparse.reporting.cost import LayerCost, cost_table


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
