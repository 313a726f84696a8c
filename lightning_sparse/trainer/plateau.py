"""Steps of ``ReduceLROnPlateau``, which Lightning makes after it has written a checkpoint."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from torch import Tensor

from lightning_sparse.trainer.accumulation import accumulates
from lightning_sparse.trainer.packages import Trainer
from lightning_sparse.trainer.parts import step_scheduler
from lightning_sparse.trainer.resuming import Moment, moment_of

__all__ = ["PlateauSteps"]

OwedSteps: TypeAlias = list[dict[str, Any]]
"""Number of each scheduler that has a step to make, and the value for it, None if it was not known yet."""


class PlateauSteps:
    """Steps that Lightning does not make in a resumed run.

    It leaves out those of the batch or epoch that a checkpoint was written in, and of the epoch in which fit
    resumes, for want of metrics from before.
    """

    def __init__(self) -> None:
        self._owed: OwedSteps = []
        self._left_out: OwedSteps = []

    def state_dict(self, trainer: Trainer) -> dict[str, Any]:
        """Return the steps that are still to be made, and the latest values of what schedulers look at."""
        return {"steps": self._owed or _owed_steps(trainer), "metrics": _metrics(trainer)}

    def load_state_dict(self, trainer: Trainer, state_dict: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` returned; let the Trainer know the values that it has forgotten."""
        self._owed = list(state_dict.get("steps", ()))
        known, saved = trainer._logger_connector._callback_metrics, state_dict.get("metrics", {})
        known.update({name: value for name, value in saved.items() if name not in known})

    def end_resumed_epoch(self, trainer: Trainer, within: bool) -> list[str]:
        """Note the steps that Lightning leaves out; say what is lost if fit resumed ``within`` the epoch.

        That is the mean over an epoch's training: part of it was taken before the checkpoint.
        """
        self._left_out = [{**step, "value": None} for step in _owed_steps(trainer)]
        monitored = [_monitor(trainer, step) for step in self._left_out] if within else []
        means = _means(trainer.fit_loop.epoch_loop._results) if monitored else {}
        told = "the mean {!r} leaves out what was before the checkpoint, in mid-epoch"
        return [told.format(name) for name in monitored if name in means]

    def make_up(self, trainer: Trainer) -> list[str]:
        """Make the steps; say what is lost where nobody knows the value."""
        steps, self._owed, self._left_out = [*self._owed, *self._left_out], [], []
        lost, progress = [], trainer.fit_loop.epoch_loop.scheduler_progress
        for step in steps:
            name = _monitor(trainer, step)
            value = trainer.callback_metrics.get(name) if step["value"] is None else step["value"]
            if value is None:
                lost.append(f"a step of ReduceLROnPlateau is left out: the checkpoint does not have {name!r}")
                continue
            progress.increment_ready()
            step_scheduler(trainer, trainer.lr_scheduler_configs[step["scheduler"]], value)
            progress.increment_completed()
        return lost


def _owed_steps(trainer: Trainer) -> OwedSteps:
    """Return the steps that Lightning is going to make for the batch or epoch that ends now.

    Other schedulers have made theirs: Lightning steps them before callbacks see the end of a batch.
    """
    if not trainer.lightning_module.automatic_optimization:
        return []
    moment = moment_of(trainer)
    return [
        {"scheduler": number, "value": _value(trainer, config, moment)}
        for number, config in enumerate(trainer.lr_scheduler_configs)
        if config.reduce_on_plateau and _is_owed(trainer, config, moment)
    ]


def _metrics(trainer: Trainer) -> dict[str, Any]:
    monitored = [str(config.monitor) for config in trainer.lr_scheduler_configs if config.reduce_on_plateau]
    known = trainer.callback_metrics if monitored else {}
    return {name: _kept(known[name]) for name in monitored if name in known}


def _monitor(trainer: Trainer, step: Mapping[str, Any]) -> str:
    return str(trainer.lr_scheduler_configs[step["scheduler"]].monitor)


def _is_owed(trainer: Trainer, config: Any, moment: Moment) -> bool:
    loop = trainer.fit_loop.epoch_loop
    if config.interval == "epoch":
        due = (trainer.current_epoch + 1) % config.frequency == 0
        return due and moment != "" and loop._num_ready_batches_reached()
    due = (loop.batch_idx + 1) % config.frequency == 0 and not accumulates(trainer)
    return bool(due and moment == "step made")  # after a validation Lightning makes up for it


def _value(trainer: Trainer, config: Any, moment: Moment) -> Any:
    """Return the value that a step will be made with, None if it is yet to be computed."""
    known: dict[str, Any] = trainer.callback_metrics
    loop = trainer.fit_loop.epoch_loop
    if config.interval == "epoch" and moment != "epoch ends":
        of_validation = loop.val_loop._results if moment == "validating" else {}
        known = {
            **(_means(of_validation) if of_validation else {}),
            **_means(loop._results),  # all batches have been trained on
        }
    name = str(config.monitor)
    return _kept(known[name]) if name in known else None


def _means(results: Any) -> dict[str, Any]:
    """Return what was logged, over the whole epoch."""
    means: dict[str, Any] = results.metrics(on_step=False)["callback"]
    return means


def _kept(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value
