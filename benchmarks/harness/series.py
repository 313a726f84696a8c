"""What the series of trainings share: runs in folders of their own, records, statistics, a figure."""

import argparse
import contextlib
import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_sparse.reporting.statistics import paired_interval

ROOT = Path(__file__).parents[2]


def run_cli(args: list[str]) -> None:
    """Run ``lightning-sparse`` in this process, in a folder that is gone afterwards."""
    from lightning_sparse.cli.main import main

    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            main(args)
        finally:
            os.chdir(before)


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of the options that all series have."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--results", type=absolute, default=Path(__file__).parents[1] / "results")
    made.add_argument("--show", action="store_true", help="train nothing, show what is there")
    made.add_argument("--plot", type=Path, help="file to draw the figure into")
    made.add_argument("--smoke", action="store_true", help="one batch a run, just to see that it works")
    return made


def refuse_unknown(option: str, given: Sequence[str], names: Sequence[str]) -> None:
    """End with a message if an option names what is not there."""
    if unknown := set(given) - set(names):
        raise SystemExit(f"`{option}` must be among {', '.join(names)}, got {', '.join(sorted(unknown))}.")


def settle(threads: int) -> None:
    """Let PyTorch use so many threads, and take denormals for zero: nets without a signal train on them."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # they take three times as long


def absolute(path: str) -> Path:
    """Return a path that is the same in every folder: as the type of an argument."""
    return Path(path).resolve()


def records_of(name: str, options: argparse.Namespace) -> Path:
    """Return the file with the records of a series; real runs must not take those of smoke for done."""
    path: Path = options.results / f"{name}{'-smoke' if options.smoke else ''}.jsonl"
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records of the runs so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def matching(records: Sequence[dict[str, Any]], key: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records that say the same as ``key``, whatever else they say."""
    return [record for record in records if record.items() >= key.items()]


def add(record: dict[str, Any], path: Path) -> None:
    """Add the record of a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def spread(values: Sequence[float], digits: int) -> str:
    """Return mean, standard deviation and, in parentheses, the number of seeds."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f} (1)" if values else "-"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f} ({len(values)})"


def difference(differences: Sequence[float], digits: int) -> str:
    """Return the mean of paired differences with its interval; of one difference, that it is one."""
    if len(differences) < 2:
        return f"{differences[0]:+.{digits}f} (1)" if differences else "-"
    low, mean, high, _ = paired_interval(differences)
    return f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


@contextlib.contextmanager
def figure(path: Path, **settings: Any) -> Iterator[Any]:
    """Yield axes to draw on; write them to a file, with grid and legend."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    drawn, axes = plt.subplots(figsize=(7, 4.5))
    yield axes
    axes.set(ylabel="test accuracy (%)", **settings)
    axes.grid(alpha=0.3)
    axes.legend()
    drawn.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=150)
    plt.close(drawn)
