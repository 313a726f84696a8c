import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_sparse.functional.allocation import (
    ALLOCATIONS,
    AllocationName,
    allocate,
    epl,
    erk,
    register_allocation,
    uniform,
)
from lightning_sparse.functional.budgets import layer_budget, total_budget
from lightning_sparse.functional.water_filling import share_out
from lightning_sparse.types import Budgets

GOLDEN = Path(__file__).parents[1] / "golden"
ABC = {"a": torch.Size([3, 4]), "b": torch.Size([2, 3, 2, 2]), "c": torch.Size([2, 2])}  # 12 + 24 + 4 = 40
NAMES: list[AllocationName] = list(ALLOCATIONS)
PROPORTION: dict[str, Callable[[torch.Size], int]] = {
    "uniform": math.prod,
    "erk": sum,
    "epl": lambda _: 1,
    "epf": lambda shape: shape[0],
}


def golden(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    return json.loads((GOLDEN / f"{name}.json").read_text()), dict(np.load(GOLDEN / f"{name}.npz"))


def shapes_of(case: dict[str, Any], model: str) -> dict[str, torch.Size]:
    return {name: torch.Size(shape) for name, shape in case["models"][model]["layers"]}


DCTPS, DCTPS_ARRAYS = golden("dctps_allocation")
RIGL, RIGL_ARRAYS = golden("rigl_erk")
RIGL_MODELS = ["resnet50", "vgg19", "mobilenet", "fixup_resnet110", "resnet18", "lenet"]
NETS = {model: shapes_of(RIGL, model) for model in RIGL_MODELS} | {
    "lenet300": {
        "fc1": torch.Size([300, 784]),
        "fc2": torch.Size([100, 300]),
        "fc3": torch.Size([10, 100]),
    }
}


def sizes_of(shapes: dict[str, torch.Size]) -> np.ndarray[Any, Any]:
    return np.array([math.prod(shape) for shape in shapes.values()])


def counts(budgets: Budgets) -> np.ndarray[Any, Any]:
    return np.array(list(budgets.values()))


@pytest.mark.parametrize(
    ("name", "density", "min_weights", "expected"),
    [
        ("uniform", 0.5, 1, [6, 12, 2]),
        ("erk", 0.5, 1, [7, 9, 4]),  # sums 7, 9, 4
        ("epl", 0.5, 1, [8, 8, 4]),  # 6.67 each, c is full at 4, the others share 16
        ("epf", 0.5, 1, [10, 6, 4]),  # 3 : 2 : 2, c is full, 16 shared as 9.6 : 6.4
        ("uniform", 0.1, 1, [1, 2, 1]),  # 1.2, 2.4, 0.4: c is lifted to 1, 3 shared as 1 : 2
        ("uniform", 0.1, 0, [1, 3, 0]),  # the remainders of b and c tie at 0.4: first in order
        ("erk", 0.1, 1, [1, 2, 1]),  # c is lifted, 3 shared as 1.31 : 1.69
        ("epl", 0.1, 1, [2, 1, 1]),  # 1.33 each, the first is rounded up
        ("epf", 0.1, 1, [2, 1, 1]),  # 1.71, 1.14, 1.14
        ("epf", 0.5, 7, [9, 7, 4]),  # b is lifted to 7, c to all of its 4
        *((name, 1.0, 1, [12, 24, 4]) for name in NAMES),
    ],
)
def test_hand_worked_tables(
    name: AllocationName, density: float, min_weights: int, expected: list[int]
) -> None:
    assert list(ALLOCATIONS[name](ABC, density, min_weights=min_weights).values()) == expected


def test_clipping_on_both_sides_at_once_goes_by_what_prevails() -> None:
    # At rate 1 the shares 10, 1, 1 clip to 5, 3, 3: one too few. Only the full layer is settled; the others
    # share 7 again and need not stay at their minimum of 3.
    assert share_out([10, 1, 1], [5, 20, 20], 12, 3) == [5, 4, 3]
    # The mirror image: at rate 1.25 the shares clip to 10, 3, 3: one too many. Only the layers at their
    # minimum are settled; the first need not stay full.
    assert share_out([10, 1, 1], [10, 20, 20], 15, 3) == [9, 3, 3]


@pytest.mark.parametrize(
    ("num_weights", "density", "total"),
    [(10, 0.25, 3), (10, 0.35, 4), (10, 1, 10), (1000, 1e-4, 0), (266200, 0.01, 2662)],
)
def test_total_is_rounded_half_up(num_weights: int, density: float, total: int) -> None:
    assert total_budget(num_weights, density) == total  # 2.5 becomes 3, where Python's round() says 2


@pytest.mark.parametrize("density", [0.5, 0.1, 0.05, 0.01, 1e-3, 1e-4])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("net", NETS)
def test_papers_networks_get_their_exact_total(net: str, name: AllocationName, density: float) -> None:
    budgets, sizes = ALLOCATIONS[name](NETS[net], density), sizes_of(NETS[net])
    assert list(budgets) == list(NETS[net])
    assert sum(budgets.values()) == math.floor(density * sizes.sum() + 0.5)
    assert (counts(budgets) <= sizes).all()
    assert (counts(budgets) >= 1).all()
    assert all(type(budget) is int for budget in budgets.values())


@pytest.mark.parametrize("density", RIGL["densities"])
@pytest.mark.parametrize("net", RIGL_MODELS)
def test_erk_agrees_with_rigl_within_its_flooring(net: str, density: float) -> None:
    # RigL keeps n - floor(s n) weights per layer, with zeros floored. In the total that it shares this makes
    # delta = sum(n - floor(s n)) - ours more, less than one per layer, of which a layer with share q of the
    # proportions gets q * delta; then it rounds every layer up. So it keeps as many as we or more, by at most
    # 1 + ceil(q * delta). Our minimum of 1 changes nothing at these densities.
    shapes, sizes = NETS[net], sizes_of(NETS[net])
    ours = counts(erk(shapes, density))
    assert erk(shapes, density) == erk(shapes, density, min_weights=0)
    theirs = RIGL_ARRAYS[f"{net}.erk.nnz"][RIGL["densities"].index(density)]
    sums = np.array([sum(shape) for shape in shapes.values()])
    delta = sum(n - math.floor((1 - density) * n) for n in sizes) - ours.sum()
    bound = 1 + np.ceil(delta * sums / sums[ours < sizes].sum())
    assert 0 <= delta < len(shapes)
    assert (ours <= theirs).all()
    assert (theirs <= np.minimum(ours + bound, sizes)).all()
    assert theirs.sum() <= ours.sum() + delta + len(shapes)
    assert ((theirs == sizes) <= (ours >= sizes - 1)).all()  # the same layers end up dense


@pytest.mark.parametrize("net", RIGL_MODELS)
def test_uniform_agrees_with_rigl_within_its_flooring(net: str) -> None:
    for i, density in enumerate(RIGL["densities"]):
        # Without our minimum: at density 0.001 it would lift three layers of MobileNetV2.
        excess = RIGL_ARRAYS[f"{net}.uniform.nnz"][i] - counts(uniform(NETS[net], density, min_weights=0))
        assert set(excess) <= {0, 1}


@pytest.mark.parametrize(
    ("name", "theirs", "min_weights", "comparable"),
    # Shares of the reference that do not saturate: the only ones where it keeps the density it was asked for.
    # Our minimum lifts no layer of these three by more than 1, and takes at most 1 from any other.
    [
        ("epl", "equal_per_layer", 1, 29),
        ("epf", "equal_per_filter", 1, 39),
        ("erk", "erk", 1, 36),
        # Uniform shares of small layers are far below 1: with the minimum, others pay up to 4 for them.
        ("uniform", "uniform", 0, 48),
    ],
)
def test_agrees_with_dctps_where_nothing_saturates(
    name: AllocationName, theirs: str, min_weights: int, comparable: int
) -> None:
    compared = 0
    for net in RIGL_MODELS:
        for i, density in enumerate(DCTPS["densities"]):
            if DCTPS_ARRAYS[f"{net}.{theirs}.density"][i].max() >= 1:
                continue
            ours = counts(ALLOCATIONS[name](shapes_of(DCTPS, net), density, min_weights=min_weights))
            assert np.abs(ours - DCTPS_ARRAYS[f"{net}.{theirs}.nnz_round"][i]).max() <= 1, (net, density)
            compared += 1
    assert compared == comparable


def test_keeps_the_budget_that_the_dctps_code_loses() -> None:
    shapes = NETS["resnet18"]
    theirs = DCTPS_ARRAYS["resnet18.equal_per_layer.nnz_round"][DCTPS["densities"].index(0.1)]
    total = total_budget(sizes_of(shapes).sum(), 0.1)
    assert theirs.sum() < 0.8 * total  # what its full layers cannot take is lost
    assert counts(epl(shapes, 0.1)).sum() == total


SHAPE = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(torch.Size)
SHAPES = st.lists(SHAPE, min_size=1, max_size=8).map(
    lambda shapes: {str(i): shape for i, shape in enumerate(shapes)}
)


@settings(deadline=None, max_examples=200)
@given(SHAPES, st.floats(1e-4, 1.0), st.sampled_from(NAMES), st.integers(0, 3))
def test_any_budget_is_exact_within_bounds_and_in_proportion(
    shapes: dict[str, torch.Size], density: float, name: AllocationName, min_weights: int
) -> None:
    sizes = sizes_of(shapes)
    lowest, total = np.minimum(min_weights, sizes), math.floor(density * sizes.sum() + 0.5)
    if total < lowest.sum():
        with pytest.raises(ValueError, match="Raise `density` or lower `min_weights_per_layer`"):
            ALLOCATIONS[name](shapes, density, min_weights=min_weights)
        return
    budgets = counts(ALLOCATIONS[name](shapes, density, min_weights=min_weights))
    assert budgets.sum() == total
    assert (lowest <= budgets).all()
    assert (budgets <= sizes).all()
    proportions = np.array([PROPORTION[name](shape) for shape in shapes.values()])
    assert np.abs(budgets - filled_by_bisection(proportions, lowest, sizes, total)).max() < 1 + 1e-6


def filled_by_bisection(
    proportions: np.ndarray[Any, Any], lowest: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any], total: int
) -> np.ndarray[Any, Any]:
    """The water-filling oracle: search the one rate at which the clipped shares have the right sum."""
    low, high = 0.0, float((sizes / proportions).max())
    for _ in range(200):
        rate = (low + high) / 2
        too_few = np.clip(rate * proportions, lowest, sizes).sum() < total
        low, high = (rate, high) if too_few else (low, rate)
    shares: np.ndarray[Any, Any] = np.clip(high * proportions, lowest, sizes)
    return shares


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), min_size=1, max_size=6), st.data())
def test_rounding_favours_the_largest_remainder(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    proportions, sizes = [p for p, _ in pairs], [n for _, n in pairs]
    total = data.draw(st.integers(0, sum(sizes)))
    shares = [Fraction(total * p, sum(proportions)) for p in proportions]
    if any(share > size for share, size in zip(shares, sizes, strict=True)):
        return
    rounded = share_out(proportions, sizes, total, 0)
    up = [share - math.floor(share) for share, n in zip(shares, rounded, strict=True) if n > share]
    down = [share - math.floor(share) for share, n in zip(shares, rounded, strict=True) if n < share]
    assert all(math.floor(share) <= n <= math.ceil(share) for share, n in zip(shares, rounded, strict=True))
    assert min(up, default=1) >= max(down, default=0)


def test_overridden_layers_are_served_first_at_an_unchanged_total() -> None:
    assert allocate(ABC, 0.5, "uniform", fixed={"a": 1.0}) == {"a": 12, "b": 7, "c": 1}  # 8 as 6.86 : 1.14
    assert allocate(ABC, 0.5, "epl", fixed={"b": 0.25}) == {"a": 10, "b": 6, "c": 4}
    assert allocate(ABC, 0.5, "epf", fixed={"c": 1e-3}) == {
        "a": 11,
        "b": 8,
        "c": 1,
    }  # at least 1; 19 as 3 : 2
    assert allocate(ABC, 0.5, "erk", fixed={"c": 1e-3}, min_weights=0)["c"] == 0
    assert allocate(ABC, 0.5, "erk", fixed=dict.fromkeys(ABC, 0.5)) == {"a": 6, "b": 12, "c": 2}
    assert allocate(ABC, 0.5, "erk", fixed={}) == erk(ABC, 0.5)


@settings(deadline=None, max_examples=100)
@given(SHAPES, st.floats(0.01, 1.0), st.sampled_from(NAMES), st.data())
def test_any_override_leaves_the_total_exact(
    shapes: dict[str, torch.Size], density: float, name: AllocationName, data: st.DataObject
) -> None:
    fixed = data.draw(st.dictionaries(st.sampled_from(list(shapes)), st.floats(0.01, 1.0)))
    total = math.floor(density * sizes_of(shapes).sum() + 0.5)
    taken = sum(layer_budget(math.prod(shapes[layer]), share) for layer, share in fixed.items())
    rest = [math.prod(shape) for layer, shape in shapes.items() if layer not in fixed]
    if not len(rest) <= total - taken <= sum(rest):
        with pytest.raises(ValueError, match="density_overrides" if fixed else "density"):
            allocate(shapes, density, name, fixed=fixed)
        return
    budgets = allocate(shapes, density, name, fixed=fixed)
    assert sum(budgets.values()) == total
    assert all(budgets[layer] == layer_budget(math.prod(shapes[layer]), fixed[layer]) for layer in fixed)
    assert all(1 <= budgets[layer] <= math.prod(shape) for layer, shape in shapes.items())


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5, float("nan")])
def test_density_out_of_range(density: float) -> None:
    message = rf"`density` must be in \(0, 1\], got {density}\. It is the share kept"
    for share in ALLOCATIONS.values():
        with pytest.raises(ValueError, match=message):
            share(ABC, density)


def test_impossible_requests_name_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"`shapes` must hold at least one layer.*`include`"):
        erk({}, 0.5)
    with pytest.raises(ValueError, match=r"`allocation` must be one of uniform, erk, epl, epf, got 'ekr'"):
        allocate(ABC, 0.5, "ekr")
    with pytest.raises(ValueError, match=r"`min_weights` must be an integer of at least 0, got -1"):
        erk(ABC, 0.5, min_weights=-1)
    with pytest.raises(ValueError, match=r"at least 22 weights \(9 in each of 3 layers\), got 0\.5"):
        epl(ABC, 0.5, min_weights=9)  # 9 + 9 + 4: c has no more
    message = (
        r"at least 3 weights \(1 in each of 3 layers\), got 0\.05, which keeps 2\. Raise `density` or lower"
    )
    with pytest.raises(ValueError, match=message):
        erk(ABC, 0.05)
    assert sum(erk(ABC, 0.05, min_weights=0).values()) == 2


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"d": 0.5}, r"name layers among a, b, c, got 'd'"),
        ({"a": 0.0}, r"be in \(0, 1\], got 0\.0\. Keep .*`exclude`"),
        (
            {"b": 1.0},
            r"between 2 and 16 weights, got -4: they take 24 of the 20.*Lower the overrides or raise",
        ),
        ({"b": 0.1}, r"between 2 and 16 weights, got 18: they take 2 of .*Raise the overrides or lower"),
        ({"a": 0.5, "b": 0.5, "c": 1.0}, r"leave the other 0 layers between 0 and 0 weights, got -2"),
        ({"a": 0.5, "b": 0.5, "c": 0.25}, r"leave the other 0 layers between 0 and 0 weights, got 1"),
    ],
)
def test_impossible_overrides_name_the_way_out(fixed: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=rf"`(density_overrides|fixed)(\['a'\])?` must .*{message}"):
        allocate(ABC, 0.5, "erk", fixed=fixed)


@pytest.mark.parametrize(("share", "rest"), [(0.75, 2), (0.17, 16)])
def test_overrides_may_go_to_the_very_edge(share: float, rest: int) -> None:
    assert allocate(ABC, 0.5, "erk", fixed={"b": share})["b"] == 20 - rest  # the others keep 2 or all 16


def test_an_allocation_of_ones_own() -> None:
    register_allocation("doubled_a", lambda shape: 2 if shape == ABC["a"] else 1)
    try:
        assert list(allocate(ABC, 0.3, "doubled_a").values()) == [6, 3, 3]
        assert list(ALLOCATIONS["doubled_a"](ABC, 0.5, fixed={"b": 0.5}).values()) == [5, 12, 3]
        with pytest.raises(
            ValueError, match=r"must be one of uniform, .*, doubled_a, got 'double_a'; did you"
        ):
            allocate(ABC, 0.3, "double_a")
    finally:
        del ALLOCATIONS["doubled_a"]


@pytest.mark.parametrize("proportion", [0, -1, 0.5, True])
def test_a_proportion_is_a_whole_number(proportion: Any) -> None:
    register_allocation("odd", lambda _: proportion)
    try:
        with pytest.raises(ValueError, match=rf"`odd\(\(3, 4\)\)` must be an integer .*1, got {proportion}"):
            allocate(ABC, 0.5, "odd")
    finally:
        del ALLOCATIONS["odd"]


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match=r"`name` must be new, got 'erk', which is builtins\.sum"):
        register_allocation("erk", math.prod)
    register_allocation("erk", sum)  # as it is


def test_no_layer_keeps_more_than_it_has_left() -> None:
    """18 less the 3 of b are 15, in the proportion of 12 to 4: 11.25 and 3.75. 7 are 5.25 and 1.75."""
    assert list(allocate(ABC, 0.5, "uniform").values()) == [6, 12, 2]
    alive = {"a": 12, "b": 3, "c": 4}
    assert list(allocate(ABC, 0.45, "uniform", alive=alive).values()) == [11, 3, 4]
    assert list(allocate(ABC, 0.45, "uniform", fixed={"b": 0.5}, alive=alive).values()) == [11, 3, 4]
    assert list(allocate(ABC, 0.25, "uniform", fixed={"b": 0.5}, alive=alive).values()) == [5, 3, 2]
