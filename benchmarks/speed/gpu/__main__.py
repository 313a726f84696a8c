"""Runs sections one after the other, each within its seconds: ``python -m benchmarks.speed.gpu card=40 ...``.

A section that raises is noted, the next one runs, and the exit status is 1. Each writes a file of its own.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.device import describe
from benchmarks.harness.runner import short_collections
from benchmarks.speed.gpu.rows import Bench, Row
from benchmarks.speed.gpu.sections import SECTIONS

DONE = "done"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the sections that are asked for."""
    options = parse(argv)
    device = torch.device("cpu" if options.smoke else "cuda")
    options.results.mkdir(parents=True, exist_ok=True)
    if options.smoke:
        torch.set_num_threads(1)  # what is so small is not shared
    done = [run(name, seconds, device, options) for name, seconds in options.sections]
    if not all(done):
        sys.exit(1)


def run(name: str, seconds: float, device: torch.device, options: argparse.Namespace) -> bool:
    """Run a section, write down what it finds, and tell whether it did not fail."""
    record = Record(name, options.results / f"{name}.json")
    missing = SECTIONS[name].missing
    if missing:
        record.write(f"skipped: needs {', '.join(missing)}")
        return True
    bench = Bench(device, options.smoke, options.rounds, time.monotonic() + seconds)
    try:
        record.content["environment"] = describe(device)
        measure = SECTIONS[name].load()
        with short_collections():  # after imports, or what they bring would be gone through for each sample
            status = record.take(measure(bench), bench)
    except Exception as error:  # whatever it is, the other sections run
        traceback.print_exc()
        status = f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    record.write(status)
    return not status.startswith("failed")


class Record:
    """What is written of a section, again after every row.

    Args:
        name: Of the section.
        path: Where to write.
    """

    def __init__(self, name: str, path: Path) -> None:
        self.path, self.start = path, time.monotonic()
        self.content: dict[str, Any] = {"section": name, "rows": []}
        self.write("stopped")  # stays there if somebody ends the process

    def take(self, rows: Iterator[Row], bench: Bench) -> str:
        """Write down the rows as they come, until the time is up; return how it ended."""
        for row in rows:
            ratio = None if row.ratio is None else row.ratio._asdict()
            self.content["rows"].append({**asdict(row), "ratio": ratio})
            self.write("stopped")
            if bench.seconds_left <= 0:
                return f"out of time after {len(self.content['rows'])} rows"
        return DONE

    def write(self, status: str) -> None:
        """Write what there is."""
        self.content |= {"status": status, "seconds": round(time.monotonic() - self.start, 1)}
        self.path.write_text(json.dumps(self.content))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="+", type=section, metavar="SECTION=SECONDS")
    parser.add_argument("--results", type=Path, required=True, help="folder")
    parser.add_argument("--rounds", type=int, default=9, help="samples of each alternative")
    parser.add_argument("--smoke", action="store_true", help="on the CPU, to see that it runs")
    options = parser.parse_args(argv)
    if options.smoke:
        options.rounds = 1
    return options


def section(text: str) -> tuple[str, float]:
    """Read the name of a section and its seconds."""
    name, _, seconds = text.partition("=")
    if name not in SECTIONS:
        raise argparse.ArgumentTypeError(f"a section must be among {', '.join(SECTIONS)}, got {name!r}.")
    return name, float(seconds or 60)


if __name__ == "__main__":
    main()
