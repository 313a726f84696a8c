"""Trained nets out of the folders of finished runs: built by the recipe there, with saved weights."""

from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_sparse.checks import SparsityError, first_line
from lightning_sparse.cli.inputs import example_input
from lightning_sparse.cli.wording import shorten
from lightning_sparse.extras import import_extra
from lightning_sparse.files.checkpoints import restore_
from lightning_sparse.reporting.report.facts import CONFIG, read_config
from lightning_sparse.reporting.runs import read_run
from lightning_sparse.trainer.packages import LightningDataModule, LightningModule

__all__ = ["TrainedNet", "checkpoint_at", "config_beside", "trained_net"]


@dataclass(frozen=True)
class TrainedNet:
    """A net as a run has left it.

    Args:
        module: The net, in eval mode on the CPU.
        checkpoint: The file that its weights are from.
        config: The recipe that it was trained by, as plain dicts and lists.
    """

    module: LightningModule
    checkpoint: Path
    config: dict[str, Any]

    def data(self) -> LightningDataModule | None:
        """Return the run's data module, built anew; ``None`` if the recipe names none."""
        return _built(LightningDataModule, "data", self.config) if self.config.get("data") else None

    def input(self, size: Sequence[int] | None) -> Any:
        """Return what to call the net with, as `example_input` does; the data are built only if need be."""
        known = size is not None or self.module.example_input_array is not None
        return example_input(self.module, None if known else self.data(), size)[0]


def checkpoint_at(path: str | Path) -> Path:
    """Return a checkpoint itself, or the last one of a run.

    Raises:
        SparsityError: If there is no such file or folder, or no checkpoint in it.
    """
    return Path(path) if Path(path).is_file() else read_run(path).checkpoints[-1].path


def trained_net(path: str | Path, argument: str = "RUN") -> TrainedNet:
    """Build the net of a run, and give it the weights of a checkpoint.

    Args:
        path: A folder of one run (its last checkpoint is taken), or a checkpoint in one.
        argument: What the path is called in errors.

    Raises:
        SparsityError: If there is no such file or folder, no recipe beside it, or another net in it.
        ModuleNotFoundError: If jsonargparse is not installed.
    """
    checkpoint = checkpoint_at(path)
    config = _read_config(checkpoint, argument)
    module = _built(LightningModule, "model", config, argument)
    try:
        restore_(module, checkpoint)
    except RuntimeError as error:
        said = first_line(error)
        raise SparsityError(
            f"`{argument}` must have a {CONFIG} of its own net, got {str(checkpoint)!r}, whose weights are "
            f"of another net than the recipe's: {said}"
        ) from error
    return TrainedNet(module.eval(), checkpoint, config)


def config_beside(checkpoint: Path) -> Path | None:
    """Return the recipe of a run: ``<run>/config.yaml`` of ``<run>/checkpoints/*.ckpt``; None without one."""
    folder = checkpoint.absolute().parent
    return next((there / CONFIG for there in (folder, folder.parent) if (there / CONFIG).is_file()), None)


def _read_config(checkpoint: Path, argument: str) -> dict[str, Any]:
    """Return what the recipe of a checkpoint's run says."""
    import_extra("jsonargparse", "building a net from the recipe of its run")
    found = config_beside(checkpoint)
    if found is None:
        raise SparsityError(
            f"`{argument}` must lie in the folder of a run with the {CONFIG} that LightningCLI writes, got "
            f"{str(checkpoint)!r}, which does not. In Python, pass the module itself."
        )
    config, why_none = read_config(found.parent)
    if "class_path" not in (config.get("model") or {}):
        reason = f"which does not ({why_none})" if why_none else "which does not"
        raise SparsityError(
            f"`{argument}` must have a {CONFIG} that names the class of its model, got {str(found)!r}, "
            f"{reason}. In Python, pass the module itself."
        )
    return config


def _built(base: type, key: str, config: dict[str, Any], argument: str = "RUN") -> Any:
    """Return the object that one part of a recipe describes."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, key)
    try:
        return parser.instantiate_classes(parser.parse_object({key: config[key]}))[key]
    except Exception as error:
        refused = isinstance(error, ArgumentError)  # its class is not there, or takes other arguments by now
        reason = shorten(str(error)) if refused else f"{_raised(error)}."
        raise SparsityError(
            f"`{argument}` must have a {CONFIG} whose `{key}` can be built here: {reason}"
        ) from error


def _raised(error: BaseException) -> str:
    """Return what a class has raised while it was built, from below what jsonargparse says of it."""
    while not isinstance(error, SparsityError) and error.__cause__ is not None:
        error = error.__cause__
    kind, said = type(error).__name__, first_line(error)
    return said if isinstance(error, SparsityError) or said == kind else f"{kind}: {said}"
