"""The benchmark of what hosts send each other: its table, worked by hand."""

from benchmarks.speed.communication import CASES, Case, Taken, rows_of


def test_the_table_has_medians_and_shares_of_plain_ddp():
    taken = {str(case): Taken([4000], [4100.0, 4300.0, 4200.0], [0.4, 0.2, 0.3], [0.1]) for case in CASES}
    taken["kept 0.01 fp16"] = Taken([20], [42.0], [0.15, 0.1, 0.12], [0.05])
    head, plain, *rest = rows_of(taken)
    assert plain == ("plain", "", "", "4.0", "1.0000", "4.2", "1.0000", "0.300", "1.0000", "0.100")
    (kept,) = (row for row in rest if row[:3] == ("kept", "0.01", "fp16"))
    assert kept[3:] == ("0.0", "0.0050", "0.0", "0.0100", "0.120", "0.4000", "0.050")
    assert all(len(row) == len(head) for row in rest)
    assert len(rest) == len(CASES) - 1 == 15


def test_cases_have_names_of_their_own():
    assert len({str(case) for case in CASES}) == len(CASES)
    assert Case("plain", 1.0, "").callbacks() == []
    assert [one.communication for one in Case("kept", 0.1, "fp16").callbacks()] == ["kept"]
