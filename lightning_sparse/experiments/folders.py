"""The folder of a cell: its recipe, its log, its checkpoints, and once it has ended, what came of it."""

import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning_sparse.checks import SparsityError, shown
from lightning_sparse.experiments.settings import Config, first_difference
from lightning_sparse.files.writing import whole_file

__all__ = ["DONE", "FAILED", "RUNNING", "WAITING", "CellFolder", "Result", "locked", "recipe_in"]

DONE, FAILED, RUNNING, WAITING = "done", "failed", "running", "not finished"
HERE = "{cell}"
"""Stands for the cell's folder in any text of a recipe."""
_PLACES = ("default_root_dir", "save_dir")
REPORT = "SparsityReport"
METRICS = "lightning_sparse.experiments.CellMetrics"


@dataclass(frozen=True)
class Result:
    """What came of a cell.

    Args:
        status: `DONE` or `FAILED`.
        metrics: Last value of everything that was logged.
        seconds: Of the whole run, by the clock; ``None`` if it was not run in one go.
        error: Last lines of the log, if it failed.
    """

    status: str
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    error: str = ""


def recipe_in(recipe: Config, at: Path | str = HERE) -> Config:
    """Return a recipe that writes all it writes into one folder; texts may name it as ``{cell}``.

    Logs go to ``run/``, checkpoints beside them. Progress bars are left out, as the output is a log.
    """
    made: Config = _replaced(json.loads(json.dumps(recipe, default=str)))
    trainer = made.setdefault("trainer", {}) or {}
    trainer["default_root_dir"] = HERE
    trainer.setdefault("enable_progress_bar", False)
    callbacks = trainer.get("callbacks") or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    metrics = {"class_path": METRICS, "init_args": {"path": f"{HERE}/metrics.json"}}
    trainer["callbacks"] = [*callbacks, metrics]
    loggers = trainer.get("logger")
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, dict) and str(logger.get("class_path")).endswith("TensorBoardLogger"):
            # One folder for a run that goes on: ModelCheckpoint forgets which was best if it moves.
            logger["init_args"] = {**(logger.get("init_args") or {}), "name": "run", "version": 0}
    made["trainer"] = trainer
    placed: Config = _at(made, str(at))
    return placed


def _replaced(node: Any) -> Any:
    """Return a recipe in which the folders that Lightning and our callbacks write to are the cell's."""
    if isinstance(node, list):
        return [_replaced(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: _replaced(value) for key, value in node.items()}
    if str(made.get("class_path")).rpartition(".")[2] == REPORT:
        made["init_args"] = _in_cell(made.get("init_args") or {}, "path")
    for key, value in made.items():
        if key in _PLACES:
            made[key] = HERE
        elif key == "dirpath" and value:
            made[key] = f"{HERE}/checkpoints"
    return _in_cell(made, "ticket_path")


def _in_cell(arguments: Config, key: str) -> Config:
    """Return arguments in which a file, if there is one, is in the cell's folder, under its name."""
    path = str(arguments.get(key) or "")
    return {**arguments, key: f"{HERE}/{Path(path).name}"} if path and HERE not in path else arguments


def _at(node: Any, folder: str) -> Any:
    if isinstance(node, list):
        return [_at(item, folder) for item in node]
    if isinstance(node, dict):
        return {key: _at(value, folder) for key, value in node.items()}
    return node.replace(HERE, folder) if isinstance(node, str) else node


@dataclass(frozen=True)
class CellFolder:
    """A cell's folder, whether it is there or not."""

    path: Path

    @property
    def log(self) -> Path:
        """File with all that the run said."""
        return self.path / "log.txt"

    @property
    def recipe(self) -> Path:
        """File with the recipe of the run: `fit --config` takes it."""
        return self.path / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        """File of `CellMetrics`."""
        return self.path / "metrics.json"

    def result(self) -> Result | None:
        """Return what came of the cell; ``None`` if it has not ended."""
        content = _read(self.path / "result.json")
        return Result(**content) if content else None

    def write_result(self, result: Result) -> None:
        """Keep what came of the cell."""
        _write(asdict(result), self.path / "result.json")

    def is_started(self) -> bool:
        """Tell whether it was begun."""
        return (self.path / "cell.json").is_file()

    def difference(self, recipe: Config) -> str | None:
        """Say what of its recipe has changed since it was begun; ``None`` if nothing has."""
        content = _read(self.path / "cell.json")
        found = first_difference(content.get("recipe"), recipe_in(recipe)) if content else None
        return f"`{found[0]}` was {shown(found[1])}, and is {shown(found[2])}" if found else None

    def begin(self, recipe: Config, settings: Config) -> None:
        """Write down what the cell is, and forget what came of it before."""
        import yaml

        self._forget()
        _write({"settings": settings, "recipe": recipe_in(recipe)}, self.path / "cell.json")
        with whole_file(self.recipe) as (unfinished, _):
            content = yaml.safe_dump(recipe_in(recipe, self.path.resolve()), sort_keys=False)
            unfinished.write_text(content, encoding="utf-8")

    def checkpoint(self) -> Path | None:
        """Return the newest whole checkpoint; ``None`` if there is none."""
        files = [path for path in self.path.rglob("checkpoints/*.ckpt") if path.is_file()]
        files.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return next((path for path in files if zipfile.is_zipfile(path)), None)

    def clear(self) -> None:
        """Remove all of it but the lock.

        What tells of the cell goes last: who is killed in here leaves no result or checkpoint of a cell that
        would be taken for another.
        """
        self._forget()
        for path in list(self.path.iterdir()) if self.path.is_dir() else []:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in ("lock", "cell.json"):
                path.unlink()
        (self.path / "cell.json").unlink(missing_ok=True)

    def _forget(self) -> None:
        for path in (self.path / "result.json", self.metrics):
            path.unlink(missing_ok=True)

    def is_running(self) -> bool:
        """Tell whether a process runs the cell."""
        if not (self.path / "lock").is_file():
            return False
        with self.locked() as lock:
            return lock is None

    def locked(self) -> AbstractContextManager[int | None]:
        """Hold the cell for one process and its children; ``None`` if another one has it.

        Who only looks whether a cell is run holds it for a moment, and is waited for.
        """
        return locked(self.path, 0.2)


@contextmanager
def locked(folder: Path, patience: float) -> Iterator[int | None]:
    """Hold a folder for one process and its children; ``None`` if another one has it.

    What is given is a file descriptor. A child that inherits it holds the folder until it ends, also when
    its parent was killed. Where files cannot be locked (Windows), nothing is held.

    Args:
        folder: It is made if it is not there.
        patience: So many seconds are waited for another process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield descriptor if _lock(descriptor, time.monotonic() + patience) else None
    finally:
        os.close(descriptor)


def _lock(descriptor: int, end: float) -> bool:
    try:
        import fcntl
    except ModuleNotFoundError:
        return True
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        except OSError as error:
            said = f"`out` must be in a folder whose files can be locked: {error.strerror}."
            raise SparsityError(said) from error


def _read(path: Path) -> dict[str, Any]:
    """Return what a file in JSON holds; nothing if there is none, or none that is whole."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(content: dict[str, Any], path: Path) -> None:
    with whole_file(path) as (unfinished, _):
        unfinished.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")
