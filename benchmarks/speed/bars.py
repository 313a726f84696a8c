"""Measures all that has a bar in compact storage and sparse fine-tuning, and prints one table of the bars.

    python -m benchmarks.speed.bars --threads 1                     # about half an hour
    python -m benchmarks.speed.bars --threads 1 --show FOLDER       # the table of an earlier run

Runs benchmarks one after the other, each in a process of its own, into one new folder under ``--results``.
One that needs packages which are not installed is left out, with a line that says so.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness.report import file_of_run
from benchmarks.harness.runner import parse
from benchmarks.harness.tables import table


class Benchmark(NamedTuple):
    """A benchmark with bars, and the packages that it cannot do without."""

    module: str
    needs: tuple[str, ...] = ()


BENCHMARKS = {
    "compact": Benchmark("benchmarks.speed.compact"),
    "adapters": Benchmark("benchmarks.speed.adapters"),
    "fine_tuning_steps": Benchmark("benchmarks.experiments.fine_tuning_steps", ("transformers", "peft")),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run what there is to run; exit with 1 if a benchmark ended in an error."""
    options = parse(__doc__, argv, rounds=9, add_own=add_options)
    folder, failed = options.show, []
    if folder is None:
        folder = file_of_run("bars", options.results).with_suffix("")
        failed = [name for name in BENCHMARKS if not run(name, folder, options)]
    print("\n".join(["", *table([("benchmark", "case", "figure", "at most", "verdict"), *rows(folder)])]))
    print(f"\nWritten to {folder}")
    if failed:
        raise SystemExit(f"ended in an error: {', '.join(failed)}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the option of this benchmark."""
    parser.add_argument("--show", type=Path, metavar="FOLDER", help="print the table of an earlier run")


def run(name: str, folder: Path, options: argparse.Namespace) -> bool:
    """Run a benchmark; return whether it ended well, as one that is left out does."""
    missing = [package for package in BENCHMARKS[name].needs if find_spec(package) is None]
    if missing:
        print(f"{name} is left out: it needs {', '.join(missing)}", flush=True)
        return True
    command = [sys.executable, "-m", BENCHMARKS[name].module, "--results", str(folder)]
    command += ["--threads", str(options.threads), "--rounds", str(options.rounds)]
    return subprocess.run([*command, *["--smoke"] * options.smoke], check=False).returncode == 0


def rows(folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield a row for every figure with a bar, by the clock that decided."""
    for name in BENCHMARKS:
        for path in sorted(folder.glob(f"{name}-*.json")):
            content = json.loads(path.read_text())
            clock = "cpu" if content["options"]["threads"] == 1 else "wall"
            for figure in content["figures"]:
                if figure["at_most"] is None:
                    continue
                is_value = "value" in figure
                what = figure["name"] if is_value else f"{figure['name']} / {figure['against']}"
                found = figure["value"] if is_value else figure[clock]["median"]
                bar = f"{figure['at_most']:g}"
                yield name, figure["case"], f"{what}: {found:.3g}", bar, figure["verdict"]


if __name__ == "__main__":
    main()
