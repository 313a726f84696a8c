"""Runs the cells of a sweep, each in a process of its own: one that is killed takes nothing with it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from lightning_sparse.experiments.folders import DONE, FAILED, CellFolder, Result
from lightning_sparse.experiments.metrics import read_metrics
from lightning_sparse.experiments.settings import Config

__all__ = ["FIT", "Job", "Start", "checkpoint_of", "run_all", "run_job", "start_process", "threads_of"]

FIT = (sys.executable, "-m", "lightning_sparse.cli", "fit")
"""What is run, less the recipe."""
EXACT = "ExactResume"
LINES = 30
"""So many of the log's last lines are kept of a cell that failed."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """A cell that is to be run.

    Args:
        name: Of the cell.
        folder: Of the cell.
        recipe: All of it, with the cell's settings.
        settings: What tells the cell from others.
        working: Folder that paths in the recipe are meant from.
        environment: Variables of the process that are to be set, or not to be there (``None``).
    """

    name: str
    folder: Path
    recipe: Config
    settings: dict[str, Any]
    working: Path
    environment: dict[str, str | None]


Start: TypeAlias = Callable[[Job, Sequence[str], int], int]
"""Runs `fit` with these words to its end, with a descriptor to inherit; returns its exit status."""


def threads_of(threads: int | None) -> dict[str, str | None]:
    """Return the variables that say how many threads a run uses; ``None``: as in this process.

    They are said in either case: sums depend on the number of threads in their last bits, and Ray sets it.
    """
    return {name: str(threads) if threads else os.environ.get(name) for name in THREADS}


def start_process(job: Job, words: Sequence[str], lock: int) -> int:
    """Run ``lightning-sparse fit`` in a process of its own."""
    variables = {**os.environ, **job.environment}
    with CellFolder(job.folder).log.open("ab") as said:
        return subprocess.run(
            [*FIT, *words],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in variables.items() if value is not None},
            cwd=job.working,
            pass_fds=() if os.name == "nt" else (lock,),
            check=False,
        ).returncode


def checkpoint_of(job: Job) -> Path | None:
    """Return the checkpoint that a cell goes on from; ``None`` if it begins anew.

    A recipe without ExactResume does: from a checkpoint it would end elsewhere than undisturbed.
    """
    folder = CellFolder(job.folder)
    return folder.checkpoint() if folder.is_started() and _is_exact(job.recipe) else None


def run_job(job: Job, retry: bool = False, start: Start = start_process) -> Result | None:
    """Run a cell, from its last checkpoint if it has one; keep what came of it.

    Args:
        job: The cell.
        retry: Whether one that has failed is run again.
        start: What runs it.

    Returns:
        What came of it, now or earlier; ``None`` if another process runs it.
    """
    folder = CellFolder(job.folder)
    with folder.locked() as lock:
        if lock is None:
            return None
        found = folder.result()  # another process may have ended it in the meantime
        if found and not (retry and found.status == FAILED):
            return found
        checkpoint = checkpoint_of(job)
        if checkpoint is None:
            folder.clear()
        folder.begin(job.recipe, job.settings)
        words = ["--config", str(folder.recipe.resolve())]
        words += ["--ckpt_path", str(checkpoint.resolve())] if checkpoint else []
        began = time.monotonic()
        status = start(job, words, lock)
        seconds = None if checkpoint else round(time.monotonic() - began, 2)
        result = _result_of(folder, status, seconds)
        folder.write_result(result)
    return result


def run_all(
    jobs: Iterable[Job], retry: bool = False, start: Start = start_process
) -> Iterator[tuple[Job, Result | None]]:
    """Run cells one after another; give each with what came of it as it ends."""
    for job in jobs:
        yield job, run_job(job, retry, start)


def _result_of(folder: CellFolder, status: int, seconds: float | None) -> Result:
    if status == 0 and folder.metrics.is_file():
        return Result(DONE, read_metrics(folder.metrics), seconds)
    said = folder.log.read_text(encoding="utf-8", errors="replace") if folder.log.is_file() else ""
    lines = [line.rstrip() for line in said.splitlines() if line.strip()][-LINES:]
    if status < 0:
        lines.append(f"killed by {_signal(-status)}{' (out of memory?)' * (-status == signal.SIGKILL)}")
    elif status == 0:
        lines.append("it ended before its fit had")
    return Result(FAILED, {}, seconds, "\n".join(lines) or f"exit status {status}")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _is_exact(recipe: Config) -> bool:
    callbacks = recipe.get("trainer", {}).get("callbacks") or []
    return any(
        isinstance(item, dict) and str(item.get("class_path")).rpartition(".")[2] == EXACT
        for item in callbacks
    )
