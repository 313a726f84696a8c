"""The best of scores that lie on several processes are those of one process, ties and zeros included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shards_toy import on_each

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.masks import global_masks, layerwise_masks
from lightning_sparse.functional.shards.layout import Shards
from lightning_sparse.functional.shards.ranking import best_in_shards, global_in_shards, layerwise_in_shards

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
FEW = [0.0, -0.0, 1.0, -1.0, 0.1, 1e-40, -1e-40, 3e38, -torch.inf, torch.inf]


@st.composite
def layers(draw, values=None):
    """Scores of a few layers, many of them equal, and how many processes hold their rows."""
    values = st.sampled_from(FEW) if values is None else values
    shapes = draw(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 4)), min_size=1, max_size=4))
    dtype = draw(st.sampled_from(DTYPES))
    scores = {}
    for number, (rows, columns) in enumerate(shapes):
        entries = draw(st.lists(values, min_size=rows * columns, max_size=rows * columns))
        scores[f"layer {number}"] = torch.tensor(entries, dtype=dtype).view(rows, columns)
    return scores, draw(st.integers(1, 4))


def whole(parts):
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, mask in expected.items():
        assert torch.equal(found[name], mask), name


def rows(scores, shards):
    return {name: shards.of(score) for name, score in scores.items()}


@settings(max_examples=60, deadline=None)
@given(layers(), st.data())
def test_layers_by_themselves(some, data):
    scores, count = some
    budgets = {name: data.draw(st.integers(0, score.numel())) for name, score in scores.items()}
    found, _ = on_each(count, lambda s: layerwise_in_shards(rows(scores, s), budgets, s))
    assert_same(whole(found), layerwise_masks(scores, budgets))


@settings(max_examples=60, deadline=None)
@given(layers(), st.data())
def test_layers_together(some, data):
    """With a minimum for each layer, and some that have a budget of their own."""
    scores, count = some
    sizes = {name: score.numel() for name, score in scores.items()}
    fixed = {
        name: data.draw(st.integers(0, sizes[name]))
        for name in list(sizes)[1:][: data.draw(st.integers(0, 2))]
    }
    rest = sum(size for name, size in sizes.items() if name not in fixed)
    least = data.draw(st.integers(0, 2))
    needed = sum(min(least, size) for name, size in sizes.items() if name not in fixed)
    k = data.draw(st.integers(needed, rest)) + sum(fixed.values())
    found, _ = on_each(
        count, lambda s: global_in_shards(rows(scores, s), sizes, k, s, min_weights=least, fixed=fixed)
    )
    assert_same(whole(found), global_masks(scores, k, min_weights=least, fixed=fixed))


@settings(max_examples=30, deadline=None)
@given(layers(st.floats(width=32, allow_nan=False)), st.data())
def test_any_floats(some, data):
    scores, count = some
    k = data.draw(st.integers(0, sum(score.numel() for score in scores.values())))
    found, _ = on_each(count, lambda s: best_in_shards(rows(scores, s), [list(scores)], [k], s))
    assert_same(whole(found), global_masks(scores, k))


def test_ties_go_by_layer_then_process_then_place():
    scores = {"a": torch.tensor([[1.0], [2.0], [2.0]]), "b": torch.tensor([[2.0], [0.0], [2.0]])}
    found, _ = on_each(3, lambda s: best_in_shards(rows(scores, s), [["a", "b"]], [3], s))
    assert [{name: mask.flatten().tolist() for name, mask in part.items()} for part in found] == [
        {"a": [False], "b": [True]},
        {"a": [True], "b": [False]},
        {"a": [True], "b": [False]},
    ]


def test_what_is_sent_does_not_depend_on_how_much_there_is():
    """Four sums of 256 counts for each ranking, however many scores; a few numbers per layer beside that."""
    sent = []
    for size in (10, 1000):
        scores = {name: torch.randn(size, 8) for name in ("a", "b")}
        budgets = dict.fromkeys(scores, size)
        _, counter = on_each(2, lambda s, x=scores, b=budgets: layerwise_in_shards(rows(x, s), b, s))
        sent.append((counter.bytes, counter.sums))
    assert sent == [(4 * 2 * 256 * 8 + 2 * 8 + 2 * 2 * 8, 6)] * 2


@pytest.mark.parametrize(
    ("bad", "k", "message"), [(torch.nan, 2, "NaN, got 1 in 'b'"), (0.5, 13, "12 scores")]
)
def test_every_process_says_what_is_wrong(bad, k, message):
    """On which one it is makes no difference: the others would wait for it."""
    scores = {"a": torch.ones(3, 2), "b": torch.tensor([[1.0, 2.0], [3.0, 4.0], [bad, 5.0]])}

    def ask(shards):
        with pytest.raises(SparsityError, match=message):
            best_in_shards(rows(scores, shards), [["a", "b"]], [k], shards)
        return True

    assert on_each(2, ask)[0] == [True, True]


@given(st.integers(0, 20), st.integers(1, 6))
def test_rows_are_those_of_torch_chunk(size, count):
    expected = [len(part) for part in torch.arange(size).chunk(count)] if size else []
    mine = [Shards(number, count, lambda x: x).rows(size) for number in range(count)]
    assert [part.stop - part.start for part in mine] == [*expected, *[0] * (count - len(expected))]
