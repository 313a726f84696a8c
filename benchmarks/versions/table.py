"""The table of versions as Markdown: a row for each run, a column for each kind of test, notes under it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MARKS = ("<!-- versions: from here -->", "<!-- versions: to here -->")
SHOWN = ("torch", "pytorch-lightning", "lightning", "torchmetrics", "numpy", "transformers")


def table_of(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return a table of all runs, in the order of what was tried."""
    notes: dict[str, str] = {}
    lines = [
        f"| tried | {' | '.join(SHOWN)} | {' | '.join(columns)} |",
        f"|---|{'---|' * (len(SHOWN) + len(columns))}",
    ]
    for record in sorted(records, key=lambda record: _order(record["tried"])):
        versions = [record["versions"].get(name, "") for name in SHOWN]
        cells = [_cell(record["outcomes"].get(column), notes) for column in columns]
        lines.append(f"| {' | '.join([record['tried'], *versions, *cells])} |")
    dates = sorted({record["date"] for record in records})
    head = f"Run on {', '.join(dates)}: tests that passed, of those that were run."
    under = [f"{number}. {text}" for number, text in enumerate(notes.values(), 1)]
    return "\n".join([head, "", *lines, "", *under, ""])


def put_into(page: Path, text: str) -> None:
    """Write the table into a page, in the place of the one that is there."""
    before, _, rest = page.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    page.write_text(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{after}")


def _order(tried: str) -> tuple[str, list[int]]:
    return re.sub(r"[\d.]+", "", tried), [int(number) for number in re.findall(r"\d+", tried)]


def _cell(row: Mapping[str, Any] | None, notes: dict[str, str]) -> str:
    if row is None or not row["passed"] + len(row["failed"]):
        return "not run"
    said = f"{row['passed']} of {row['passed'] + len(row['failed'])}"
    numbers = sorted({_note(text, notes) for text in row["failed"].values()})
    return said + (f" ({', '.join(map(str, numbers))})" if numbers else "")


def _note(text: str, notes: dict[str, str]) -> int:
    """Return the number of a message, the same for those that differ in numbers alone."""
    shown = (
        " ".join(text.split()).replace("|", "\\|").replace("`", "'").replace("lightning_sparse.checks.", "")
    )
    key = re.sub(r"0x[0-9a-f]+|\d+", "n", shown)
    notes.setdefault(key, f"`{shown[:200] or 'failed'}`")
    return list(notes).index(key) + 1
