import sys

import torch

from lightning_sparse.reporting.layers import (
    LayerCount,
    count_layers,
    render_table,
    sparsity_metrics,
    sparsity_table,
)

LAYERS = [LayerCount("stem", (3, 2), 6, 3), LayerCount("head", (1, 4), 4, 1)]


def test_counts_come_from_masks_where_there_are_any():
    weights = {"a.weight": torch.tensor([[0.0, 1.0]]), "b.weight": torch.tensor([[0.0, 2.0]])}
    masks = {"a.weight": torch.tensor([[True, True]])}  # a kept weight may be zero
    assert count_layers(weights, masks) == [LayerCount("a", (1, 2), 2, 2), LayerCount("b", (1, 2), 2, 1)]


def test_metrics():
    each = {"sparsity_layers/stem": 0.5, "sparsity_layers/head": 0.75}
    assert sparsity_metrics(LAYERS) == {"sparsity/total": 0.6, **each}
    assert sparsity_metrics(LAYERS, per_layer=False) == {"sparsity/total": 0.6}


def cells(text):
    return [line.split() for line in text.splitlines() if not set(line) <= set(" ─-")]


def test_table_by_rich_and_in_plain_text_say_the_same(monkeypatch):
    expected = [
        ["layer", "shape", "weights", "kept", "density"],
        ["stem", "3", "x", "2", "6", "3", "50.0000%"],
        ["head", "1", "x", "4", "4", "1", "25.0000%"],
        ["total", "10", "4", "40.0000%"],
    ]
    assert cells(sparsity_table(LAYERS)) == expected
    for name in ("rich.box", "rich.console", "rich.table"):
        monkeypatch.setitem(sys.modules, name, None)
    assert cells(sparsity_table(LAYERS)) == expected


def test_long_names_are_not_cut():
    name = "encoder." * 20 + "fc"
    assert name in render_table(("layer", "shape"), [(name, "[not markup]")])
    assert "[not markup]" in render_table(("layer", "shape"), [(name, "[not markup]")])
