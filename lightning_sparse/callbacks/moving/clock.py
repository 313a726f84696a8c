"""The time that counts for moving connections: steps of each optimizer."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch.optim import Optimizer

from lightning_sparse.callbacks.stateful import Stateful
from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.schedules import is_due
from lightning_sparse.trainer.packages import Trainer
from lightning_sparse.trainer.parts import planned_steps
from lightning_sparse.weights.stepping import has_stepped

__all__ = ["Clock", "check_step", "step_of"]


class Clock(Stateful):
    """Counts the steps that optimizers really make, each by itself, and knows when an update is due.

    ``trainer.global_step`` would not do: it counts the steps of all optimizers, and skipped ones.

    Attributes:
        every_n_steps: Steps between updates.
        last_step: Step from which on there are no updates.
    """

    layout: ClassVar = {"steps": dict, "owed": list}

    def __init__(self) -> None:
        self.every_n_steps, self.last_step = 1, 0  # set when fit starts
        self._steps: dict[int, int] = {}  # made, by the optimizer's place in the Trainer's list
        self._owed: list[int] = []  # whose update could not be made when it was due
        self._acted: dict[int, int] = {}  # at which step gradients were taken last

    def step(self, trainer: Trainer, optimizer: Optimizer) -> int:
        """Return t, the number of the step that an optimizer is to make next, or is making."""
        return self._steps.get(_place(trainer, optimizer), 0) + 1

    def slowest(self, trainer: Trainer, optimizers: Sequence[Optimizer]) -> int:
        """Return how many steps each of these optimizers has made at least; 0 if there is none."""
        return min((self._steps.get(_place(trainer, one), 0) for one in optimizers), default=0)

    def updates(self, trainer: Trainer, optimizer: Optimizer) -> bool:
        """Tell whether that step is one of an update: due, or owed from an earlier one."""
        step = self.step(trainer, optimizer)
        owed = _place(trainer, optimizer) in self._owed and step < self.last_step
        return owed or is_due(step, self.every_n_steps, self.last_step)

    def has_acted(self, trainer: Trainer, optimizer: Optimizer) -> bool:
        """Tell whether that step had its turn: a line search comes by several times a step."""
        return self._acted.get(_place(trainer, optimizer)) == self.step(trainer, optimizer)

    def has_missed(self, trainer: Trainer, optimizer: Optimizer) -> bool:
        """Tell whether that step is one of an update that nobody made or put off."""
        passed_by = not self.has_acted(trainer, optimizer) and _place(trainer, optimizer) not in self._owed
        return passed_by and self.updates(trainer, optimizer)

    def count(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Count a step, if it was really made."""
        if has_stepped(optimizer):
            self._steps[_place(trainer, optimizer)] = self.step(trainer, optimizer)

    def owe(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Put an update off to the next step."""
        self._owed = sorted({*self._owed, _place(trainer, optimizer)})

    def act(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Note that gradients were taken, and the update made if there was one."""
        place = _place(trainer, optimizer)
        self._owed = [other for other in self._owed if other != place]
        self._acted[place] = self.step(trainer, optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"steps": dict(self._steps), "owed": list(self._owed)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._steps, self._owed = dict(state_dict["steps"]), list(state_dict["owed"])


def step_of(trainer: Trainer, argument: str, value: int | float) -> int:
    """Return the step that an argument stands for, itself a step or a share of all.

    Raises:
        SparsityError: If it is a share of nobody knows how many.
    """
    if isinstance(value, int):
        return value
    total = planned_steps(trainer)
    if total is None:
        raise SparsityError(
            f"`{argument}` must be a number of steps where nobody knows how many come, got {value!r}: "
            "training has no end, iterates over data without a length, or changes how it accumulates "
            "gradients. Give an integer."
        )
    return int(value * total)


def check_step(argument: str, value: object, least: int = 1) -> None:
    """Refuse what is neither a number of steps from ``least`` on, nor a share of all steps.

    Raises:
        SparsityError: It tells the way out.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return
    if isinstance(value, float) and (0 < value <= 1 or value == least):
        return
    interval = "(0, 1]" if least else "[0, 1]"
    raise SparsityError(
        f"`{argument}` must be a number of steps, or a share of all steps in {interval}, got {value!r}. "
        "Write steps without a decimal point."
    )


def _place(trainer: Trainer, optimizer: Optimizer) -> int:
    """Return an optimizer's place in the Trainer's list, -1 if it is not there."""
    return next((i for i, other in enumerate(trainer.optimizers) if other is optimizer), -1)
