"""Puts the sections' files together: prints one table, writes one JSON file and the table beside it.

python -m benchmarks.speed.gpu.table FOLDER card numerics ... --results benchmarks/results

The exit status is 1 if a section that was to run failed, was stopped or is not there.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.tables import table

FINE = ("done", "skipped", "out of time")
HEADER = ("section", "what", "ours", "against", "ratio", "at most", "verdict", "note")


def main(argv: Sequence[str] | None = None) -> None:
    """Put the files of a folder together."""
    options = parse(argv)
    sections = [read(options.folder / f"{name}.json", name) for name in options.sections]
    found = [section["environment"] for section in sections if "environment" in section]
    environment = {**found[0], "load average": f"{os.getloadavg()[0]:.2f}"} if found else {}
    lines = [*(f"{key}: {value}" for key, value in environment.items()), "", *shown(sections)]
    path = options.results / f"gpu-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.json"
    options.results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"benchmark": "gpu", "environment": environment, "sections": sections}))
    path.with_suffix(".txt").write_text("\n".join(lines) + "\n")
    print("\n".join([*lines, "", f"Written to {path}"]))
    if not all(section["status"].startswith(FINE) for section in sections):
        sys.exit(1)


def read(path: Path, name: str) -> dict[str, Any]:
    """Return what a section has written."""
    if not path.exists():
        return {"section": name, "status": "did not run", "seconds": 0.0, "rows": []}
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def shown(sections: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of the table, and below it how each section ended."""
    rows = [cells(section["section"], row) for section in sections for row in section["rows"]]
    ends = [(s["section"], f"{s['seconds']:.0f} s", s["status"], verdicts(s["rows"])) for s in sections]
    return [*table([HEADER, *rows]), "", *table([("section", "took", "ended", "bars"), *ends])]


def verdicts(rows: Sequence[dict[str, Any]]) -> str:
    """Return how many bars are met, missed, and open."""
    counts = Counter(row["verdict"] for row in rows if row["at_most"] is not None)
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))


def cells(section: str, row: dict[str, Any]) -> Sequence[str]:
    """Return the cells of a row."""
    against = "" if row["theirs"] is None else f"{row['theirs']:.4g} {row['against']}"
    at_most = "" if row["at_most"] is None else f"{row['at_most']:g}"
    figure = f"{row['ours']:.4g} {row['unit']}"
    return section, row["what"], figure, against, interval(row["ratio"]), at_most, row["verdict"], row["note"]


def interval(ratio: dict[str, float] | None) -> str:
    """Return a ratio and what encloses it, if it is more than one value."""
    if ratio is None:
        return ""
    if ratio["low"] == ratio["high"]:
        return f"{ratio['median']:.3f}"
    return f"{ratio['median']:.3f} ({ratio['low']:.3f}-{ratio['high']:.3f})"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sections", nargs="*")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[2] / "results", help="folder")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
