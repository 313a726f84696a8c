"""From the cells of a sweep to jobs: recipes put together and checked, before anything is run."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from lightning_sparse.checks import SparsityError
from lightning_sparse.experiments.folders import DONE, CellFolder
from lightning_sparse.experiments.running import Job, threads_of
from lightning_sparse.experiments.settings import Config, Takes, put_
from lightning_sparse.experiments.sweeps import Cell, Sweep

__all__ = ["Check", "Compose", "changed_jobs", "clear", "jobs_of", "refuse_wrong", "unfinished"]

Compose: TypeAlias = Callable[[Sequence[str]], Config]
"""Puts recipe and overlays together."""
Check: TypeAlias = Callable[[Config], None]
"""Refuses a recipe of no use, without training."""


def jobs_of(sweep: Sweep, cells: Sequence[Cell], compose: Compose, takes: Takes) -> list[Job]:
    """Return the jobs of cells, each with the whole recipe that it is.

    Raises:
        SparsityError: If a recipe is of no use, or a setting has no place in it.
    """
    known: dict[tuple[str, ...], Config] = {}
    jobs = []
    for cell in cells:
        if cell.configs not in known:
            known[cell.configs] = compose(cell.configs)
        recipe = copy.deepcopy(known[cell.configs])
        for key, value in cell.changes.items():
            put_(recipe, key, copy.deepcopy(value), takes)
        folder = (sweep.out / cell.name).absolute()
        jobs.append(Job(cell.name, folder, recipe, cell.settings, Path.cwd(), threads_of(sweep.threads)))
    return jobs


def unfinished(jobs: Sequence[Job], retry: bool) -> list[Job]:
    """Return the jobs that have no result yet, with ``retry`` also those that failed."""
    found = [(job, CellFolder(job.folder).result()) for job in jobs]
    return [job for job, result in found if result is None or (retry and result.status != DONE)]


def changed_jobs(jobs: Sequence[Job], anew: bool) -> list[Job]:
    """Return the jobs whose recipe is not the one that their folder was begun with.

    Args:
        jobs: All jobs.
        anew: Whether such jobs are allowed.

    Raises:
        SparsityError: If they are not: it names the first setting that differs, with both values.
    """
    found = [(job, CellFolder(job.folder).difference(job.recipe)) for job in jobs]
    changed = [(job, difference) for job, difference in found if difference is not None]
    if changed and not anew:
        job, difference = changed[0]
        raise SparsityError(
            f"`{job.name}` must have the settings that it was run with: {difference}. Name another `out`, "
            "or run such cells anew by --anew, which deletes what they have."
        )
    return [job for job, _ in changed]


def clear(jobs: Sequence[Job]) -> None:
    """Delete what jobs have left in their folders.

    Raises:
        SparsityError: If one of them is being run.
    """
    for job in jobs:
        with CellFolder(job.folder).locked() as lock:
            if lock is None:
                raise SparsityError(
                    f"`{job.name}` must not be run now to be run anew. End its process first."
                )
            CellFolder(job.folder).clear()


def refuse_wrong(jobs: Sequence[Job], check: Check) -> None:
    """Check recipes, until each value of each setting was in one of them.

    Raises:
        SparsityError: It names the cell.
    """
    seen: set[tuple[str, str]] = set()
    for job in jobs:
        settings = {(key, repr(value)) for key, value in job.settings.items()}
        if settings and settings <= seen:
            continue
        try:
            check(job.recipe)
        except SparsityError as error:
            raise SparsityError(f"{job.name}: {error}") from error
        seen |= settings
