import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from devices import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_sparse.functional.growth.moves import (
    count_dropped,
    drop_and_grow,
    drop_and_grow_at_random,
    move_support,
    move_support_at_random,
)
from lightning_sparse.functional.schedules import cosine

GOLDEN = Path(__file__).parents[2] / "golden"
RUNS: dict[str, dict[str, Any]] = json.loads((GOLDEN / "rigl_update.json").read_text())["runs"]
ARRAYS = dict(np.load(GOLDEN / "rigl_update.npz"))


def survivors(mask: Tensor, drop_scores: Tensor, fraction: float) -> npt.NDArray[np.int64]:
    active, scores = np.flatnonzero(mask.numpy()), drop_scores.numpy().ravel()
    stay = active.size - math.floor(fraction * active.size)
    return active[np.argsort(-scores[active], kind="stable")[:stay]]


def oracle(mask: Tensor, drop_scores: Tensor, grow_scores: Tensor, fraction: float) -> npt.NDArray[np.bool_]:
    """The rule by sorting everything, slowly; a stable sort leaves ties in flat order."""
    kept, scores = survivors(mask, drop_scores, fraction), grow_scores.numpy().ravel()
    others = np.setdiff1d(np.arange(scores.size), kept)
    new = np.zeros(scores.size, bool)
    new[kept] = new[others[np.argsort(-scores[others], kind="stable")[: int(mask.sum()) - kept.size]]] = True
    return new.reshape(mask.shape)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bools(text: str) -> Tensor:
    return torch.tensor([c == "x" for c in text])


def support_of(mask: Tensor, dtype: torch.dtype = torch.int32) -> Tensor:
    return mask.flatten().nonzero().flatten().to(dtype)


def golden(case: str, layer: str) -> dict[str, Tensor]:
    prefix = f"{case}.{layer}."
    return {key.removeprefix(prefix): torch.tensor(a) for key, a in ARRAYS.items() if key.startswith(prefix)}


def update(arrays: dict[str, Tensor], fraction: float) -> Tensor:
    return drop_and_grow(arrays["mask_in"].bool(), arrays["w_in"].abs(), arrays["grad_in"].abs(), fraction)


@pytest.mark.parametrize("layer", ["linear", "conv"])
@pytest.mark.parametrize("case", [name for name, run in RUNS.items() if not run["tie_dependent"]])
def test_rigl_equals_the_reference(case: str, layer: str) -> None:
    run, arrays = RUNS[case], golden(case, layer)
    fraction = cosine(run["step"], run["t_end"], run["alpha"])
    if layer in run["rounding_dependent_layers"]:
        # 0.15 * 180 is 27, but not in the float32 of TensorFlow, where the fraction is 0.14999998.
        assert torch.equal(update(arrays, fraction), arrays["mask_out_rigltorch"].bool())
        fraction = run["drop_fraction_float32"]
    new = update(arrays, fraction)
    assert torch.equal(new, arrays["mask_out"].bool())
    # What is new starts at zero, with no momentum; what was dropped and grown again keeps both.
    is_new = new & ~arrays["mask_in"].bool()
    assert torch.equal(arrays["w_in"].masked_fill(is_new, 0) * new, arrays["w_out_masked"])
    assert torch.equal(arrays["mom_in"].masked_fill(is_new, 0), arrays["mom_out"])


@pytest.mark.parametrize("layer", ["linear", "conv"])
@pytest.mark.parametrize("case", [name for name, run in RUNS.items() if run["tie_dependent"]])
def test_active_zeros_are_active_unlike_in_the_reference(case: str, layer: str) -> None:
    """Half of the active weights are zero. The reference keeps inactive positions that tie with them."""
    run, arrays = RUNS[case], golden(case, layer)
    new = update(arrays, cosine(run["step"], run["t_end"], run["alpha"]))
    facts = next(facts for facts in run["layers"] if facts["layer"] == layer)
    old, moved = arrays["mask_in"].bool(), facts["n_prune"]
    assert new.sum() == old.sum() == arrays["mask_out"].sum()
    assert (new & ~old).sum() <= moved < facts["grown_new"]  # it replaces more than it is asked to
    assert (arrays["w_in"][old & ~new] == 0).all()  # there are more zeros than there are to drop
    best_others = arrays["grad_in"].abs().masked_fill(new, 0).max()
    assert (arrays["grad_in"].abs()[new & ~old] >= best_others).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("mask", "drop", "grow", "fraction", "expected"),
    [
        ("xxxx....", [4, 1, 3, 2, 0, 0, 0, 0], [0, 0, 0, 0, 1, 2, 3, 4], 0.5, "x.x...xx"),
        ("xxxx....", [4, 1, 3, 2, 0, 0, 0, 0], [0, 9, 0, 0, 1, 2, 3, 4], 0.5, "xxx....x"),  # 1 comes back
        (
            "xxxx....",
            [4, 1, 3, 2, 0, 0, 0, 0],
            [9, 0, 9, 0, 1, 2, 3, 4],
            0.5,
            "x.x...xx",
        ),  # the kept do not grow
        ("xxxx....", [0, 1, 0, 2, 9, 9, 9, 9], [0, 0, 0, 0, 1, 2, 3, 4], 0.5, ".x.x..xx"),  # zeros are active
        ("xxxx....", [1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 2, 2, 2], 0.5, "xx...xx."),  # ties: the first
        ("xxxx....", [1, 2, 3, 4, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0], 0.5, "xxxx...."),  # the dropped lead
        ("xxxx....", [1, 2, 3, 4, 0, 0, 0, 0], [9, 9, 9, 9, 9, 9, 9, 9], 0.24, "xxxx...."),  # floor(0.96)
        ("xxxx....", [1, 2, 3, 4, 0, 0, 0, 0], [1, 1, 1, 1, 2, 2, 2, 2], 1.0, "....xxxx"),
        ("xxxxxxxx", [8, 7, 6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6, 7, 8], 0.5, "xxxxxxxx"),  # nowhere else
        ("........", [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8], 0.5, "........"),
        ("xx......", [1, 1, 0, 0, 0, 0, 0, 0], [-5, -5, -3, -2, -9, -4, -3, -2], 1.0, "...x...x"),
    ],
)
def test_hand_worked(
    device: str, mask: str, drop: list[float], grow: list[float], fraction: float, expected: str
) -> None:
    old, drop_scores, grow_scores = (
        t.to(device) for t in (bools(mask), torch.tensor(drop).float(), torch.tensor(grow).float())
    )
    new = drop_and_grow(old, drop_scores, grow_scores, fraction)
    assert torch.equal(new.cpu(), bools(expected))
    support = support_of(old)
    moved = move_support(support, drop_scores[support.long()], grow_scores, fraction)
    assert torch.equal(moved.cpu(), support_of(bools(expected)))


SCORE = st.one_of(st.sampled_from([0.0, -0.0, 1.0, 2.0]), st.floats(0, 1e6, width=32))
SHAPES = st.sampled_from([(1,), (7,), (5, 4), (3, 2, 3, 3), (0,), (2, 30)])


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, float]:
    shape = draw(SHAPES)
    size = math.prod(shape)
    columns = [draw(st.lists(kind, min_size=size, max_size=size)) for kind in (st.booleans(), SCORE, SCORE)]
    mask, drop, grow = (torch.tensor(column).view(shape) for column in columns)
    return (
        mask.bool(),
        drop.float(),
        grow.float(),
        draw(st.sampled_from([0.0, 0.3, 0.5, 1.0]) | st.floats(0, 1)),
    )


@settings(deadline=None, max_examples=300)
@given(layer=layers(), index_dtype=st.sampled_from([torch.int32, torch.int64]))
def test_both_forms_equal_a_sort(
    layer: tuple[Tensor, Tensor, Tensor, float], index_dtype: torch.dtype
) -> None:
    mask, drop_scores, grow_scores, fraction = layer
    before = [t.clone() for t in layer[:3]]
    new = drop_and_grow(*layer)
    assert new.dtype == torch.bool
    assert np.array_equal(new.numpy(), oracle(*layer))
    assert new.sum() == mask.sum()
    support = support_of(mask, index_dtype)
    moved = move_support(support, drop_scores.flatten()[support.long()], grow_scores, fraction)
    assert torch.equal(moved, support_of(new, index_dtype))
    assert moved.dtype == index_dtype
    assert all(torch.equal(t, b) for t, b in zip(layer[:3], before, strict=True))


@settings(deadline=None, max_examples=200)
@given(layer=layers(), seed=st.integers(0, 9))
def test_random_growth_drops_the_same_and_keeps_the_count(
    layer: tuple[Tensor, Tensor, Tensor, float], seed: int
) -> None:
    mask, drop_scores, _, fraction = layer
    new = drop_and_grow_at_random(mask, drop_scores, fraction, seeded(seed))
    assert new.shape == mask.shape
    assert new.sum() == mask.sum()
    assert new.numpy().ravel()[survivors(mask, drop_scores, fraction)].all()
    support = support_of(mask)
    moved = move_support_at_random(
        support, drop_scores.flatten()[support.long()], mask.numel(), fraction, seeded(seed)
    )
    assert torch.equal(moved, support_of(new))
    assert moved.dtype == support.dtype


@pytest.mark.parametrize(
    ("mask", "subsets"),
    [("xxxx........", math.comb(10, 2)), ("xxxxxxxx....", math.comb(8, 4))],  # draws again; shuffles
)
def test_random_growth_prefers_no_set_of_positions(mask: str, subsets: int) -> None:
    rounds, generator, old = 4000, seeded(), bools(mask)
    scores = torch.arange(12.0)  # the first half of the active ones is dropped, and may return
    grown = Counter(
        tuple(support_of(drop_and_grow_at_random(old, scores, 0.5, generator)).tolist())
        for _ in range(rounds)
    )
    assert len(grown) == subsets
    expected = rounds / subsets
    chi_squared = sum((n - expected) ** 2 / expected for n in grown.values())
    assert chi_squared < subsets - 1 + 5 * math.sqrt(2 * (subsets - 1))  # its mean and five deviations


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["normal", "ties", "mostly zero"])
@pytest.mark.parametrize("density", [0.01, 0.5, 0.99, 1.0])
def test_large_layers_are_ranked_exactly(device: str, kind: str, density: float) -> None:
    generator, shape = seeded(), (600, 1000)
    mask = torch.rand(shape, generator=generator) < density
    drop_scores, grow_scores = torch.randn((2, *shape), generator=generator).abs()
    if kind == "ties":
        drop_scores, grow_scores = (drop_scores * 4).round(), (grow_scores * 4).round()
    elif kind == "mostly zero":
        drop_scores[::2], grow_scores[drop_scores < 2] = 0, 0
    new = drop_and_grow(*(t.to(device) for t in (mask, drop_scores, grow_scores)), 0.3).cpu()
    assert np.array_equal(new.numpy(), oracle(mask, drop_scores, grow_scores, 0.3))
    at_random = drop_and_grow_at_random(mask.to(device), drop_scores.to(device), 0.3, seeded(7)).cpu()
    assert at_random.sum() == mask.sum()
    assert torch.equal(at_random, drop_and_grow_at_random(mask, drop_scores, 0.3, seeded(7)))  # on any device


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_and_layouts(dtype: torch.dtype) -> None:
    shape = (8, 6, 3, 3)
    mask = torch.rand(shape, generator=seeded(1)) < 0.4
    drop_scores, grow_scores = torch.rand((2, *shape), generator=seeded(2)).to(dtype)
    expected = oracle(mask, drop_scores.double(), grow_scores.double(), 0.5)
    assert np.array_equal(drop_and_grow(mask, drop_scores, grow_scores, 0.5).numpy(), expected)
    permuted = (t.contiguous(memory_format=torch.channels_last) for t in (mask, drop_scores, grow_scores))
    assert np.array_equal(drop_and_grow(*permuted, 0.5).numpy(), expected)  # ties by C order all the same


def test_moves_are_no_part_of_the_graph() -> None:
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    assert drop_and_grow(bools("xx.."), weight.abs(), weight.abs(), 0.5).tolist() == [
        False,
        True,
        False,
        True,
    ]


def test_only_scores_that_count_must_be_finite() -> None:
    mask = bools("xx..")
    unused = torch.tensor([1.0, 2.0, math.nan, math.inf])
    huge = torch.full((4,), 3e38)  # finite, but their sum is not
    assert drop_and_grow(mask, unused, huge, 0.5).tolist() == [True, True, False, False]
    assert drop_and_grow_at_random(mask, unused, 0.0, seeded()).tolist() == [True, True, False, False]


ONES, MASK, SUPPORT = torch.ones(4), bools("xx.."), torch.tensor([0, 1])
BAD = torch.tensor([1.0, math.nan, math.inf, 1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: count_dropped(10, 1.5), r"`fraction` must be in \[0, 1\], got 1\.5\. It is the share"),
        (lambda: drop_and_grow(MASK, ONES, ONES, -0.1), r"`fraction` must be in \[0, 1\], got -0\.1\."),
        (lambda: drop_and_grow(MASK, ONES, ONES, math.nan), r"`fraction` .*, got nan\."),
        (
            lambda: drop_and_grow(ONES, ONES, ONES, 0.5),
            r"`mask` must be boolean, got torch\.float32\. Convert",
        ),
        (
            lambda: drop_and_grow(MASK, ONES[:3], ONES, 0.5),
            r"`drop_scores` must have the shape of `mask`, \(4,\), got \(3,\)\.",
        ),
        (
            lambda: drop_and_grow(MASK, ONES, ONES.view(2, 2), 0.5),
            r"`grow_scores` must have the shape of `mask`, \(4,\), got \(2, 2\)\.",
        ),
        (
            lambda: drop_and_grow(MASK, ONES, BAD, 0.5),  # both where weights are kept and where they are not
            r"`grow_scores` must be finite, got 2 that are not\. Leave this update out\.",
        ),
        (lambda: drop_and_grow(MASK, BAD, ONES, 0.5), r"`drop_scores` must be finite, got 1 that are not\."),
        (lambda: drop_and_grow_at_random(MASK, BAD, 0.5, seeded()), r"`drop_scores` must be finite"),
        (
            lambda: move_support(SUPPORT, ONES, ONES, 0.5),
            r"`drop_scores` must have one score per entry of `support`, \(2,\), got \(4,\)\. Take them",
        ),
        (
            lambda: move_support(SUPPORT.flip(0), ONES[:2], ONES, 0.5),
            r"`support` must be ascending, got positions that are not\. Sort it",
        ),
        (lambda: move_support(torch.tensor([1, 1]), ONES[:2], ONES, 0.5), r"`support` must be ascending"),
        (
            lambda: move_support_at_random(SUPPORT + 3, ONES[:2], 4, 0.5, seeded()),
            r"`support` must be within the 4 weights, got 3 to 4\.",
        ),
        (lambda: move_support(SUPPORT - 1, ONES[:2], ONES, 0.5), r"within the 4 weights, got -1 to 0\."),
    ],
)
def test_arguments_that_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
