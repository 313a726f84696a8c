"""What a run reached, in a file: the sweep that started it reads it there."""

import json
from pathlib import Path
from typing import Any

from lightning_sparse.files.writing import whole_file
from lightning_sparse.trainer.packages import Callback, LightningModule, Trainer

__all__ = ["CellMetrics", "read_metrics"]


class CellMetrics(Callback):
    """Write the last value of everything that was logged to a file, after fit and after test.

    A sweep adds it to the callbacks of its runs. The values are in checkpoints too: a run that was killed
    between its last epoch and its test is not validated again when it goes on.

    Args:
        path: File in JSON: values by name.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.values: dict[str, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what validation logged, before a checkpoint is written."""
        self._note(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what the epoch logged, before a checkpoint is written."""
        self._note(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what there is: a test may not follow."""
        self._write(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it again, with what the test logged."""
        self._note(trainer)
        self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the values so far."""
        return {"values": dict(self.values)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the values of the run that goes on."""
        self.values.update(state_dict["values"])

    def _note(self, trainer: Trainer) -> None:
        if not trainer.sanity_checking:
            self.values.update({name: float(value) for name, value in trainer.callback_metrics.items()})

    def _write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            with whole_file(self.path) as (unfinished, _):
                unfinished.write_text(json.dumps(self.values, indent=1), encoding="utf-8")


def read_metrics(path: Path) -> dict[str, float]:
    """Return the values in a file, NaN among them; none if there is no such file."""
    if not path.is_file():
        return {}
    values: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return values
