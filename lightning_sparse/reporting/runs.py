"""What a run left behind in its folder: checkpoints and logs. Nothing of it is needed but the files."""

import csv
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from lightning_sparse.checks import SparsityError
from lightning_sparse.extras import import_extra
from lightning_sparse.files.reading import read_dict
from lightning_sparse.selection import plain_name

__all__ = ["Checkpoint", "Curve", "Run", "find_run", "read_curves", "read_run", "trained_curves"]

Curve: TypeAlias = dict[int, float]
"""What was logged under one name, by epoch (from 0); of several values in an epoch the last."""

EVENTS, TABLE = "events.out.tfevents.*", "metrics.csv"  # of TensorBoardLogger, of CSVLogger


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file of Lightning; its weights are read when they are asked for."""

    path: Path
    epoch: int
    step: int
    callbacks: Mapping[str, Any]

    def weights(self, names: Collection[str]) -> dict[str, Tensor]:
        """Return those of these parameters that it has, on the CPU; names are plain."""
        state = read_dict(self.path, "RUN", mmap=True)["state_dict"]
        return {plain_name(name): weight for name, weight in state.items() if plain_name(name) in names}


@dataclass(frozen=True)
class Run:
    """A folder of one run.

    Args:
        folder: The folder with the logs.
        checkpoints: Those in it that say which callbacks there were, from first to last.
        skipped: One line for each file that was left out.
    """

    folder: Path
    checkpoints: tuple[Checkpoint, ...]
    skipped: tuple[str, ...] = ()


class _Point(NamedTuple):
    """A logged value; ``step`` counts those of the optimizers, from 0, and goes on over epochs."""

    name: str
    epoch: int
    step: int
    value: float


def read_run(folder: str | Path) -> Run:
    """Read the folder of a run, ``<name>/version_0``; ``<name>`` will do if it holds one version.

    Raises:
        SparsityError: If there is no such folder, or it holds several runs or no checkpoint with the states
            of the callbacks.
    """
    run = find_run(folder)
    if not run.checkpoints:
        reason = f" ({run.skipped[0]})" if run.skipped else ""
        raise SparsityError(
            f"`RUN` must be a folder of one run, with logs and checkpoints (`checkpoints/*.ckpt`, not "
            f"`save_weights_only`), got {str(folder)!r}, which has no checkpoint{reason}."
        )
    return run


def find_run(folder: str | Path) -> Run:
    """Read the folder of a run, as ``read_run`` does, whether it holds checkpoints or not.

    Raises:
        SparsityError: If there is no such folder, or it holds several runs.
    """
    path = _version(Path(folder))
    files = sorted({*path.glob("*.ckpt"), *path.glob("*/*.ckpt")})
    read = [_read_checkpoint(file) for file in files if file.is_file()]
    found = [checkpoint for checkpoint in read if isinstance(checkpoint, Checkpoint)]
    found.sort(key=lambda checkpoint: (checkpoint.epoch, checkpoint.step))
    return Run(path, tuple(found), tuple(reason for reason in read if isinstance(reason, str)))


def read_curves(folder: Path) -> dict[str, Curve]:
    """Return all that a run has logged with its epoch, by name; empty if it has logged nothing.

    Raises:
        ModuleNotFoundError: If there are only TensorBoard's event files, and TensorBoard is not installed.
    """
    return _by_name(_read_points(folder))


def trained_curves(run: Run) -> dict[str, Curve]:
    """Return what a run has logged in the epochs that it trained, as from ``read_curves``.

    What is validated or tested after a fit is logged in an epoch more, as if that had begun.
    """
    points = _read_points(run.folder)
    idle = _idle_epoch(points, [(checkpoint.epoch, checkpoint.step) for checkpoint in run.checkpoints])
    return _by_name(point for point in points if point.epoch != idle)


def _by_name(points: Iterable[_Point]) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for point in points:
        curves.setdefault(point.name, {})[point.epoch] = point.value
    return {name: dict(sorted(curve.items())) for name, curve in curves.items()}


def _idle_epoch(points: Sequence[_Point], saved: Sequence[tuple[int, int]]) -> int | None:
    """Return the last epoch if no step was made in it: none is logged, and none ``saved`` (epoch, steps).

    An epoch of a single step looks the same in the log: it takes a checkpoint to know that it was trained.
    """
    made = dict(saved) | dict(sorted((point.epoch, point.step + 1) for point in points))
    last = max((point.epoch for point in points), default=0)
    epoch = max((epoch for epoch in made if epoch < last), default=None)
    if epoch is None:
        return None
    begins = made[epoch] * last / (epoch + 1)  # steps before it; in between there may be epochs without a log
    trained = any(point.epoch == last and point.step > begins for point in points)
    return None if trained or any(e >= last and steps > begins for e, steps in saved) else last


def _version(folder: Path) -> Path:
    """Return the folder itself, or the one version that it holds."""
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing there"
        raise SparsityError(f"`RUN` must be a folder of one run, got {str(folder)!r}: {what}.")
    versions = sorted(path for path in folder.glob("version_*") if path.is_dir())
    if len(versions) > 1:
        raise SparsityError(
            f"`RUN` must be a folder of one run, got {str(folder)!r}, which holds {len(versions)}. Name one, "
            f"such as {str(versions[-1])!r}."
        )
    return versions[0] if versions else folder


def _read_checkpoint(path: Path) -> Checkpoint | str:
    """Return a checkpoint, or why it cannot be used."""
    try:  # tensors are read from the file, and their checksums compared, only when they are used
        content = read_dict(path, "RUN", tensors=False, mmap=True)
        if not isinstance(content["callbacks"], Mapping):
            return f"{path.name} has no states of callbacks: not a checkpoint of a Trainer"
        return Checkpoint(path, content["epoch"], content["global_step"], content["callbacks"])
    except KeyError as error:
        return f"{path.name} has no entry {error}: not a checkpoint of a Trainer, or of weights only"
    except SparsityError as error:
        return f"{path.name} cannot be read: {error}"


def _read_points(folder: Path) -> list[_Point]:
    return list(_from_table(folder / TABLE) if (folder / TABLE).is_file() else _from_events(folder))


def _from_table(path: Path) -> Iterator[_Point]:
    """Yield what CSVLogger wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = file.readlines()
        rows = csv.DictReader(lines)
        try:
            for row in rows:
                if None in row.values() and rows.line_num == len(lines) and not lines[-1].endswith("\n"):
                    return  # the run was killed while it wrote this line
                cells = {
                    name: float(cell) for name, cell in row.items() if cell and name not in ("step", "epoch")
                }
                for name, value in cells.items() if row.get("epoch") else ():
                    yield _Point(name, int(float(row["epoch"])), int(float(row["step"])), value)
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise SparsityError(
                f"`RUN` has a table {str(path)!r} whose line {rows.line_num} cannot be read: {error}. Repair "
                "the line, or leave the run out."
            ) from None


def _from_events(folder: Path) -> Iterator[_Point]:
    """Yield what TensorBoardLogger wrote; Lightning logs the epoch of each step."""
    if not any(folder.glob(EVENTS)):
        return
    module = import_extra(
        "tensorboard.backend.event_processing.event_accumulator", "reading TensorBoard's event files"
    )
    events = module.EventAccumulator(str(folder), size_guidance={module.SCALARS: 0})  # 0: all of them
    names = events.Reload().Tags()[module.SCALARS]
    epochs = {event.step: int(event.value) for event in events.Scalars("epoch")} if "epoch" in names else {}
    for name in names:
        for event in sorted(events.Scalars(name), key=lambda event: event.wall_time):
            if name != "epoch" and event.step in epochs:
                yield _Point(name, epochs[event.step], event.step, event.value)
