"""The table of versions: rows in their order, counts, and a note for each kind of failure."""

from pathlib import Path

from benchmarks.versions.__main__ import COLUMNS, FILES, outcomes, selected
from benchmarks.versions.table import MARKS, put_into, table_of

ROOT = Path(__file__).parents[2]


def record(tried, **outcomes):
    versions = {"torch": "2.14.1", "pytorch-lightning": tried.split()[-1]}
    rows = {
        column: {"passed": passed, "skipped": 0, "failed": failed}
        for column, (passed, failed) in outcomes.items()
    }
    return {"tried": tried, "date": "2026-11-28", "versions": versions, "outcomes": rows}


def test_rows_are_in_order_and_failures_have_notes(tmp_path):
    lost = {"test_a[x]": "assert 11 == 16", "test_b": "assert 3 == 16 | more"}
    records = [record("p 2.10.0", callbacks=(8, {})), record("p 2.9.1", callbacks=(6, lost), losses=(2, {}))]
    text = table_of(records, ["callbacks", "losses"])
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| p")
    ]
    assert [(row[0], row[-2:]) for row in rows] == [
        ("p 2.9.1", ["6 of 8 (1, 2)", "2 of 2"]),
        ("p 2.10.0", ["8 of 8", "not run"]),
    ]
    assert "1. `assert 11 == 16`" in text
    assert "2. `assert 3 == 16 \\| more`" in text
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    put_into(page, text)
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("\nafter\n")
    assert "old" not in page.read_text()


def test_outcomes_are_counted_by_column(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase name="test_masks_hold[a]"/><testcase name="test_masks_hold[b]">'
        '<failure message="assert 1 == 2"/></testcase><testcase name="test_second_fit[a]"><skipped/>'
        "</testcase></testsuite></testsuites>"
    )
    assert outcomes(report) == {
        "callbacks": {"passed": 1, "skipped": 1, "failed": {"test_masks_hold[b]": "assert 1 == 2"}}
    }


def test_every_test_that_is_named_is_there():
    text = "\n".join((ROOT / "tests" / file).read_text() for file in FILES)
    for name in (name for names in COLUMNS.values() for name in names):
        assert f"def {name}" in text, name
        assert name in selected()
