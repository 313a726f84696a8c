"""The table as Markdown: a row for each net, a column for each method, notes under it."""

import re
from pathlib import Path
from typing import Any, get_args

from benchmarks.nets.cell import Verdict

MARKS = ("<!-- nets: from here -->", "<!-- nets: to here -->")


def table_of(record: dict[str, Any]) -> str:
    """Return versions, counts, table and notes of a run."""
    outcomes = record["outcomes"]
    methods = list(dict.fromkeys(o["method"] for o in outcomes))
    cells = {(o["package"], o["net"], o["method"]): o for o in outcomes}
    notes = Notes()
    lines = [
        f"| package | net | selected | {' | '.join(methods)} |",
        f"|---|---|---|{'---|' * len(methods)}",
    ]
    for package, net in dict.fromkeys((o["package"], o["net"]) for o in outcomes):
        row = [cells.get((package, net, method)) for method in methods]
        total, parameters = (max(o[key] for o in row if o) for key in ("total", "parameters"))
        shown = " | ".join(_cell(o, notes) for o in row)
        lines.append(f"| {package} | {net} | {total:,} of {parameters:,} | {shown} |")
    installed = {name: one for name, one in record["versions"].items() if one != "not installed"}
    used = ", ".join(f"{name} {version}" for name, version in installed.items())
    counts = {v: sum(o["verdict"] == v for o in outcomes) for v in get_args(Verdict)}
    counted = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    head = (
        f"Run on {record['date']}, in {record['seconds'] / 60:.0f} minutes: {counted}.\n\nVersions: {used}."
    )
    return "\n".join([head, "", *lines, "", str(notes), ""])


class Notes:
    """The texts under the table, each once: texts that differ in names and numbers alone are one."""

    def __init__(self) -> None:
        self.texts: dict[tuple[str, str], str] = {}

    def number(self, verdict: str, text: str) -> int:
        """Return the number of a text."""
        key = verdict, re.sub(r"\b(\d[\d.,]*|[A-Z]\w*)", "n", plain(text))
        self.texts.setdefault(key, plain(text))
        return list(self.texts).index(key) + 1

    def __str__(self) -> str:
        notes = enumerate(self.texts.items(), 1)
        return "\n".join(f"{number}. {verdict}: {text}" for number, ((verdict, _), text) in notes)


def _cell(outcome: dict[str, Any] | None, notes: Notes) -> str:
    if outcome is None:
        return ""
    verdict = outcome["verdict"]
    numbers = sorted({notes.number(verdict, text) for text in outcome["texts"]})
    return verdict.removeprefix("clear ") + (f" ({', '.join(map(str, numbers))})" if numbers else "")


def plain(text: str) -> str:
    """Return a text on one line that Markdown leaves as it is; names of layers are left out."""
    short = re.sub(
        r"(?<!`)'?\b(?!\w+\.py\b)[a-zA-Z_]\w*(\.\w+)+( \d+(\.\w+)+)?'?", "...", " ".join(text.split())
    )
    parts = re.sub(r"\.\.\.(,? \.\.\.)+", "...", short).split("`")
    parts[::2] = [re.sub(r"([*_<>])", r"\\\1", part) for part in parts[::2]]  # between them is code
    return "`".join(parts).replace("|", "\\|")


def put_into(page: Path, text: str) -> None:
    """Write the table into a page, in the place of the one that is there."""
    before, _, rest = page.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    page.write_text(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{after}")
