import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from devices import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_sparse.functional import ranking as ranking_module
from lightning_sparse.functional.masks import count_kept, global_masks, layerwise_masks, top_k_mask
from lightning_sparse.functional.ranking import in_pieces
from lightning_sparse.types import Budgets, Masks, Scores

GOLDEN = Path(__file__).parents[1] / "golden"
CASE: dict[str, Any] = json.loads((GOLDEN / "maskfns.json").read_text())
ARRAYS = dict(np.load(GOLDEN / "maskfns.npz"))
SAMPLES = [2**16, 4]  # with the small one, few scores go through the sampled bracket as millions do


def bools(*rows: str) -> Tensor:
    return torch.tensor([[c == "x" for c in row] for row in rows])


def ranking(scores: Scores) -> list[tuple[str, int]]:
    """The slow oracle: every entry as (layer, flat index), best first, ties in order (sort is stable)."""
    entries = [(name, i, s) for name, score in scores.items() for i, s in enumerate(score.flatten().tolist())]
    return [(name, i) for name, i, _ in sorted(entries, key=lambda entry: -entry[2])]


def kept(masks: Masks) -> set[tuple[str, int]]:
    return {(name, i) for name, mask in masks.items() for i in mask.flatten().nonzero().flatten().tolist()}


SCORE = st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0]), st.floats(-1e6, 1e6, width=32))
LAYERS = st.lists(st.lists(SCORE, max_size=40), min_size=1, max_size=5).map(
    lambda layers: {str(i): torch.tensor(layer) for i, layer in enumerate(layers)}
)


def size_of(scores: Scores) -> int:
    return sum(score.numel() for score in scores.values())


@pytest.mark.parametrize("device", DEVICES)
def test_hand_worked_masks(device: str) -> None:
    scores = torch.tensor([[0.3, -2.0, 0.5], [0.5, 0.5, -0.1]], device=device)
    expected = [
        bools("...", "..."),
        bools("..x", "..."),  # three tie at 0.5: the first in C order
        bools("..x", "x.."),
        bools("..x", "xx."),
        bools("x.x", "xx."),
        bools("x.x", "xxx"),  # negative scores are ranked as they are, not by magnitude
        bools("xxx", "xxx"),
    ]
    for k, mask in enumerate(expected):
        assert torch.equal(top_k_mask(scores, k).cpu(), mask)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("k", "min_weights", "fixed", "a", "b"),
    [
        (4, 0, None, bools("xx", "x."), bools("x..")),  # three tie at 1: the first in layer order
        (4, 2, None, bools("x.", "x."), bools("xx.")),  # b falls short, keeps its best 2; a ranks for 2
        (6, 3, None, bools("xx", "x."), bools("xxx")),
        (6, 9, {"a": 3}, bools("xx", "x."), bools("xxx")),  # b has only 3; a's budget is not raised
        (3, 0, {"b": 2}, bools("x.", ".."), bools("xx.")),
        (4, 1, {"b": 0}, bools("xx", "xx"), bools("...")),
        (3, 1, {"a": 1, "b": 2}, bools("x.", ".."), bools("xx.")),
    ],
)
def test_hand_worked_global_masks(
    device: str, k: int, min_weights: int, fixed: Budgets | None, a: Tensor, b: Tensor
) -> None:
    scores = {"a": torch.tensor([[5.0, 1.0], [4.0, 1.0]]), "b": torch.tensor([[3.0, 1.0, 0.0]])}
    on_device = {name: score.to(device) for name, score in scores.items()}
    masks = global_masks(on_device, k, min_weights=min_weights, fixed=fixed)
    assert list(masks) == ["a", "b"]
    assert torch.equal(masks["a"].cpu(), a)
    assert torch.equal(masks["b"].cpu(), b)


@pytest.mark.parametrize("sample", SAMPLES)
@settings(deadline=None, max_examples=150)
@given(scores=LAYERS, data=st.data())
def test_global_masks_equal_a_sort(sample: int, scores: Scores, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, size_of(scores)))
    before = {name: score.clone() for name, score in scores.items()}
    with mock.patch.multiple(ranking_module, _SAMPLE=sample, _CHUNK=7):
        masks = global_masks(scores, k)
    assert count_kept(masks) == k
    assert kept(masks) == set(ranking(scores)[:k])
    for name, score in scores.items():
        assert masks[name].dtype == torch.bool
        assert masks[name].shape == score.shape
        assert torch.equal(score, before[name])  # the scores themselves are left in place


@pytest.mark.parametrize("sample", SAMPLES)
@settings(deadline=None, max_examples=100)
@given(scores=LAYERS, min_weights=st.integers(0, 5), data=st.data())
def test_a_minimum_reserves_the_best_of_each_layer(
    sample: int, scores: Scores, min_weights: int, data: st.DataObject
) -> None:
    reserved = {entry for name in scores for entry in ranking({name: scores[name]})[:min_weights]}
    k = data.draw(st.integers(len(reserved), size_of(scores)))
    others = [entry for entry in ranking(scores) if entry not in reserved]
    with mock.patch.multiple(ranking_module, _SAMPLE=sample, _CHUNK=7):
        masks = global_masks(scores, k, min_weights=min_weights)
    assert kept(masks) == reserved | set(others[: k - len(reserved)])


@settings(deadline=None, max_examples=50)
@given(scores=LAYERS, data=st.data())
def test_fixed_layers_rank_by_themselves(scores: Scores, data: st.DataObject) -> None:
    names = data.draw(st.sets(st.sampled_from(list(scores))))
    fixed = {name: data.draw(st.integers(0, scores[name].numel())) for name in sorted(names)}
    free = {name: score for name, score in scores.items() if name not in fixed}
    rest = data.draw(st.integers(0, size_of(free)))
    masks = global_masks(scores, sum(fixed.values()) + rest, fixed=fixed)
    expected = set(ranking(free)[:rest])
    for name, budget in fixed.items():
        expected |= set(ranking({name: scores[name]})[:budget])
    assert kept(masks) == expected
    layers = {name: int(mask.sum()) for name, mask in masks.items()}
    assert kept(layerwise_masks(scores, layers)) == expected  # the same, said layer by layer


@pytest.mark.parametrize("value", [0.0, -3.0, math.inf])
@pytest.mark.parametrize("k", [0, 1, 599_999, 600_000])
def test_when_all_scores_tie_the_first_are_kept(value: float, k: int) -> None:
    scores = torch.full((600, 1000), value)
    assert top_k_mask(scores, k).flatten().nonzero().flatten().equal(torch.arange(k))


@pytest.mark.parametrize("k", [1, 30_000, 300_001, 599_000, 600_000])
@pytest.mark.parametrize(
    "kind", ["normal", "rounded", "mostly zero", "sorted", "sample too high", "sample too low"]
)
def test_large_inputs_are_ranked_exactly(kind: str, k: int) -> None:
    scores = torch.randn(600_000, generator=torch.Generator().manual_seed(0))
    if kind == "rounded":
        scores = (scores * 8).round()
    elif kind == "mostly zero":
        scores[torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) < 0.9] = 0
    elif kind == "sorted":
        scores = scores.sort().values
    elif kind.startswith("sample"):  # every 9th score, the ones that the sample sees, is far off
        scores[:: scores.numel() // 2**16] += 100 if kind.endswith("high") else -100
    layers = {"a": scores[:200_001], "b": scores[200_001:201_000], "c": scores[201_000:]}
    masks = global_masks(layers, k)
    mask = np.concatenate([masks[name].numpy() for name in "abc"])
    expected = np.argsort(-scores.numpy(), kind="stable")[:k]
    assert np.array_equal(np.flatnonzero(mask), np.sort(expected))


@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 2**17), (600, 700)])
def test_pieces_are_all_of_a_tensor_each_once(shape: tuple[int, ...]) -> None:
    first, second = torch.zeros(shape), torch.ones(shape[::-1]).permute(tuple(reversed(range(len(shape)))))
    for a, b in in_pieces(first, second):
        assert a.shape == b.shape
        assert a.numel() <= 2**17 or len(a) == 1
        a.add_(b)
    assert torch.equal(first, second)


def test_a_misleading_sample_widens_the_bracket() -> None:
    scores = torch.arange(600_000.0)
    scores[:: 600_000 // 2**16] += 1e6
    with mock.patch.object(ranking_module, "_split", wraps=ranking_module._split) as split:
        assert ranking_module._kth_largest([scores], 300_000) == np.sort(scores.numpy())[-300_000]
    assert split.call_count > 1


@pytest.mark.parametrize("k", [50_000, 300_000])
def test_ties_at_the_threshold_are_counted_not_collected(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.zeros(600_000)  # as after pruning: nearly all scores are zero
    scores[torch.randperm(600_000, generator=generator)[:50_000]] = (
        torch.rand(50_000, generator=generator) + 1
    )
    with mock.patch.object(ranking_module, "_select", wraps=ranking_module._select) as select:
        top_k_mask(scores, k)
    assert all(len(call.args[0]) < 5000 for call in select.call_args_list)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (torch.int64, [2**53, 2**53 + 1, 2**53 - 1]),  # floats cannot tell the first two apart
        (torch.float64, [1.0, 1.0 + 1e-12, 1.0 - 1e-12]),  # nor float32 these
        (torch.float32, [1.0, 1.0 + 2e-7, 1.0 - 2e-7]),
        (torch.bfloat16, [2e30, 3e30, 1e30]),
        (torch.float16, [1.0, 1.0009765625, -1.0]),
        (torch.bool, [False, True, False]),
    ],
)
def test_every_dtype_is_ranked_without_loss(device: str, dtype: torch.dtype, values: list[float]) -> None:
    scores = torch.tensor(values, dtype=dtype, device=device)
    with mock.patch.multiple(
        ranking_module, _SAMPLE=16, _CHUNK=7
    ):  # 48 of each go through the sampled bracket
        many = torch.stack([scores] * 48)
        assert torch.equal(
            top_k_mask(many, 48), torch.tensor([False, True, False], device=device).expand(48, 3)
        )
    assert top_k_mask(scores, 1).tolist() == [False, True, False]
    assert top_k_mask(scores, 2).tolist() == [True, True, False]


def test_layers_of_different_dtype_are_compared_in_the_wider_one() -> None:
    scores = {
        "half": torch.tensor([1.0, 3.0]).half(),
        "double": torch.tensor([1 + 1e-12, 0], dtype=torch.float64),
    }
    assert kept(global_masks(scores, 2)) == {("half", 1), ("double", 0)}


def test_masks_are_laid_out_in_c_order_whatever_the_scores_are() -> None:
    scores = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)).round()
    mask = top_k_mask(scores.to(memory_format=torch.channels_last).requires_grad_(), 99)
    assert mask.is_contiguous()
    assert torch.equal(mask, top_k_mask(scores, 99))
    assert torch.equal(top_k_mask(torch.tensor(7.0), 1), torch.tensor(True))
    assert top_k_mask(scores.to(memory_format=torch.channels_last), 0).is_contiguous()
    assert top_k_mask(torch.empty(0, 3), 0).shape == (0, 3)


@pytest.mark.parametrize("run", CASE["runs"])
def test_the_reference_mask_is_our_top_k_at_its_own_count(run: str) -> None:
    # Under ties the references keep too many or too few, but always whole groups: the top-k of another k.
    scores, theirs = golden_run(run)
    if "local" in run:
        ours = layerwise_masks(scores, {name: int(mask.sum()) for name, mask in theirs.items()})
    else:
        ours = global_masks(scores, count_kept(theirs))
    assert count_kept(ours) == CASE["runs"][run]["kept"]
    assert all(torch.equal(ours[name], theirs[name]) for name in scores)


@pytest.mark.parametrize("run", [run for run in CASE["runs"] if "local" not in run])
def test_ties_are_cut_to_the_count_that_the_reference_wanted(run: str) -> None:
    scores, theirs = golden_run(run)
    density, size = float(run.rpartition("_d")[2]), size_of(scores)
    # SynFlow prunes all ties at the threshold, FORCE keeps them all.
    k = int(size * density) if "force" in run else size - int((1 - density) * size)
    ours = global_masks(scores, k)
    assert count_kept(ours) == k
    if "force" in run:
        threshold = torch.cat([score.flatten() for score in scores.values()]).topk(k).values[-1]
        assert kept({name: score > threshold for name, score in scores.items()}) <= kept(ours) <= kept(theirs)
    else:
        assert kept(theirs) <= kept(ours)
    if run.startswith("distinct"):
        assert kept(ours) == kept(theirs)


def test_the_golden_runs_have_ties_that_the_reference_gets_wrong() -> None:
    wrong = {
        run
        for run, counts in CASE["runs"].items()
        if "force" in run and counts["kept"] != int(counts["n"] * float(run.rpartition("_d")[2]))
    }
    assert wrong  # or the test above would not show anything


def golden_run(run: str) -> tuple[Scores, Masks]:
    case = run.partition(".")[0]
    layers = range(len(CASE["shapes"]))
    scores = {str(i): torch.from_numpy(ARRAYS[f"{case}.score.{i}"]) for i in layers}
    return scores, {str(i): torch.from_numpy(ARRAYS[f"{run}.mask.{i}"]).bool() for i in layers}


@pytest.mark.parametrize("k", [0, 5, 300_000, 600_000])
@pytest.mark.parametrize("kind", ["normal", "mostly zero", "mostly nan"])
def test_nan_is_found_among_many(kind: str, k: int) -> None:
    scores = torch.randn(600_000, generator=torch.Generator().manual_seed(0))
    if kind != "normal":
        scores[torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) < 0.9] = 0
    scores[1] = math.nan  # the sample does not see it
    if kind == "mostly nan":
        scores[scores == 0] = math.nan
    with pytest.raises(ValueError, match=r"`scores` must not contain NaN, got \d+ in 'b'"):
        global_masks({"a": torch.ones(3), "b": scores}, k)


def test_nan_has_no_rank() -> None:
    scores = {"a": torch.ones(3), "b": torch.tensor([1.0, math.nan, math.nan])}
    calls: list[Callable[[], Masks]] = [
        lambda: global_masks(scores, 2),
        lambda: global_masks(scores, 0),
        lambda: layerwise_masks(scores, {"a": 1, "b": 1}),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=r"`scores` must not contain NaN, got 2 in 'b'\. Look for an overflow"
        ):
            call()
    with pytest.raises(ValueError, match="got 2 in 'scores'"):
        top_k_mask(scores["b"].bfloat16(), 1)


@pytest.mark.parametrize("k", [-1, 7])
def test_k_out_of_range(k: int) -> None:
    with pytest.raises(ValueError, match=rf"`k` must be between 0 and the 6 scores of scores, got {k}\."):
        top_k_mask(torch.ones(2, 3), k)
    with pytest.raises(ValueError, match=rf"the 6 scores of conv, got {k}"):
        layerwise_masks({"conv": torch.ones(6)}, {"conv": k})


@pytest.mark.parametrize(
    ("k", "options", "message"),
    [
        (
            1,
            {"min_weights": 1},
            r"between 2 \(1 in each of 2 layers\) and 7 .* got 1: .*Raise `density` or lower",
        ),
        (8, {}, r"and 7 weights to rank globally, got 8: 8 in all, 0 of them .* Lower `density`\.$"),
        (3, {"fixed": {"a": 4}}, r"got -1: 3 in all, 4 of them .*Raise .*, or change `density_overrides`\."),
        (
            7,
            {"fixed": {"a": 3}},
            r"and 3 .*got 4: 7 in all.*Lower `density`, or change `density_overrides`\.",
        ),
        (3, {"fixed": {"c": 1}}, r"`fixed` must name layers among a, b, got c\."),
        (6, {"fixed": {"a": 5}}, r"`k` must be between 0 and the 4 scores of a, got 5"),
        (3, {"min_weights": -1}, r"`min_weights` must be an integer of at least 0, got -1"),
    ],
)
def test_impossible_global_budgets_name_the_way_out(k: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        global_masks({"a": torch.ones(2, 2), "b": torch.ones(3)}, k, **options)


def test_budgets_must_name_the_layers() -> None:
    with pytest.raises(
        ValueError, match=r"`budgets` must name the layers of `scores`, got a difference in b, c\."
    ):
        layerwise_masks({"a": torch.ones(2), "b": torch.ones(2)}, {"a": 1, "c": 1})
