"""The cost columns of Table 1 of the DCTpS paper, measured: bytes and CPU time, from start to end, by method.

    python -m benchmarks.speed.cost_columns --threads 1                         # LeNet-5 at 1%: two minutes
    python -m benchmarks.speed.cost_columns resnet18 --batch 32 --threads 1     # half an hour
    python -m benchmarks.speed.cost_columns --density 0.001 --only DCTpS RigL
    python -m benchmarks.speed.cost_columns --smoke                             # to see that it runs

**Bytes** are those of tensors, counted and not computed, each row in a process of its own. *Start*: what the
net and all that the method keeps take once it has decided, and the peak until then: with the dense net that
is scored, if one is, and the activations of its batch. *Training*: what is there between two steps of Adam
(parameters, gradients, optimizer state, masks or positions, tables), and the peak of a step with its
activations; for RigL also of an update. *End*: what is left without gradients and optimizer; a masked net
still has its masks.
What oneDNN and MKL take for themselves is not seen.

**Time** is CPU time of the process: of all that a method does before the first step, making the net included;
and of a step, in turn with all others, the median. RigL's is the mean of 99 steps and an update. Masked
weights are multiplied as dense ones, so masks save no time here; "compact" is the same method with the
weights stored as values and positions. IMP's row is its last round; before, it trains as the dense net does.

Behind the measured figures: the O() of the paper. N weights in all, a share P of them kept; a layer of m x n
with a share p kept; q = max(m, n); k iterations; T steps between two updates.
"""

import argparse
import json
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from benchmarks.experiments.offset_nets import conv_net
from benchmarks.experiments.offset_training import Mover, step
from benchmarks.harness.allocations import peak_allocated
from benchmarks.harness.memory import MIB, nbytes
from benchmarks.harness.nets import tiny_net
from benchmarks.harness.report import environment, file_of_run
from benchmarks.harness.runner import interleave, parse, timed
from benchmarks.speed.storage import alive
from lightning_sparse import keep_sparse_, release_, sparsify_
from lightning_sparse.functional.saliency import (
    FORCE,
    SNIP,
    GraSP,
    IterativeSNIP,
    Magnitude,
    PruningMethod,
    Random,
    SynFlow,
)
from lightning_sparse.layers import alpha_groups, compact_layers, convert_, materialize_
from lightning_sparse.models import LeNet5, LeNet300100, ResNet18
from lightning_sparse.weights.state import state_of

NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet5": (LeNet5, (3, 32, 32)),
    "lenet300": (LeNet300100, (1, 28, 28)),
    "conv_bn": (partial(conv_net, norm=True), (3, 32, 32)),
    "resnet18": (ResNet18, (3, 32, 32)),
    "tiny": (tiny_net, (3, 32, 32)),
}
EVERY, NEVER = 100, 10**9


@dataclass(frozen=True)
class Case:
    """What all ways have in common."""

    make: Callable[[], nn.Module]
    density: float
    batch: tuple[Tensor, Tensor]


Decide = Callable[[Case], tuple[nn.Module, Any]]
"""Returns the net that is trained, and what else is kept in training."""


@dataclass(frozen=True)
class Way:
    """A row of the table.

    Args:
        name: Of the method and its storage.
        decide: Makes the net and prunes or converts it.
        moves: Whether RigL moves connections.
        paper: The paper's O(): at the start, in training, at the end; time, then size.
    """

    name: str
    decide: Decide
    moves: bool
    paper: tuple[str, str, str, str, str, str] | None


def dense(case: Case) -> tuple[nn.Module, Any]:
    """Return the net as it is."""
    return case.make(), None


def pruned(case: Case, method: PruningMethod, storage: str) -> tuple[nn.Module, Any]:
    """Return the net pruned before the first step."""
    net = case.make()
    sparsify_(net, method, case.density, loss_fn=_loss, batches=[case.batch], seed=0, storage=storage)  # type: ignore[arg-type]
    return net, None


def last_round(case: Case) -> tuple[nn.Module, Any]:
    """Return the net in the last round of IMP, and the weights that rounds begin with."""
    net = case.make()
    start = [parameter.detach().clone() for parameter in net.parameters()]
    sparsify_(net, Magnitude(), case.density, seed=0)
    return net, start


def converted(case: Case, offset: str, allocation: str, backend: str) -> tuple[nn.Module, Any]:
    """Return the net with layers of k values each; the dense one is never there."""
    with torch.device("meta"):
        net = case.make()
    convert_(net, case.density, allocation, offset=offset, backend=backend)  # type: ignore[arg-type]
    materialize_(net, "cpu")
    return net, None


def _loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


def ways() -> list[Way]:
    """Return all rows."""
    scoring: dict[str, tuple[PruningMethod, str | None]] = {
        "SNIP": (SNIP(), None),
        "iterative SNIP, 60": (IterativeSNIP(iterations=60, num_batches=1), None),
        "GraSP": (GraSP(), None),
        "FORCE, 60": (FORCE(iterations=60, num_batches=1), "mnk"),
        "SynFlow, 100": (SynFlow(iterations=100), "mnk"),
    }
    small, sparse = ("PN", "PN", "PN"), ("pmn", "pmn")
    moving = ("0", "pmn + mn / T", "pmn", *small)
    offset = ("0", "q log q + pmn", "q log q + pmn", *small)
    found = [Way("dense", dense, False, None)]
    found.append(
        Way(
            "random, masked",
            partial(pruned, method=Random("epl"), storage="masked"),
            False,
            ("0", *sparse, *small),
        )
    )
    found.append(
        Way(
            "random, compact",
            partial(converted, offset="none", allocation="epl", backend="auto"),
            False,
            ("0", *sparse, *small),
        )
    )
    for name, (method, time_) in scoring.items():
        paper = None if time_ is None else (time_, *sparse, "N", "PN", "PN")
        for storage in ("masked", "compact"):
            found.append(
                Way(f"{name}, {storage}", partial(pruned, method=method, storage=storage), False, paper)
            )
    found.append(Way("IMP, last round", last_round, False, ("0", "mn -> pmn", "pmn", "N", "N -> PN", "PN")))
    found.append(
        Way("RigL (ERK), masked", partial(pruned, method=Random("erk"), storage="masked"), True, moving)
    )
    found.append(
        Way(
            "RigL (ERK), compact",
            partial(converted, offset="none", allocation="erk", backend="auto"),
            True,
            moving,
        )
    )
    for backend in ("auto", "transform"):
        make = partial(converted, offset="dct", allocation="epl", backend=backend)
        found.append(Way(f"DCTpS, {backend}", make, False, offset))
        found.append(Way(f"DCTpS + RigL, {backend}", make, True, None))
    return found


class Training:
    """A net with its optimizer, and its two kinds of steps."""

    def __init__(self, net: nn.Module, kept: Any, way: Way, case: Case) -> None:
        self.net, self.kept, self.batch = net, kept, case.batch
        self.optimizer = Adam(alpha_groups(net, 5e-4), lr=1e-3, fused=True)
        if way.name != "dense" and not compact_layers(net):
            keep_sparse_(net, self.optimizer)
        self.mover = Mover(net, self.optimizer, NEVER, 1) if way.moves else None

    def step(self) -> None:
        """Make an ordinary step."""
        step(self.net, self.optimizer, self.batch, None)

    def update(self) -> None:
        """Make a step that moves connections in the place of the optimizer's."""
        step(self.net, self.optimizer, self.batch, self.mover)


@dataclass(frozen=True)
class Cost:
    """Figures of a row: bytes, and seconds of CPU time."""

    start_kept: int
    start_peak: int
    start_seconds: float
    kept: int
    peak: int
    end: int
    step_seconds: float | None = None
    update_seconds: float | None = None

    @property
    def mean_seconds(self) -> float:
        """Return the mean time of a step, updates included."""
        assert self.step_seconds is not None
        if self.update_seconds is None:
            return self.step_seconds
        return ((EVERY - 1) * self.step_seconds + self.update_seconds) / EVERY


def measure(way: Way, case: Case) -> Cost:
    """Return all figures but the times of steps."""
    before = alive()
    known = nbytes(before)

    def held() -> int:
        return nbytes([*before, *alive()]) - known

    cpu = time.process_time()
    way.decide(case)
    seconds = time.process_time() - cpu
    (net, kept), start_peak = peak_allocated(partial(way.decide, case))
    start_kept = held()
    between, peak = _in_training(Training(net, kept, way, case), held)
    del kept
    if state_of(net).weights:
        release_(net)
    for parameter in net.parameters():
        parameter.grad = None
    return Cost(start_kept, start_peak, seconds, between, between + peak, held())


def _in_training(training: Training, held: Callable[[], int]) -> tuple[int, int]:
    """Return the bytes between two steps, and by how many a step exceeds them."""
    kinds = [training.step] if training.mover is None else [training.step, training.update]
    for kind in (*kinds, training.step):
        kind()
    between = held()
    return between, max(peak_allocated(kind)[1] for kind in kinds)


def measured_apart(way: Way, case: Case) -> Cost:
    """Measure in a process of its own: tables that layers share would count for the first row only."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(measure, (way, case))


def clock(found: Sequence[Way], case: Case, rounds: int) -> dict[str, tuple[float, float | None]]:
    """Return the median CPU time of a step, and of an update, by row; all take turns."""
    trainings = {way.name: Training(*way.decide(case), way, case) for way in found}
    turns = {name: timed(training.step, 3) for name, training in trainings.items()}
    moving = {way.name: timed(trainings[way.name].update) for way in found if way.moves}
    samples = interleave(turns | {f"{name}: update": turn for name, turn in moving.items()}, rounds)
    medians = {name: statistics.median(sample.cpu for sample in taken) for name, taken in samples.items()}
    return {way.name: (medians[way.name], medians.get(f"{way.name}: update")) for way in found}


def table(found: Sequence[Way], costs: dict[str, Cost]) -> list[str]:
    """Return the table in Markdown, as the docs take it."""
    columns = (
        "",
        "start: kept, peak (MiB)",
        "start (s)",
        "training: kept, peak (MiB)",
        "end (MiB)",
        "step (ms)",
        "of dense",
        "O(): time at the start, in training, at the end; size",
    )
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for way in found:
        cost = costs[way.name]
        paper = "; ".join(", ".join(part) for part in (way.paper[:3], way.paper[3:])) if way.paper else ""
        cells = (
            way.name,
            f"{_mib(cost.start_kept)}, {_mib(cost.start_peak)}",
            f"{cost.start_seconds:.3g}",
            f"{_mib(cost.kept)}, {_mib(cost.peak)}",
            _mib(cost.end),
            f"{1e3 * cost.mean_seconds:.3g}",
            f"{cost.mean_seconds / costs['dense'].mean_seconds:.2f}",
            paper,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _mib(count: int) -> str:
    return f"{count / MIB:.3g}"


def add_own(parser: argparse.ArgumentParser) -> None:
    """Add the options that only this benchmark has."""
    parser.add_argument("net", nargs="?", choices=list(NETS), default="lenet5")
    parser.add_argument("--density", type=float, default=0.01, help="share of the weights kept (0.01)")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch (64)")
    parser.add_argument(
        "--only", nargs="*", help="parts of names of rows to measure beside the dense net (all)"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(__doc__, argv, rounds=9, add_own=add_own)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    make, shape = NETS["tiny" if options.smoke else options.net]
    batch = torch.randn(options.batch, *shape), torch.randint(10, (options.batch,))
    case = Case(make, options.density, batch)
    found = [
        way
        for way in ways()
        if way.name == "dense" or not options.only or any(part in way.name for part in options.only)
    ]
    costs = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for way in found:
            costs[way.name] = measured_apart(way, case)
            print(f"{way.name}: {costs[way.name]}", flush=True)
        for name, (mean, update) in clock(found, case, options.rounds).items():
            costs[name] = Cost(**asdict(costs[name]) | {"step_seconds": mean, "update_seconds": update})
    print("\n".join(table(found, costs)))
    content = {"benchmark": "cost_columns", "options": vars(options), "environment": environment()}
    path = file_of_run("cost_columns", options.results)
    costs_found = {name: asdict(cost) for name, cost in costs.items()}
    path.write_text(json.dumps(content | {"costs": costs_found}, indent=1, default=str))
    print(f"\nWritten to {path}")


if __name__ == "__main__":
    main()
