"""Which run is next: first rates, then seeds; the records say what is done."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.experiments.tuning.methods import METHODS, Method
from benchmarks.experiments.tuning.rates import MOST, best_of, next_to_try
from benchmarks.experiments.tuning.task import TUNING_SEED, Budget, Task
from benchmarks.harness import series

Records = Sequence[dict[str, Any]]
HEAD = "head"


class Cell(NamedTuple):
    """A method with a budget."""

    method: Method
    budget: Budget

    @property
    def key(self) -> dict[str, Any]:
        """How records call it."""
        budget = self.budget.name if self.method.budgeted else None
        return {"method": self.method.name, "budget": budget}


class Run(NamedTuple):
    """A training to be done."""

    cell: Cell
    seed: int
    exponent: int
    """Of the rate."""
    head_exponent: int | None
    """Of the rate of the head: the best one of training the head alone, for all methods; ``None`` without."""


@dataclass(frozen=True)
class Plan:
    """What is to be trained, in this order: budget by budget, all rates of one before its seeds.

    Args:
        task: What is fine-tuned.
        methods: Names.
        budgets: Names.
        seeds: Those that count.
        most: Rates that are tried at most for each method.
        rates: Of methods that shall not have the best one: their numbers.
    """

    task: Task
    methods: Sequence[str]
    budgets: Sequence[str]
    seeds: Sequence[int]
    most: int = MOST
    rates: Mapping[str, int] = field(default_factory=dict)

    def next_run(self, records: Records) -> Run | None:
        """Return the next one, or ``None`` when all is done."""
        head_exponent = None
        if self.task.features is not None:
            head = Cell(METHODS[HEAD], self.task.budgets[0])
            if (exponent := self._untried(head, records)) is not None:
                return Run(head, TUNING_SEED, exponent, exponent)
            head_exponent = best_of(self.tried(head, records))
        for cells in self._blocks():
            for cell in cells:
                if (exponent := self._untried(cell, records)) is not None:
                    return Run(cell, TUNING_SEED, exponent, head_exponent)
            for seed in self.seeds:
                for cell in cells:
                    taken = self.rate_of(cell, records)
                    if not any(run["exponent"] == taken for run in self._runs(cell, records, seed)):
                        return Run(cell, seed, taken, head_exponent)
        return None

    def tried(self, cell: Cell, records: Records) -> dict[int, float]:
        """Return accuracy on validation data by rate; none for runs that failed."""
        found = {}
        for record in self._runs(cell, records, TUNING_SEED):
            accuracy = record["accuracy"]
            found[record["exponent"]] = float("-inf") if accuracy is None else accuracy
        return found

    def rate_of(self, cell: Cell, records: Records) -> int:
        """Return the number of the rate that runs which count have, once rates have been tried."""
        return self.rates.get(cell.method.name, best_of(self.tried(cell, records)))

    def epochs_of(self, seed: int) -> int:
        """Return how long runs of that seed train."""
        return self.task.rate_epochs if seed == TUNING_SEED else self.task.epochs

    def key(self, run: Run) -> dict[str, Any]:
        """Return what a record of that run begins with."""
        about = self._about(run.cell, run.seed)
        return about | {"exponent": run.exponent, "head_exponent": run.head_exponent}

    def _about(self, cell: Cell, seed: int) -> dict[str, Any]:
        return {"task": self.task.name, **cell.key, "epochs": self.epochs_of(seed), "seed": seed}

    def _untried(self, cell: Cell, records: Records) -> int | None:
        return next_to_try(cell.method.middle, self.tried(cell, records), self.most)

    def _runs(self, cell: Cell, records: Records, seed: int) -> Records:
        return series.matching(records, self._about(cell, seed))

    def _blocks(self) -> Iterator[list[Cell]]:
        """Yield the cells of each budget; those without one are among the first's."""
        methods = [METHODS[name] for name in self.methods]
        for number, name in enumerate(self.budgets):
            budget = next(budget for budget in self.task.budgets if budget.name == name)
            yield [Cell(method, budget) for method in methods if method.budgeted or number == 0]
