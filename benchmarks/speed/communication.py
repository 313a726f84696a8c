"""What two hosts send each other in a step of training, and how long the step takes.

    python -m benchmarks.speed.communication                    # Linux, as root: half an hour
    python -m benchmarks.speed.communication --rate 100mbit
    python -m benchmarks.speed.communication --smoke            # a tiny net, just to see that it runs

Two processes train ResNet-18 (images of 32 x 32, two of them each) by SGD with momentum, each on a host of
its own: network namespaces that a cable joins, whose speed tc limits (`benchmarks.harness.hosts`). "all" and
"kept" are values of `communication` under masks, "compact" is `storage="compact"`. All take turns, a few
steps each, in one process a host with one thread; the medians of all their steps are compared.

"counted" are the bytes that communication hooks got to reduce, in a round before the timed ones. "on the
cable" is what the network's device counts to have gone out from the first host, which sends batch norms'
statistics to the other one as well. Nothing follows from a formula.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch.distributed import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook, fp16_compress_hook
from torch.futures import Future

from benchmarks.harness.hosts import CABLE, two_hosts, why_not
from benchmarks.harness.nets import cifar_resnet18, tiny_net
from benchmarks.harness.report import environment, file_of_run
from benchmarks.harness.runner import turns
from benchmarks.harness.tables import table
from benchmarks.harness.training import OPTIMIZERS, Task, bare_trainer, loader, silence_lightning
from lightning_sparse import PruneAtInit

DENSITIES = (0.1, 0.01, 0.001)
WARM_UP = 2  # DDP rearranges its buckets after the first step
HOOKS: dict[str, Callable[..., Any]] = {"": allreduce_hook, "fp16": fp16_compress_hook}


class Case(NamedTuple):
    """How gradients are exchanged: "plain" is DDP without masks; at what density; by which hook."""

    way: str
    density: float
    hook: str

    def callbacks(self) -> list[pl.Callback]:
        """Return what makes the net sparse."""
        options: dict[str, Any] = {
            "all": {},
            "kept": {"communication": "kept"},
            "compact": {"storage": "compact"},
        }
        return [PruneAtInit("erk", self.density, **options[self.way])] if self.way in options else []

    def __str__(self) -> str:
        return " ".join(filter(None, [self.way, "" if self.density == 1 else f"{self.density:g}", self.hook]))


CASES = [
    Case(way, density, hook)
    for hook in HOOKS
    for way, density in (
        ("plain", 1.0),
        ("all", DENSITIES[1]),
        *((way, density) for way in ("kept", "compact") for density in DENSITIES),
    )
]


@dataclass
class Taken:
    """What was measured of one case, on one host; all of it for a step."""

    counted: list[int] = field(default_factory=list)
    cable: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


class Clock(pl.Callback):
    """Takes the times of all steps but the first, and what has gone out during these."""

    def __init__(self, taken: Taken) -> None:
        self.taken, self.start = taken, (0.0, 0.0)
        self.sent = 0

    def on_train_batch_start(self, *arguments: Any) -> None:
        """Start."""
        if arguments[-1] == WARM_UP:
            self.sent = sent_bytes()
        self.start = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
        """Stop."""
        index = arguments[-1]
        if index >= WARM_UP:
            self.taken.wall.append(time.perf_counter() - self.start[0])
            self.taken.cpu.append(time.process_time() - self.start[1])
        if index + 1 == trainer.num_training_batches:
            steps = trainer.num_training_batches - WARM_UP
            self.taken.cable.append((sent_bytes() - self.sent) / steps)


class Registers(pl.Callback):
    """Gives DDP a hook where Lightning leaves it out: on CPUs."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self.hook = hook

    def on_fit_start(self, trainer: Any, *_: Any) -> None:
        """Give it."""
        trainer.strategy.model.register_comm_hook(None, self.hook)


def sent_bytes() -> int:
    """Return what the cable's device has sent since it was made."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == CABLE:
            return int(numbers.split()[8])
    return 0


def counting(hook: Callable[..., Any], counted: list[int]) -> Callable[..., Any]:
    """Return a hook that also takes down how many bytes it was given."""

    def count(_: Any, bucket: GradBucket) -> Future[torch.Tensor]:
        buffer = bucket.buffer()
        size = 2 if hook is fp16_compress_hook else buffer.element_size()
        counted.append(buffer.numel() * size)
        future: Future[torch.Tensor] = hook(None, bucket)
        return future

    return count


def train(case: Case, taken: Taken, options: argparse.Namespace, counts: bool) -> None:
    """Train for a few steps, and add what was measured; times only if nothing is counted."""
    counted: list[int] = []
    hook = counting(HOOKS[case.hook], counted) if counts else HOOKS[case.hook]
    given = hook if counts or case.hook else None
    takes_part = case.way == "kept"  # ours hands over what is sent
    clock = Clock(Taken() if counts else taken)
    torch.manual_seed(0)
    module = Task(tiny_net() if options.smoke else cifar_resnet18(), OPTIMIZERS["SGD+momentum"])
    trainer = bare_trainer(
        [*case.callbacks(), clock, *([Registers(given)] if given and not takes_part else [])],
        strategy=DDPStrategy(ddp_comm_hook=given if takes_part else None),
        hosts=2,
    )
    steps = WARM_UP + options.steps
    trainer.fit(module, loader((2, 3, 32, 32), 2 * steps))
    if counts:
        taken.counted.append(sum(counted) // steps)


def take_part(options: argparse.Namespace) -> None:
    """Do the work of one host; the first one writes down what was measured."""
    torch.set_num_threads(1)
    silence_lightning()
    taken = {str(case): Taken() for case in CASES}
    cases = {str(case): case for case in CASES}
    for number in range(options.rounds + 1):
        for name in turns(list(cases), number):
            train(cases[name], taken[name], options, counts=number == 0)
    if options.host == 0:
        options.out.write_text(json.dumps({name: asdict(one) for name, one in taken.items()}))


def rows_of(taken: dict[str, Taken]) -> list[tuple[str, ...]]:
    """Return the table: bytes in thousands, seconds, and both as shares of plain DDP's."""
    plain = taken[str(CASES[0])]
    dense = {name: statistics.median(getattr(plain, name)) for name in ("counted", "cable", "wall")}
    head = ("exchange", "density", "hook", "counted, kB", "share", "on the cable, kB", "share")
    rows: list[tuple[str, ...]] = [(*head, "step, s", "share", "CPU, s")]
    for case in CASES:
        one = taken[str(case)]
        cells: list[str] = []
        for name, unit, digits in (("counted", 1e3, 1), ("cable", 1e3, 1), ("wall", 1, 3)):
            value = statistics.median(getattr(one, name))
            cells += [f"{value / unit:,.{digits}f}", f"{value / dense[name]:.4f}"]
        density = "" if case.density == 1 else f"{case.density:g}"
        rows.append((case.way, density, case.hook, *cells, f"{statistics.median(one.cpu):.3f}"))
    return rows


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rate", default="1gbit", help="of the cable each way, as tc has it")
    parser.add_argument("--rounds", type=int, default=5, help="in which each way has its turn")
    parser.add_argument("--steps", type=int, default=5, help="that are timed in each turn")
    parser.add_argument("--smoke", action="store_true", help="a tiny net: no figure means anything")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--host", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.smoke:
        options.rounds, options.steps = 1, 2
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.host is not None:
        take_part(options)
        return
    if reason := why_not():
        raise SystemExit(f"{reason}.")
    about = {**environment(), "cable": options.rate, "rounds": options.rounds, "steps": options.steps}
    path = file_of_run("communication", options.results)
    group = {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": 29500, "LOCAL_RANK": 0, "OMP_NUM_THREADS": 1}
    own = ["--rounds", options.rounds, "--steps", options.steps, *(["--smoke"] if options.smoke else [])]
    with two_hosts(options.rate) as hosts:
        started = [
            host.start(
                *(sys.executable, "-m", "benchmarks.speed.communication", *own),
                *("--host", number, "--out", path),
                output=path.with_suffix(f".host{number}.txt"),
                **{**group, "NODE_RANK": number, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            for number, host in enumerate(hosts)
        ]
        codes = [process.wait() for process in started]
        if any(codes):
            raise SystemExit(path.with_suffix(".host0.txt").read_text()[-3000:])
    taken = {name: Taken(**one) for name, one in json.loads(path.read_text()).items()}
    about["load average at the end"] = environment()["load average at the start"]
    rows = rows_of(taken)
    print("\n".join([*(f"{key}: {value}" for key, value in about.items()), "", *table(rows)]))
    samples = {name: asdict(one) for name, one in taken.items()}
    content = {"benchmark": "communication", "environment": about, "table": rows, "samples": samples}
    path.write_text(json.dumps(content, indent=1))
    for number in range(2):
        path.with_suffix(f".host{number}.txt").unlink()
    print(f"\nWritten to {path}")


if __name__ == "__main__":
    main()
