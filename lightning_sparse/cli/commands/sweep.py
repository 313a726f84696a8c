"""``lightning-sparse sweep SWEEP.yaml``: many runs of one recipe, and their table."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from lightning_sparse.checks import SparsityError, near
from lightning_sparse.cli.commands.base import Command, register_command
from lightning_sparse.cli.composing import arguments_of, check_recipe, composed
from lightning_sparse.cli.library import meant_recipes, recipe_file
from lightning_sparse.cli.recipes import near_file
from lightning_sparse.experiments.folders import DONE, FAILED, CellFolder, Result, locked
from lightning_sparse.experiments.jobs import changed_jobs, clear, jobs_of, refuse_wrong, unfinished
from lightning_sparse.experiments.on_ray import run_on_ray
from lightning_sparse.experiments.plots import axes_of, draw
from lightning_sparse.experiments.running import Job, checkpoint_of, run_all
from lightning_sparse.experiments.sweeps import Sweep, read_sweep
from lightning_sparse.experiments.tables import Row, groups_of, legend, render_groups, rows_of, write_tables

__all__ = ["SweepCommand"]

PATIENCE = 60
"""So many seconds are waited for another process that writes the tables."""


@register_command
class SweepCommand(Command):
    """Run a recipe once for each combination of settings, and table what came of it.

    Finished runs are not repeated, and one that was killed goes on from its last checkpoint.
    """

    name = "sweep"
    usage = "SWEEP.yaml"
    summary = "Runs a recipe once for each combination of settings, and tables what came of it."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what to run, and how, and what to draw."""
        parser.add_argument(
            "sweep", metavar="SWEEP.yaml", help="a file, or a name out of `lightning-sparse recipes`"
        )
        parser.add_argument(
            "--set", metavar="KEY=VALUE", action="append", default=[], help="as a line of its `set`"
        )
        parser.add_argument("--out", metavar="FOLDER", help="in the place of its `out`")
        parser.add_argument("--against", metavar="VALUE", help="in the place of its `against`")
        parser.add_argument("--dry-run", action="store_true", help="print the runs, and run nothing")
        parser.add_argument("--table", action="store_true", help="table what is there, and run nothing")
        parser.add_argument("--shard", metavar="I/N", help="run one of N equal shares, counted from 1")
        parser.add_argument("--retry-failed", action="store_true", help="run once more what has failed")
        parser.add_argument(
            "--anew", action="store_true", help="delete and run anew what was run with other settings"
        )
        parser.add_argument(
            "--ray", action="store_true", help="run on Ray Tune (RAY_ADDRESS, or this machine)"
        )
        parser.add_argument("--x", metavar="NAME", help="setting on the horizontal axis; default: density")
        parser.add_argument("--line", metavar="NAME", help="setting with a line for each value; default: all")

    def run(self, arguments: argparse.Namespace) -> None:
        """Run what is missing, write the tables and the figure, print them; exit with 1 if a cell failed."""
        sweep = read_sweep(_file_of(arguments.sweep), arguments.set, arguments.out, arguments.against)
        cells = sweep.shard(*_shard(arguments.shard))
        axes_of(sweep, arguments.x, arguments.line)
        if arguments.table:
            return self._report(sweep, arguments)
        jobs = jobs_of(sweep, cells, composed, arguments_of)
        changed = changed_jobs(jobs, arguments.anew)
        left = unfinished(jobs, arguments.retry_failed)
        todo = [job for job in jobs if job in left or job in changed]
        refuse_wrong(todo, check_recipe)
        if arguments.dry_run:
            print("\n".join(_plans(jobs, todo, changed)))
            return None
        clear(changed)
        _Progress(sweep, jobs, todo).run(arguments)
        return self._report(sweep, arguments)

    def _report(self, sweep: Sweep, arguments: argparse.Namespace) -> None:
        """Write and print everything; name what failed."""
        # Other processes of the sweep write the same files: one after another, each with all that is there.
        with locked(sweep.out, PATIENCE):
            rows = rows_of(sweep)
            _refuse_metrics(sweep, [row for row in rows if row.status == DONE])
            written = write_tables(sweep, rows)
            figure = _figure(sweep, rows, arguments)
        if any(row.metrics for row in rows):
            tables = {metric: groups_of(sweep, rows, metric) for metric in sweep.metrics}
            for metric, groups in tables.items():
                print(f"\n{render_groups(sweep, groups, metric)}")
            print(legend(groups))
        print(figure)
        print("\n".join(f"wrote {path}" for path in written))
        for status in dict.fromkeys(row.status for row in rows if row.status not in (DONE, FAILED)):
            print(f"{sum(row.status == status for row in rows)} of {len(rows)} cells: {status}")
        if failed := [row for row in rows if row.status == FAILED]:
            lines = [f"{row.cell.name}: {row.error.rpartition(chr(10))[2]}" for row in failed]
            print(
                f"failed: {len(failed)} of {len(rows)} cells (--retry-failed runs them again)",
                *lines,
                sep="\n  ",
            )
            sys.exit(1)


class _Progress:
    """A line for each cell that ends, above a bar."""

    def __init__(self, sweep: Sweep, jobs: Sequence[Job], todo: Sequence[Job]) -> None:
        self.sweep, self.todo, self.total = sweep, todo, len(jobs)
        found = [CellFolder(job.folder).result() for job in jobs if job not in todo]
        self.done = [result for result in found if result and result.status == DONE]
        self.ended = len(found)
        hidden = not sys.stderr.isatty()
        self.bar = tqdm(total=self.total, initial=self.ended, unit="cell", disable=hidden, leave=False)

    def run(self, arguments: argparse.Namespace) -> None:
        """Run all that is to be run."""
        if self.ended:
            print(f"{self.ended} of {self.total} cells are finished already.")
        retry = arguments.retry_failed
        try:
            if arguments.ray and self.todo:
                return run_on_ray(self.todo, self.sweep.out, self.sweep.resources, retry, self.end_on_ray)
            for job, result in run_all(self.todo, retry):
                self.end(job, result)
        except KeyboardInterrupt:
            self.bar.close()
            sys.exit("\nStopped. The same command goes on from here.")
        finally:
            self.bar.close()

    def end_on_ray(self, job: Job) -> None:
        """Say what came of a cell, which another process has run."""
        self.end(job, CellFolder(job.folder).result())

    def end(self, job: Job, result: Result | None) -> None:
        """Say what came of a cell."""
        self.ended += 1
        self.bar.update()
        self.bar.write(f"[{self.ended}/{self.total}] {job.name}  {self._words(job, result)}", file=sys.stdout)
        sys.stdout.flush()
        if result and result.status == DONE:
            self.done.append(result)
            _refuse_metrics(self.sweep, self.done)

    def _words(self, job: Job, result: Result | None) -> str:
        if result is None:
            running = CellFolder(job.folder).is_running()
            return "is run by another process" if running else "has not ended"
        time = f"{result.seconds:.1f} s" if result.seconds is not None else "went on from its checkpoint"
        if result.status == FAILED:
            last = result.error.rpartition("\n")[2]
            return f"FAILED: {last[:300]} (log: {CellFolder(job.folder).log}; {time})"
        found = {metric: result.metrics[metric] for metric in self.sweep.metrics if metric in result.metrics}
        said = ", ".join(f"{metric} {value:.4f}" for metric, value in found.items())
        return f"{said} ({time})"


def _file_of(given: str) -> str:
    """Return the file of a sweep, or of the package's sweep of that name."""
    file = recipe_file(given, "SWEEP.yaml")
    if not Path(file).is_file():
        close = near_file(given) or meant_recipes(given) or ". List those: lightning-sparse recipes"
        raise SparsityError(f"`SWEEP.yaml` must be a file, or a sweep of the package, got {given!r}{close}")
    return file


def _shard(given: str | None) -> tuple[int, int]:
    """Return number and count of a share of the cells."""
    if given is None:
        return 1, 1
    found = re.fullmatch(r"(\d+)/(\d+)", given)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise SparsityError(f"`--shard` must be I/N with I from 1 to N, as 2/8, got {given!r}.")
    return number, count


def _plans(jobs: Sequence[Job], todo: Sequence[Job], changed: Sequence[Job]) -> list[str]:
    """Return a line for each cell: what would be done with it."""
    lines = []
    for job in jobs:
        if job not in todo:
            result = CellFolder(job.folder).result()
            plan = result.status if result else "done"
        elif job in changed:
            plan = "to run anew"
        else:
            plan = "goes on from its checkpoint" if checkpoint_of(job) else "to run"
        lines.append(f"{job.name}  {plan}")
    return [*lines, f"{len(todo)} of {len(jobs)} cells would be run."]


def _refuse_metrics(sweep: Sweep, ended: Sequence[Row] | Sequence[Result]) -> None:
    """Refuse a metric that no finished cell has logged, once one has finished."""
    logged = dict.fromkeys(name for item in ended for name in item.metrics)
    for metric in sweep.metrics if ended else ():
        if metric not in logged:
            close = near(metric, logged) or "."
            raise SparsityError(
                f"`metric` must be one that the runs log, got {metric!r}{close} They log "
                f"{', '.join(logged) or 'nothing'}. What they logged is kept: nothing is run again for it."
            )


def _figure(sweep: Sweep, rows: Sequence[Row], arguments: argparse.Namespace) -> str:
    """Draw the first metric; without matplotlib say so, as the tables are there all the same."""
    path = Path(sweep.out, f"{re.sub(r'[^A-Za-z0-9]+', '_', sweep.metrics[0])}.png")
    if not any(row.metrics for row in rows):
        return "left out the figure: no cell has finished."
    try:
        return draw(sweep, rows, path, sweep.metrics[0], arguments.x, arguments.line)
    except ModuleNotFoundError as error:
        return f"left out the figure: {error}"
