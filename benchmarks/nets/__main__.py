"""Trains nets of other packages with each method, and says of each pair what held.

    python -m benchmarks.nets                            # all that is installed
    python -m benchmarks.nets --only timm optimizers     # some packages
    python -m benchmarks.nets --only timm --nets test_vit --methods snip RigL

Each cell is a process of its own, with a limit of time. The exit status is 1 if there is a FAULT.
"""

import argparse
import json
import multiprocessing
import platform
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.harness.report import file_of_run
from benchmarks.nets.family import FAMILIES, run_family
from benchmarks.nets.methods import METHODS
from benchmarks.nets.table import put_into, table_of

COUNTED = (
    "torch",
    "pytorch-lightning",
    "torchmetrics",
    "numpy",
    *FAMILIES.values(),
    "torchao",
    "pytorch_optimizer",
    "bitsandbytes",
)


def versions() -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in COUNTED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def parse(argv: Iterable[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="packages")
    parser.add_argument("--nets", nargs="+", help="nets of these packages (default: all)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="methods (default: all)")
    parser.add_argument(
        "--timeout", type=float, default=180, help="seconds of the processor for one cell (default: 180)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="packages at a time (default: 1)")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results", help="folder")
    parser.add_argument("--into", type=Path, help="page to write the table into, between its two marks")
    return parser.parse_args(None if argv is None else list(argv))


def main() -> int:
    """Run the table; return 1 if there is a fault."""
    options, start = parse(), time.perf_counter()
    with ProcessPoolExecutor(
        options.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        families = pool.map(partial(run_family, options=options), options.only)
        outcomes = [outcome for family in families for outcome in family]
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "seconds": time.perf_counter() - start,
        "versions": versions(),
        "outcomes": outcomes,
    }
    path = file_of_run("nets", options.results)
    path.write_text(json.dumps(record, indent=1))
    text = table_of(record)
    path.with_suffix(".md").write_text(text)
    print(f"\n{text}\n{len(outcomes)} cells in {record['seconds']:.0f} s; written to {path}")
    if options.into is not None:
        put_into(options.into, text)
    faults = sum(outcome["verdict"] == "FAULT" for outcome in outcomes)
    print(f"{faults} FAULT" if faults else "no FAULT")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
