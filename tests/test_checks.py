import math
from functools import partial

import pytest

from lightning_sparse import checks
from lightning_sparse.checks import SparsityError

NUMBERS = ("[0, 1]", "(0, 1]", "(0, inf)", "(-inf, inf)")


def refused(check, value):
    try:
        check("x", value)
    except SparsityError as error:
        said = str(error)
    else:
        return False
    assert said.startswith("`x"), said
    assert repr(value) in said, said
    return True


@pytest.mark.parametrize("value", [True, False])
def test_bools_are_no_numbers(value):
    for check in (checks.check_count, checks.check_density, partial(checks.check_at_least, minimum=0)):
        assert refused(check, value)
    for interval in NUMBERS:
        assert refused(partial(checks.check_number, interval=interval), value)
    assert refused(partial(checks.check_choice, choices=(0, 1, None)), value)
    assert not refused(checks.check_flag, value)


@pytest.mark.parametrize("value", [0, 1, "yes", "no", None, 1.0])
def test_a_flag_is_a_bool(value):
    assert refused(checks.check_flag, value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "0.5", None, [0.5]])
def test_what_is_no_finite_number_is_in_no_interval(value):
    for interval in NUMBERS:
        assert refused(partial(checks.check_number, interval=interval), value)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [("[0, 1]", [0, 1, 0.5], [-0.1, 1.1]), ("(0, 1]", [1e-9, 1], [0, 1.1]), ("(0, inf)", [1e300], [0, -1])],
)
def test_ends_belong_to_an_interval_or_not(interval, inside, outside):
    check = partial(checks.check_number, interval=interval)
    assert not any(refused(check, value) for value in inside)
    assert all(refused(check, value) for value in outside)


def test_counts():
    assert not refused(checks.check_count, 1)
    assert all(refused(checks.check_count, value) for value in (0, 1.0, "1", None, -1))
    assert not refused(partial(checks.check_count, least=0), 0)


def test_a_choice_names_what_was_probably_meant():
    with pytest.raises(SparsityError, match=r"^`x` must be one of erk, epl, got 'ekr'; did you mean erk\?$"):
        checks.check_choice("x", "ekr", ("erk", "epl"))
    assert refused(partial(checks.check_choice, choices=("a", None)), 3)
    assert not refused(partial(checks.check_choice, choices=("a", None)), None)


def test_patterns_and_densities():
    assert not any(refused(checks.check_patterns, value) for value in (None, [], ["a.*"], ("a",)))
    assert all(refused(checks.check_patterns, value) for value in ("a", [1], {"a"}, 3))
    assert not any(refused(checks.check_densities, value) for value in (None, {}, {"a": 0.1}))
    assert refused(checks.check_densities, [0.1])
    with pytest.raises(SparsityError, match=r"^`x\['a'\]` must be in \(0, 1\], got 2\. It is the share kept"):
        checks.check_densities("x", {"a": 2})


def test_a_folder_that_is_not_there_yet_can_be_written_to(tmp_path):
    assert not refused(checks.check_writable, str(tmp_path / "new" / "file.pt"))
    assert all(refused(checks.check_writable, value) for value in (str(tmp_path), "s3://bucket/file.pt"))


def test_a_sequence_of_counts():
    assert not any(refused(checks.check_counts, value) for value in ([1], (3, 32, 32)))
    wrong = ([], "12", 3, None, [0], [1, True], [2.5], {1})
    assert all(refused(checks.check_counts, value) for value in wrong)
    assert refused(partial(checks.check_counts, length=3), [1, 2])
    with pytest.raises(SparsityError, match=r"^`x` must be 3 integers of at least 1, got \[0\]\. They are"):
        checks.check_counts("x", [0], 3, "They are [C, H, W].")


def test_kinds_functions_and_paths(tmp_path):
    assert not refused(partial(checks.check_kind, kind=dict), {})
    assert refused(partial(checks.check_kind, kind=dict), [])
    assert not any(refused(checks.check_callable, value) for value in (dict, len))
    assert refused(checks.check_callable, "dict")
    assert not any(refused(checks.check_path, value) for value in ("nowhere", tmp_path))
    assert all(refused(checks.check_path, value) for value in ("", 3, None, True))
    assert refused(checks.check_writable, 3)
    assert not refused(checks.check_writable, None)
