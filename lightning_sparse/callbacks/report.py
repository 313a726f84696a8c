"""Writes what a fit has come to on one page, when it ends."""

import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_sparse.callbacks.company import OurCallback, announce_to_ranks, check_what_is_loaded
from lightning_sparse.callbacks.sharding import refuse_strategy
from lightning_sparse.callbacks.sparsifier import sparsifiers
from lightning_sparse.checks import check_flag, check_writable, first_line
from lightning_sparse.export.compared import exported_nets
from lightning_sparse.files.states import refuse_other_layout
from lightning_sparse.reporting.recorder import Recorder
from lightning_sparse.reporting.report import build_report, live_material
from lightning_sparse.reporting.report_files import NAME, write_report
from lightning_sparse.trainer.packages import LightningModule, Trainer, rank_zero_warn, without_module
from lightning_sparse.trainer.parts import callbacks_of
from lightning_sparse.trainer.processes import compare_callbacks
from lightning_sparse.trainer.randomness import left_undisturbed

__all__ = ["SparsityReport"]


class SparsityReport(OurCallback):
    """Write ``report.html`` and ``report.json`` when fit ends: accuracy, density, masks, costs on a page.

    The page needs nothing beside it and opens offline. It lies in the folder of the first logger, without one
    in ``default_root_dir``; process 0 writes it. What it shows is gathered at ends of epochs from what the
    Trainer shows to callbacks, so any logger will do, and none. After an exception, and with
    ``fast_dev_run``, nothing is written. ``lightning-sparse report RUN`` writes the same for a finished run.

    Args:
        path: Where to write the page instead; the JSON file lies beside it.
        latency: Whether to measure how long one input takes, in one thread of the CPU: a few seconds at the
            end of fit, and copies of the net, of which some are in double precision.

    Raises:
        SparsityError: If no file can be written there.
    """

    needs_whole = (
        "it looks at whole weights on process 0 alone. Leave it out, and write the page of the finished run "
        "by `lightning-sparse report RUN`"
    )

    def __init__(self, path: str | None = None, latency: bool = True) -> None:
        check_writable("path", path)
        check_flag("latency", latency)
        self.path = path
        self.latency = latency

        self._trainer: weakref.ReferenceType[Trainer] | None = None
        self._recorder = Recorder()
        self._epoch: int | None = None  # the one that metrics are of; None before the first
        self._folder: str | None = None
        self._example: Any = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that all ranks must share."""
        return {"latency": self.latency}

    def before_loading(self, trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
        """Do nothing: it changes no module."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the other ranks of it; forget another fit, unless this one goes on where that has ended."""
        refuse_strategy(self, trainer)
        announce_to_ranks(self, trainer)
        check_what_is_loaded(self, trainer)
        if stage == "fit":
            if trainer.current_epoch == 0:
                self._recorder = Recorder()
            self._trainer = weakref.ref(trainer)
            self._epoch, self._folder, self._example = None, None, None

    def state_dict(self) -> dict[str, Any]:
        """Return what was logged so far, so that a resumed fit has the whole of it.

        All ranks are asked, once other callbacks have logged: a checkpoint comes after them.
        """
        if (trainer := None if self._trainer is None else self._trainer()) is not None:
            self._gather(trainer)
        return {"curves": self._recorder.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        refuse_other_layout("SparsityReport", state_dict, {"curves": Mapping})
        self._recorder.take_up(state_dict["curves"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare with the other ranks."""
        compare_callbacks(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather what the epoch before has logged in its last hooks."""
        self._gather(trainer)
        self._epoch = trainer.current_epoch

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep one input, for the costs, where the module has no example of its own."""
        if self._example is None and pl_module.example_input_array is None and trainer.is_global_zero:
            first = batch[0] if isinstance(batch, list | tuple) and batch else batch
            self._example = first[:1].detach().cpu().clone() if _is_input(first) else ()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather what is logged by now, and count what each layer keeps."""
        if self._epoch is not None:
            self._recorder.count_layers(self._epoch, pl_module)
        self._gather(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the rest, and learn where to write: every rank has to ask."""
        self._gather(trainer)
        self._epoch = None  # what comes after is of a test
        self._recorder.forget_metrics()
        self._folder = trainer.log_dir or trainer.default_root_dir

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report. Whatever goes wrong is a warning: the net is trained, and more may follow."""
        folder, example = self._folder, self._example
        self._folder, self._example = None, None
        if folder is None or _is_trial(trainer) or not trainer.is_global_zero:
            return
        try:
            with left_undisturbed(trainer):
                page = self._write(trainer, pl_module, Path(folder), example)
        except Exception as error:
            rank_zero_warn(
                f"SparsityReport has written nothing: {type(error).__name__}: {first_line(error)}. "
                "`lightning-sparse report RUN` may still do so."
            )
        else:
            print(f"\nSparsity report: {page}\n", flush=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write nothing."""
        self._epoch, self._folder, self._example = None, None, None
        self._recorder.forget_metrics()

    def __getstate__(self) -> dict[str, Any]:
        return {**without_module(self), "_trainer": None}

    def _gather(self, trainer: Trainer) -> None:
        """Read the metrics, on every rank: a mean over processes may be due."""
        if self._epoch is not None:
            self._recorder.note(self._epoch, trainer.callback_metrics)

    def _write(self, trainer: Trainer, module: LightningModule, folder: Path, example: Any) -> Path:
        own = module.example_input_array
        inputs = own if own is not None else example if isinstance(example, Tensor) else None
        material = live_material(
            module,
            folder,
            self._recorder.curves,
            facts=_facts(trainer, module, folder),
            callbacks=", ".join(one.describe() for one in sparsifiers(trainer)),
            inputs=inputs,
            measure=self.latency,
            others=exported_nets(module, inputs) if self.latency and inputs is not None else {},
        )
        page, _ = write_report(build_report(material), folder / NAME if self.path is None else self.path)
        return page


def _is_input(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _is_trial(trainer: Trainer) -> bool:
    """Tell whether this is no more than a trial of the code (``fast_dev_run``), which leaves no files."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _facts(trainer: Trainer, module: LightningModule, folder: Path) -> dict[str, str]:
    """Return what there is to say of a fit."""
    facts = {
        "Run": folder.as_posix(),
        "Model": type(module).__name__,
        "Trained": f"{trainer.current_epoch} epochs, {trainer.global_step:,} steps",
        "Precision": str(trainer.precision),
        "Processes": str(trainer.world_size),
    }
    for number, callback in enumerate(callbacks_of(trainer), 1):
        tells = isinstance(callback, OurCallback) and callback.arguments()
        words = callback.describe() if tells else type(callback).__name__  # type: ignore[attr-defined]
        facts[f"Callback {number}"] = words
    if "PL_GLOBAL_SEED" in os.environ:
        facts["Seed"] = os.environ["PL_GLOBAL_SEED"]
    return facts
