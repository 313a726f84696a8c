"""The table as Markdown: a row for each net, a column for each method, notes under it."""

import re
from pathlib import Path
from typing import Any

MARKS = ("<!-- nets: from here -->", "<!-- nets: to here -->")


def table_of(record: dict[str, Any]) -> str:
    """Return versions, counts, table and notes of a run."""
    outcomes = record["outcomes"]
    methods = list(dict.fromkeys(o["method"] for o in outcomes))
    cells = {(o["package"], o["net"], o["method"]): o for o in outcomes}
    numbers: dict[tuple[str, str], int] = {}
    lines = [
        f"| package | net | selected | {' | '.join(methods)} |",
        f"|---|---|---|{'---|' * len(methods)}",
    ]
    for package, net in dict.fromkeys((o["package"], o["net"]) for o in outcomes):
        row = [cells.get((package, net, method)) for method in methods]
        total, parameters = (max(o[key] for o in row if o) for key in ("total", "parameters"))
        shown = " | ".join(_cell(o, numbers) for o in row)
        lines.append(f"| {package} | {net} | {total:,} of {parameters:,} | {shown} |")
    notes = [f"{number}. {verdict}: {text}" for (verdict, text), number in numbers.items()]
    used = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    counts = {
        v: sum(o["verdict"] == v for o in outcomes) for v in ("exact", "warned", "clear error", "FAULT")
    }
    counted = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    head = (
        f"Run on {record['date']}, in {record['seconds'] / 60:.0f} minutes: {counted}.\n\nVersions: {used}."
    )
    return "\n".join([head, "", *lines, "", *notes, ""])


def _cell(outcome: dict[str, Any] | None, numbers: dict[tuple[str, str], int]) -> str:
    if outcome is None:
        return ""
    if not outcome["text"]:
        return str(outcome["verdict"])
    text = _plain(outcome["text"])
    number = numbers.setdefault((outcome["verdict"], text), len(numbers) + 1)
    return f"{outcome['verdict'].removeprefix('clear ')} ({number})"


def _plain(text: str) -> str:
    """Return a text on one line that Markdown leaves as it is; long names of layers are left out."""
    short = re.sub(r"'?\b\w+(\.\w+){2,}'?", "...", " ".join(text.split()))
    return re.sub(r"([*_|<>])", r"\\\1", re.sub(r"\.\.\.(,? \.\.\.)+", "...", short))


def put_into(page: Path, text: str) -> None:
    """Write the table into a page, in the place of the one that is there."""
    before, _, rest = page.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    page.write_text(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{after}")
