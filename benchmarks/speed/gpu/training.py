"""Steps of ResNet-50 at ImageNet shapes in bf16-mixed: dense, masked, and with updates of RigL.

Real fits, one inside the other, that take turns, as in ``masked_training`` and ``rigl``. A sample is the mean
of a few steps. What masking and RigL do in a step is clocked within steps of fits of their own, the device
settled before and after: more than it costs, since nothing runs beside it, but resolved where steps are not.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from benchmarks.harness.device import by_events, clocks_of
from benchmarks.harness.nets import tiny_net
from benchmarks.harness.runner import Sample, interleave, timed
from benchmarks.harness.training import DENSITY, OPTIMIZERS, Empty, Task, bare_trainer, loader
from benchmarks.speed.gpu.rows import Bench, Row, row_of
from benchmarks.speed.masked_training import Fit, Masking, Setting, inside_all
from benchmarks.speed.rigl import CYCLE, DROPPED, NEVER, WARMUP, clocked_work, shares
from lightning_sparse import PruneAtInit, RigLCallback
from lightning_sparse.weights.state import state_of

OPTIMIZER = "SGD+momentum"
MASKED_AT_MOST, RIGL_AT_MOST = 1.02, 1.005
CALLBACKS: dict[str, Callable[[], list[pl.Callback]]] = {
    "dense": list,
    "dense again": list,
    "masked": lambda: [PruneAtInit("erk", DENSITY, seed=0)],
    "masked, clocked": lambda: [PruneAtInit("erk", DENSITY, seed=0)],
    "RigL, clocked": lambda: [
        PruneAtInit("erk", DENSITY, seed=0),
        RigLCallback(every_n_steps=CYCLE, drop_fraction=DROPPED, stop_at=NEVER),
    ],
}


def resnet50() -> nn.Module:
    """Return the net."""
    from torchvision.models import resnet50 as make

    net: nn.Module = make()
    return net


FULL, SMOKE = Setting(resnet50, (64, 3, 224, 224)), Setting(tiny_net, (2, 3, 32, 32))


def measure(bench: Bench) -> Iterator[Row]:
    """Yield the ratios of the steps."""
    setting = SMOKE if bench.smoke else FULL
    samples = steps_in_turn(bench, setting)
    size = "tiny net" if bench.smoke else f"ResNet-50, batch {setting.shape[0]}, bf16-mixed, {OPTIMIZER}"
    for ours, theirs, at_most in (
        ("masked", "dense", MASKED_AT_MOST),
        ("masking alone", "dense", MASKED_AT_MOST - 1),
        ("every 100th step", "masked", RIGL_AT_MOST),
        ("work of an update", "masked", None),
        ("work of an ordinary step", "masked", None),
        ("dense again", "dense", None),
    ):
        name = f"RigL, {ours}" if theirs == "masked" else ours
        yield row_of(f"{size}, {name}", samples, ours, theirs, at_most)


def steps_in_turn(bench: Bench, setting: Setting) -> dict[str, list[Sample]]:
    """Return the times of the steps, and of what is clocked within them."""
    steps = (bench.rounds + WARMUP) * CYCLE
    fits = {name: fit(bench, setting, name, steps) for name in CALLBACKS}
    masking = Masking(state_of(fits["masked, clocked"][1]), clocks_of(bench.device))
    work = clocked_work(fits["RigL, clocked"], clocks_of(bench.device))
    samples: dict[str, list[Sample]] = {}

    def take_turns(advance: dict[str, Callable[[], None]]) -> None:
        turns = {name: sample_of(bench, step, CYCLE) for name, step in advance.items()}
        turns["masked, clocked"] = masking.clocked_apart(timed(advance["masked, clocked"]))
        turns["RigL, clocked"] = timed(partial(work.step, advance["RigL, clocked"]), CYCLE)
        samples.update(interleave(turns, bench.rounds, WARMUP))

    inside_all(fits, take_turns)
    samples["masking alone"] = masking.samples[WARMUP:]
    return {**samples, **shares(samples["masked"], work.steps)}


def sample_of(bench: Bench, step: Callable[[], Any], calls: int = 1) -> Callable[[], Sample]:
    """Return an alternative of some calls, none of which does the same as another."""
    return timed(step, calls) if bench.device.type == "cpu" else by_events(step, calls)


def fit(bench: Bench, setting: Setting, name: str, steps: int) -> Fit:
    """Return Trainer, module and data, which lies on the device; all start from the same weights."""
    torch.manual_seed(0)
    task = Task(setting.make(), OPTIMIZERS[OPTIMIZER])
    on_cpu = bench.device.type == "cpu"
    trainer = bare_trainer([Empty(), *CALLBACKS[name]()], "cpu" if on_cpu else "gpu", "bf16-mixed")
    return trainer, task, loader(setting.shape, steps, bench.device)
