"""Sets the figures of a run beside their bars, prints them and writes them down.

Wall clock decides whether a bar is met; with ``--threads 1`` process CPU time does, for it hardly notices
what else the machine does. "open" behind a verdict: the bar lies within the figure's interval, so another run
may say otherwise.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.runner import Ratio, Sample, paired_ratio
from benchmarks.harness.tables import table


@dataclass(frozen=True)
class Bar:
    """How much of the time of ``against`` the alternative ``name`` may take; None: only show it."""

    name: str
    against: str
    at_most: float | None = None


class Report:
    """One run: where it took place, its samples, and its figures.

    Args:
        name: Name of the benchmark, and of its files of results.
        options: Those of :func:`benchmarks.harness.runner.parse`.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.options = name, options
        self.environment = environment()
        self.samples: dict[str, Mapping[str, list[Sample]]] = {}
        self.figures: list[dict[str, Any]] = []
        self.notes: dict[str, str] = {}
        self.clock = "cpu" if options.threads == 1 else "wall"

    def add(self, case: str, samples: Mapping[str, list[Sample]], bars: Iterable[Bar]) -> None:
        """Turn the samples of a case into one figure per bar."""
        self.samples[case] = samples
        for bar in bars:
            pair = samples[bar.name], samples[bar.against]
            ratios = {
                clock: paired_ratio(*([getattr(sample, clock) for sample in taken] for taken in pair))
                for clock in Sample._fields
            }
            figure = {clock: ratio._asdict() for clock, ratio in ratios.items()}
            found = verdict(ratios[self.clock], bar.at_most)
            self.figures.append({"case": case, **asdict(bar), **figure, "verdict": found})

    def add_value(self, case: str, name: str, value: float, at_most: float | None = None) -> None:
        """Add a figure that is no ratio of times, such as a share of memory."""
        found = verdict(Ratio(value, value, value), at_most)
        self.figures.append(
            {"case": case, "name": name, "value": value, "at_most": at_most, "verdict": found}
        )

    def seconds(self, case: str, name: str) -> float:
        """Return the median of an alternative's samples, by the clock that decides."""
        return statistics.median(getattr(sample, self.clock) for sample in self.samples[case][name])

    def ratio(self, case: str, name: str, against: str) -> float:
        """Return a ratio added before, by the clock that decides."""
        wanted = {"case": case, "name": name, "against": against}
        figure = next(figure for figure in self.figures if wanted.items() <= figure.items())
        median: float = figure[self.clock]["median"]
        return median

    def overview(self, cases: Sequence[str], against: str) -> str:
        """Return one row per case: its ratios to an alternative, by the clock that decides, and its note."""
        figures = [f for f in self.figures if f.get("against") == against and f["case"] in cases]
        names = list(dict.fromkeys(figure["name"] for figure in figures))
        cells = {(f["case"], f["name"]): self._cell(f) for f in figures}
        rows = [("case", f"{against}, ms", *(f"{name} / {against}" for name in names), "")]
        for case in cases:
            ratios = (cells.get((case, name), "") for name in names)
            rows.append((case, f"{self.seconds(case, against) * 1e3:.3f}", *ratios, self.notes.get(case, "")))
        return "\n".join(table(rows))

    def _cell(self, figure: Mapping[str, Any]) -> str:
        bar = "" if figure["at_most"] is None else f" <= {figure['at_most']:g}: {figure['verdict']}"
        return f"{figure[self.clock]['median']:.3f}{bar}"

    def finish(self) -> Path:
        """Print the tables, write the one file of this run, and return its path."""
        self.environment["load average at the end"] = rounded_load()
        print(self)
        path = file_of_run(self.name, self.options.results)
        path.write_text(json.dumps(self.content(), indent=1, default=str))
        print(f"\nWritten to {path}")
        return path

    def content(self) -> dict[str, Any]:
        """Return what is written."""
        samples = {
            case: {name: [sample._asdict() for sample in taken] for name, taken in alternatives.items()}
            for case, alternatives in self.samples.items()
        }
        about = {"benchmark": self.name, "options": vars(self.options), "environment": self.environment}
        return {**about, "figures": self.figures, "notes": self.notes, "samples": samples}

    def __str__(self) -> str:
        about = [f"{key}: {value}" for key, value in self.environment.items()]
        smoke = ["Smoke run: no figure means anything."] if self.options.smoke else []
        return "\n".join([*about, *smoke, "", *self._times(), "", *self._ratios()])

    def _times(self) -> list[str]:
        rows = [("case", "alternative", "wall clock, ms", "CPU time, ms")]
        for case, alternatives in self.samples.items():
            for name, taken in alternatives.items():
                wall, cpu = (f"{statistics.median(times) * 1e3:.3f}" for times in zip(*taken, strict=True))
                rows.append((case, name, wall, cpu))
        return table(rows)

    def _ratios(self) -> list[str]:
        rows = [("case", "figure", "wall clock", "CPU time", "at most", "verdict")]
        for figure in self.figures:
            if "value" in figure:
                shown = (figure["name"], f"{figure['value']:.4g}", "")
            else:
                ratios = (str(Ratio(**figure[clock])) for clock in ("wall", "cpu"))
                shown = (f"{figure['name']} / {figure['against']}", *ratios)
            bar = "-" if figure["at_most"] is None else f"{figure['at_most']:g}"
            rows.append((figure["case"], *shown, bar, figure["verdict"]))
        return table(rows)


def file_of_run(name: str, results: Path) -> Path:
    """Return a file that no other run writes to, in a folder that is there."""
    results.mkdir(parents=True, exist_ok=True)
    return results / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.json"


def verdict(found: Ratio, at_most: float | None) -> str:
    """Tell whether a bar is met, and whether noise leaves that open."""
    if at_most is None:
        return "-"
    word = "met" if found.median <= at_most else "missed"
    return f"{word}, open" if found.low <= at_most < found.high else word


def environment() -> dict[str, str]:
    """Return what figures depend on."""
    return {
        "torch": f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
        "CPU": f"{cpu_model()}, {os.cpu_count()} cores",
        "threads": str(torch.get_num_threads()),
        "load average at the start": rounded_load(),
    }


def cpu_model() -> str:
    """Return what the processor calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def rounded_load() -> str:
    """Return how many processes wanted a core, on average over 1, 5 and 15 minutes."""
    return " ".join(f"{load:.2f}" for load in os.getloadavg())
