import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_sparse.functional.schedules import (
    DROP_SCHEDULES,
    DropScheduleName,
    constant,
    cosine,
    cubic,
    drop_fraction,
    exponential,
    inverse_power,
    is_due,
    linear,
    sigmoid,
)

GOLDEN = Path(__file__).parents[1] / "golden"
PAIRS: list[tuple[float, int]] = json.loads((GOLDEN / "schedules.json").read_text())["pairs"]
RIGL: dict[str, Any] = json.loads((GOLDEN / "rigl_schedule.json").read_text())
DensityPath = Callable[[float, float, float], float]


@pytest.mark.parametrize(("density", "steps"), PAIRS)
@pytest.mark.parametrize(
    ("key", "schedule"),
    [
        ("synflow.exponential", exponential),
        ("synflow.linear", linear),
        ("force.exp", exponential),
        ("force.linear", linear),
    ],
)
def test_density_paths_equal_the_reference(
    key: str, schedule: DensityPath, density: float, steps: int
) -> None:
    theirs = np.load(GOLDEN / "schedules.npz")[f"{key}_d{density}_n{steps}"]
    ours = [schedule(t + 1, steps, density) for t in range(steps)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("total", "initial"), [(1000, 0.3), (750, 0.5)])
def test_cosine_equals_both_references(total: int, initial: float) -> None:
    ours = [cosine(t, total, initial) for t in range(total + 1)]
    theirs = np.load(GOLDEN / "rigl_schedule.npz")
    np.testing.assert_allclose(
        ours, theirs[f"drop_fraction_torch.T{total}_a{initial}"][: len(ours)], atol=1e-16
    )
    tensorflow = theirs[f"drop_fraction_tf.T{total}_a{initial}_b0"]  # float32, and 0 where no update is due
    np.testing.assert_allclose(np.where(tensorflow == 0, 0, ours), tensorflow, atol=5e-8)


@pytest.mark.parametrize(("stop_at", "every_n_steps", "calls"), [(40, 10, 60), (33, 7, 50)])
def test_moves_are_due_when_they_are_in_the_torch_reference(
    stop_at: int, every_n_steps: int, calls: int
) -> None:
    theirs = RIGL["rigl_torch"][f"T{stop_at}_delta{every_n_steps}"]
    assert theirs["total"] == calls
    ours = [t for t in range(1, calls + 1) if is_due(t, every_n_steps, stop_at)]
    assert ours == theirs["update_at_calls"]


def test_hand_worked_values() -> None:
    assert [constant(t, 30, 0.4) for t in (0, 10, 30, 99)] == [0.4] * 4
    assert [inverse_power(t, 40, 0.64) for t in (0, 10, 20, 40, 50)] == pytest.approx(
        [0.64, 0.27, 0.08, 0, 0]  # 0.64 times 1, 27 / 64, 1 / 8
    )
    assert [inverse_power(t, 40, 0.64, power=2) for t in (10, 30)] == pytest.approx([0.36, 0.04])
    assert [cosine(t, 30, 0.4) for t in (0, 10, 15, 20, 30)] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    assert [exponential(t, 2, 0.01) for t in (0, 1, 2)] == pytest.approx([1, 0.1, 0.01])
    assert [linear(t, 4, 0.2) for t in (0, 1, 2, 4)] == pytest.approx([1, 0.8, 0.6, 0.2])
    assert [cubic(t, 2, 0.2) for t in (0, 1, 2)] == pytest.approx([1, 0.3, 0.2])
    assert [cubic(t, 2, 0.2, initial=0.6) for t in (0, 1, 2)] == pytest.approx([0.6, 0.25, 0.2])
    # alpha / 2 at beta E; e and 1 / e to one side and the other
    assert [sigmoid(e, 50, 98, 0.5, 5) for e in (20, 25, 30)] == pytest.approx(
        [98 / (1 + math.e), 49, 98 * math.e / (1 + math.e)]
    )


@pytest.mark.parametrize("schedule", [exponential, linear, cubic])
@settings(deadline=None, max_examples=50)
@given(final=st.floats(1e-6, 1.0), total=st.integers(1, 1000), step=st.integers(0, 2000))
def test_density_paths_fall_from_one_to_exactly_the_target(
    schedule: DensityPath, final: float, total: int, step: int
) -> None:
    assert schedule(0, total, final) == 1
    assert schedule(total, total, final) == final  # not 0.09999999999999998, which would lose a weight
    assert schedule(total + step, total, final) == final
    assert 1 >= schedule(step, total, final) >= schedule(step + 1, total, final) >= final


def test_drop_fractions_by_name() -> None:
    at_10_of_40 = {name: drop_fraction(name, 10, 40, 0.64) for name in DROP_SCHEDULES}
    assert at_10_of_40 == pytest.approx(
        {"cosine": 0.32 * (1 + math.sqrt(0.5)), "constant": 0.64, "linear": 0.48, "inverse_power": 0.27}
    )
    assert set(get_args(DropScheduleName)) == set(DROP_SCHEDULES)


@pytest.mark.parametrize("name", ["cosine", "linear", "inverse_power"])
@settings(deadline=None, max_examples=50)
@given(initial=st.floats(0, 1, allow_subnormal=False), total=st.integers(1, 1000), step=st.integers(0, 2000))
def test_drop_fractions_fall_to_zero_and_stay_there(
    name: DropScheduleName, initial: float, total: int, step: int
) -> None:
    assert drop_fraction(name, 0, total, initial) == initial
    assert drop_fraction(name, total + step, total, initial) == 0
    now, then = (drop_fraction(name, t, total, initial) for t in (step, step + 1))
    assert initial >= now >= then >= 0


def test_sigmoid_is_safe_far_out() -> None:
    assert sigmoid(1, 100, 98, 0.5, 1e-6) == 0  # exp(4.9e7) would overflow
    assert sigmoid(99, 100, 98, 0.5, 1e-6) == 98
    assert sigmoid(0, 100, 98, 0.5, 1) == pytest.approx(98 * math.exp(-50), rel=1e-12)  # no cancellation


@settings(deadline=None, max_examples=50)
@given(e=st.integers(0, 100), beta=st.floats(0, 1), gamma=st.floats(0.1, 50))
def test_sigmoid_rises_within_bounds(e: int, beta: float, gamma: float) -> None:
    assert 0 <= sigmoid(e, 100, 97, beta, gamma) <= sigmoid(e + 1, 100, 97, beta, gamma) <= 97


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cosine(-1, 10, 0.3), r"`step` must be at least 0, got -1\."),
        (lambda: cosine(1, 0, 0.3), r"`total` must be in \(0, inf\), got 0\."),
        (lambda: cosine(1, 10, 1.3), r"`initial` must be in \[0, 1\], got 1\.3\."),
        (lambda: constant(1, 10, -0.1), r"`initial` must be in \[0, 1\], got -0\.1\."),
        (lambda: constant(-1, 10, 0.3), r"`step` must be at least 0, got -1\."),
        (lambda: inverse_power(1, 10, 2.0), r"`initial` must be in \[0, 1\], got 2\.0\."),
        (lambda: inverse_power(1, 0, 0.3), r"`total` must be in \(0, inf\), got 0\."),
        (lambda: inverse_power(1, 10, 0.3, power=0), r"`power` must be in \(0, inf\), got 0\."),
        (
            lambda: drop_fraction("cosin", 1, 10, 0.3),  # type: ignore[arg-type]
            r"`schedule` must be one of cosine, constant, linear, inverse_power, got 'cosin'; did you mean",
        ),
        (
            lambda: exponential(1, 10, 0.0),
            r"`final` must be in \(0, 1\], got 0\.0\..*share kept",
        ),
        (lambda: exponential(float("nan"), 10, 0.5), r"`step` must be at least 0, got nan\."),
        (lambda: linear(1, 10, 1.5), r"`final` must be in \(0, 1\], got 1\.5\."),
        (lambda: linear(1, -5, 0.5), r"`total` must be in \(0, inf\), got -5\."),
        (lambda: cubic(1, 10, 0.5, initial=0.0), r"`initial` must be in \(0, 1\], got 0\.0\."),
        (lambda: sigmoid(1, 10, 98, 0.5, 0), r"`gamma` must be in \(0, inf\), got 0\."),
        (lambda: sigmoid(1, 0, 98, 0.5, 1), r"`total` must be in \(0, inf\), got 0\."),
        (lambda: sigmoid(1, 10, 101, 0.5, 1), r"`alpha` must be in \[0, 100\], got 101\. It is a percentage"),
    ],
)
def test_arguments_out_of_range(call: Callable[[], float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
