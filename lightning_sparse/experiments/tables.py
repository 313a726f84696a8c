"""The tables of a sweep: a row for each cell; means over seeds; differences between paired runs."""

import csv
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_sparse.experiments.folders import DONE, FAILED, RUNNING, WAITING, CellFolder
from lightning_sparse.experiments.names import in_words
from lightning_sparse.experiments.sweeps import SEED, Cell, Sweep
from lightning_sparse.files.writing import whole_file
from lightning_sparse.reporting.layers import render_table
from lightning_sparse.reporting.statistics import Interval, deviation, paired_interval

__all__ = ["Group", "Row", "groups_of", "legend", "render_groups", "rows_of", "write_tables"]

MEANS = "Means over seeds, with the standard deviation of the runs."
DIFFERENCES = """\
Differences are means over pairs of one seed, all else equal; their interval is Student's, and one that
holds 0 shows no difference."""


@dataclass(frozen=True)
class Row:
    """A cell, and what came of it."""

    cell: Cell
    status: str
    metrics: dict[str, float]
    seconds: float | None
    error: str = ""

    def value(self, metric: str) -> float | None:
        """Return a metric; ``None`` if it was not logged, or is not finite."""
        found = self.metrics.get(metric, math.nan)
        return found if math.isfinite(found) else None


@dataclass(frozen=True)
class Group:
    """Cells that differ in their seeds alone.

    Args:
        settings: What they have in common.
        values: A metric by seed, of those that have it.
        failed: How many have failed.
        cells: How many there are.
        difference: Of the pairs with the group that is compared with; ``None`` for that group itself.
    """

    settings: dict[str, Any]
    values: dict[Any, float]
    failed: int
    cells: int
    difference: Interval | None

    @property
    def mean(self) -> float:
        """Mean of the values; NaN if there are none."""
        return statistics.fmean(self.values.values()) if self.values else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation of the values; NaN of fewer than two."""
        return deviation(list(self.values.values()))


def rows_of(sweep: Sweep) -> list[Row]:
    """Read what came of all cells from their folders."""
    rows = []
    for cell in sweep.cells:
        folder = CellFolder(sweep.out / cell.name)
        if result := folder.result():
            rows.append(Row(cell, result.status, result.metrics, result.seconds, result.error))
        else:
            rows.append(Row(cell, RUNNING if folder.is_running() else WAITING, {}, None))
    return rows


def groups_of(sweep: Sweep, rows: Sequence[Row], metric: str) -> list[Group]:
    """Put cells together that differ in seeds alone, and compare each group with its counterpart.

    The counterpart has the sweep's `against` in the place of the setting that is compared, all else equal. A
    pair are two cells of one seed.
    """
    members: dict[str, list[Row]] = {}
    for row in rows:
        members.setdefault(_key(row.cell.settings, (SEED,)), []).append(row)
    values = {
        key: {
            row.cell.settings.get(SEED): value
            for row in found
            if row.status == DONE and (value := row.value(metric)) is not None
        }
        for key, found in members.items()
    }
    groups = []
    for key, found in members.items():
        settings = {name: value for name, value in found[0].cell.settings.items() if name != SEED}
        failed = sum(row.status == FAILED for row in found)
        difference = _difference(sweep, settings, values)
        groups.append(Group(settings, values[key], failed, len(found), difference))
    return groups


def _difference(
    sweep: Sweep, settings: dict[str, Any], values: Mapping[str, dict[Any, float]]
) -> Interval | None:
    compared = sweep.compare
    if compared is None or settings.get(compared, sweep.against) == sweep.against:
        return None
    other = values.get(_key({**settings, compared: sweep.against}, ()), {})
    own = values[_key(settings, ())]
    return paired_interval([own[seed] - other[seed] for seed in own if seed in other])


def _key(settings: Mapping[str, Any], without: Sequence[str]) -> str:
    chosen = {name: value for name, value in settings.items() if name not in without}
    return json.dumps(chosen, sort_keys=True, default=str)


def render_groups(sweep: Sweep, groups: Sequence[Group], metric: str) -> str:
    """Return the table of means and of differences."""
    names = [key for key in sweep.names if key != SEED]
    has_pairs = any(group.difference is not None for group in groups)
    against = f"minus {in_words(sweep.against)}" if has_pairs else ""
    header = [*(sweep.names[key] for key in names), metric, "deviation", "runs"]
    header += [against, "95% interval", "pairs"] if has_pairs else []
    rows = []
    for group in groups:
        failed = f" ({group.failed} failed)" if group.failed else ""
        cells = [_words_of(group.settings, key) for key in names]
        cells += [_number(group.mean), _number(group.deviation), f"{len(group.values)}{failed}"]
        rows.append(cells + (_paired(group.difference) if has_pairs else []))
    return render_table(header, rows)


def legend(groups: Sequence[Group]) -> str:
    """Return how to read the table."""
    has_pairs = any(group.difference is not None for group in groups)
    return f"{MEANS}\n{DIFFERENCES}" if has_pairs else MEANS


def _paired(difference: Interval | None) -> list[str]:
    if difference is None:
        return ["", "", ""]
    low, mean, high, number = difference
    interval = f"{_number(low, '+')} to {_number(high, '+')}" if number > 1 else "-"
    return [_number(mean, "+"), interval, str(number)]


def _number(value: float, sign: str = "") -> str:
    if math.isnan(value):
        return "-"
    return f"{value:{sign}.4f}" if abs(value) < 1000 else f"{value:{sign}.5g}"


def _words_of(settings: Mapping[str, Any], key: str) -> str:
    return in_words(settings[key]) if key in settings else ""


def write_tables(sweep: Sweep, rows: Sequence[Row]) -> list[Path]:
    """Write ``table.csv`` (``.parquet``), ``summary.csv`` and ``sweep.json``; return which files there are.

    Numbers have all their digits. Parquet is written where pyarrow is installed.
    """
    cells = [_record(sweep, row) for row in rows]
    groups = {metric: groups_of(sweep, rows, metric) for metric in sweep.metrics}
    summary = [_summary(sweep, metric, group) for metric, found in groups.items() for group in found]
    everything = {
        "metrics": sweep.metrics,
        "compare": sweep.compare,
        "against": sweep.against,
        "cells": [
            {
                "cell": row.cell.name,
                "settings": row.cell.settings,
                "status": row.status,
                "metrics": {name: row.value(name) for name in row.metrics},
                "seconds": row.seconds,
                "error": row.error,
            }
            for row in rows
        ],
        "summary": summary,
    }
    written = [sweep.out / "table.csv", sweep.out / "summary.csv", sweep.out / "sweep.json"]
    for path, records in zip(written, (cells, summary), strict=False):
        _write_csv(records, path)
    with whole_file(written[2]) as (unfinished, _):
        unfinished.write_text(json.dumps(everything, indent=1, default=str), encoding="utf-8")
    return [*written, *_parquet(cells, sweep.out / "table.parquet")]


def _record(sweep: Sweep, row: Row) -> dict[str, Any]:
    settings = {name: _plain(row.cell.settings.get(key)) for key, name in sweep.names.items()}
    metrics = {metric: row.value(metric) for metric in sweep.metrics}
    return {**settings, **metrics, "status": row.status, "seconds": row.seconds, "folder": row.cell.name}


def _summary(sweep: Sweep, metric: str, group: Group) -> dict[str, Any]:
    settings = {n: _plain(group.settings.get(key)) for key, n in sweep.names.items() if key != SEED}
    low, mean, high, pairs = group.difference or (math.nan, math.nan, math.nan, None)
    numbers = {"mean": group.mean, "deviation": group.deviation}
    paired = {"difference": mean, "low": low, "high": high}
    return {
        **settings,
        "metric": metric,
        **{name: None if math.isnan(value) else value for name, value in numbers.items()},
        "runs": len(group.values),
        "failed": group.failed,
        "cells": group.cells,
        "against": None if group.difference is None else in_words(sweep.against),
        **{name: None if math.isnan(value) else value for name, value in paired.items()},
        "pairs": pairs,
    }


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else in_words(value)


def _write_csv(records: Sequence[dict[str, Any]], path: Path) -> None:
    with whole_file(path) as (unfinished, _), unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def _parquet(records: Sequence[dict[str, Any]], path: Path) -> Iterable[Path]:
    """Write a table in which each column has one type; nothing without pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        return []
    columns = {name: _of_one_type([record[name] for record in records]) for name in records[0]}
    with whole_file(path) as (unfinished, _):
        pyarrow.parquet.write_table(pyarrow.table(columns), unfinished)
    return [path]


def _of_one_type(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) < 2:
        return values
    kind = float if kinds == {int, float} else str
    return [None if value is None else kind(value) for value in values]
