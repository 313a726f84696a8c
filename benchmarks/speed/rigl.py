"""Moving connections by RigL: the update itself, its memory on compact layers, and its share of training.

    python -m benchmarks.speed.rigl --threads 2

**Update.** New masks for every weight layer of a net, with random masks and gradients, density by density and
drop fraction 0.3: ``drop_and_grow`` and ``move_support`` against ``torch.topk`` per layer, over all its
weights or over the active ones picked out, and against sorting all of them twice, as ports for PyTorch do.
All five give the same masks.

**Memory.** What steps of a Trainer with ``RigLCallback`` need at most, above what the process held before:
resident pages, so on Linux with glibc only. Forward, backward and the optimizer are part of each.

**Share of training.** Real fits of ResNet-18 at CIFAR shapes, step by step in turn as in ``masked_training``,
with an update every fourth step. Its effect at every hundredth is far below what whole steps can tell apart;
so the clocks run inside them, over what ``RigLCallback`` does and over the masking of weights that a move
brings on. The second step of the four is an ordinary one; the work of the other three is that of an update,
which is made ready one step before and leaves masking to do. "every 100th step" adds to a step with static
masks the hundredth of one update's work and of 97 ordinary steps' work. The optimizer's step, which an update
replaces, and what static masks spend in the same methods are not taken off.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.harness.memory import MIB, peak_extra
from benchmarks.harness.nets import tiny_net, weights_of
from benchmarks.harness.report import Bar, Report
from benchmarks.harness.runner import Clocks, Sample, interleave, parse, read_clocks, since, timed
from benchmarks.harness.training import DENSITY, OPTIMIZERS, Empty, Task, bare_trainer, loader
from benchmarks.speed.masked_training import FULL, SMOKE, Fit, Setting, inside_all
from lightning_sparse import PruneAtInit, RigLCallback
from lightning_sparse.functional.growth.moves import count_dropped, drop_and_grow, move_support
from lightning_sparse.functional.masks import top_k_mask
from lightning_sparse.functional.ranking import positions_of
from lightning_sparse.layers import DensePlusSparseLinear
from lightning_sparse.weights.state import state_of

UPDATE_AT_MOST, UPDATE_BAR_HOLDS_FOR = 0.3, ("ResNet-50", 0.1)
SHARE_AT_MOST = 1.005
DENSITIES = (0.1, 0.2, 0.5)
DROPPED = 0.3
EVERY = 100  # steps between updates, as is the callback's default
NEVER = 10**6  # a step that no fit here comes to: the share to drop stays as it is at the start
CYCLE = 4  # steps between updates in these fits
WARMUP = 1
PHASES = ("step after an update", "other step", "step of an update")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(__doc__, argv, rounds=9)
    report = Report("rigl", options)
    update(report, options)
    memory(report, options)
    share_of_training(report, options)
    report.finish()


def nets(smoke: bool) -> dict[str, Callable[[], nn.Module]]:
    """Return the nets whose layers are moved."""
    if smoke:
        return {"tiny": tiny_net}
    from torchvision.models import resnet18, resnet50

    return {"ResNet-18": resnet18, "ResNet-50": resnet50}


class Layer(NamedTuple):
    """A weight under a mask and the gradient of all of it."""

    weight: Tensor
    gradient: Tensor
    mask: Tensor
    support: Tensor
    values: Tensor


def update(report: Report, options: argparse.Namespace) -> None:
    """Compare the ways to make new masks for all layers of a net."""
    for name, make in nets(options.smoke).items():
        for density in DENSITIES:
            torch.manual_seed(0)
            layers = [random_layer(weight, density) for weight in weights_of(make()).values()]
            turns = {way: timed(partial(each, function, layers)) for way, function in WAYS.items()}
            at_most = UPDATE_AT_MOST if options.smoke or (name, density) == UPDATE_BAR_HOLDS_FOR else None
            bars = [
                Bar(ours, theirs, at_most if theirs == "topk" else None)
                for ours in OURS
                for theirs in WAYS
                if theirs not in OURS
            ]
            case = f"update, {name}, density {density}"
            report.add(case, interleave(turns, options.rounds), bars)


def random_layer(weight: Tensor, density: float) -> Layer:
    """Return the weight under a random mask that keeps this share of it, exactly."""
    mask = top_k_mask(torch.rand(weight.shape), int(density * weight.numel()))
    masked, support = weight.detach() * mask, positions_of(mask)
    return Layer(masked, torch.randn(weight.shape), mask, support, masked.view(-1)[support])


def ours_by_mask(layer: Layer) -> Tensor:
    """Return the new mask."""
    return drop_and_grow(layer.mask, layer.weight.abs(), layer.gradient.abs(), DROPPED)


def ours_by_support(layer: Layer) -> Tensor:
    """Return the new positions, ascending."""
    return move_support(layer.support, layer.values.abs(), layer.gradient.abs(), DROPPED)


def topk(layer: Layer) -> Tensor:
    """Return the new mask: ``torch.topk`` over the whole layer, once to drop and once to grow."""
    count = count_dropped(len(layer.support), DROPPED)
    weakness = torch.where(layer.mask, -layer.weight.abs(), -torch.inf).flatten()
    new = layer.mask.flatten().index_fill(0, weakness.topk(count).indices, False)
    strength = layer.gradient.abs().flatten().masked_fill_(new, -torch.inf)
    return new.index_fill_(0, strength.topk(count).indices, True).view(layer.mask.shape)


def topk_of_active(layer: Layer) -> Tensor:
    """Do as ``topk``, but pick the active weights out before the drop."""
    count = count_dropped(len(layer.support), DROPPED)
    flat = layer.mask.flatten()
    active = flat.nonzero().squeeze(1)
    weakest = layer.weight.flatten()[active].abs().topk(count, largest=False).indices
    new = flat.index_fill(0, active[weakest], False)
    strength = layer.gradient.abs().flatten().masked_fill_(new, -torch.inf)
    return new.index_fill_(0, strength.topk(count).indices, True).view(layer.mask.shape)


def sort(layer: Layer) -> Tensor:
    """Return the new mask as ports for PyTorch find it: all scores sorted twice, masks scattered."""
    size, nnz = layer.mask.numel(), int(layer.mask.sum())
    count = count_dropped(nnz, DROPPED)
    kept = _first_of_sorted(layer.weight.abs().flatten(), nnz - count, size)
    strength = layer.gradient.abs().flatten()
    strength = torch.where(kept == 1, strength.min() - 1, strength)  # kept ones come last
    return (kept + _first_of_sorted(strength, count, size)).view(layer.mask.shape).bool()


def _first_of_sorted(scores: Tensor, count: int, size: int) -> Tensor:
    order = torch.sort(scores, descending=True).indices
    return torch.zeros(size).scatter(0, order, (torch.arange(size) < count).float())


def each(way: Callable[[Layer], Tensor], layers: Sequence[Layer]) -> list[Tensor]:
    return [way(layer) for layer in layers]


WAYS: dict[str, Callable[[Layer], Tensor]] = {
    "ours, masks": ours_by_mask,
    "ours, supports": ours_by_support,
    "topk": topk,
    "topk of active": topk_of_active,
    "sort": sort,
}
OURS = ("ours, masks", "ours, supports")


def memory(report: Report, options: argparse.Namespace) -> None:
    """Measure steps of a compact layer, where only those of updates make a gradient of the whole weight."""
    side, density, cycles = (64, 0.1, 1) if options.smoke else (4096, 0.01, 3)
    peaks: dict[str, list[int | None]] = {phase: [] for phase in PHASES}

    def take(steps: dict[str, Callable[[], None]]) -> None:
        step = steps["RigL"]
        for _ in PHASES:  # the first update, and what is made once only
            step()
        for _ in range(cycles):
            for phase in PHASES:
                peaks[phase].append(peak_extra(step))

    inside_all({"RigL": compact_fit(side, density, len(PHASES) * (cycles + 1))}, take)
    case = f"memory, {side} x {side} at density {density}"
    report.add_value(case, "MiB of one gradient of the weight", 4 * side * side / MIB)
    for phase, found in peaks.items():
        known = [extra for extra in found if extra is not None]
        if known:
            report.add_value(case, f"peak extra MiB, {phase}", statistics.median(known) / MIB)


def compact_fit(side: int, density: float, steps: int) -> Fit:
    """Return Trainer, module and data: a DCT-plus-sparse layer, an update every third step."""
    torch.manual_seed(0)
    size = side * side
    layer = DensePlusSparseLinear(side, side, indices=torch.randperm(size)[: int(density * size)])
    nn.init.normal_(layer.values, std=0.01)
    callback = RigLCallback(every_n_steps=len(PHASES), drop_fraction=DROPPED, stop_at=NEVER)
    task = Task(layer, OPTIMIZERS["fused Adam"])
    return bare_trainer([Empty(), callback]), task, loader((128, side), steps)


def share_of_training(report: Report, options: argparse.Namespace) -> None:
    """Compare a step with static masks and one with the callback's work, as if every 100th were an update."""
    for name in OPTIMIZERS:
        found = steps_in_turn(name, SMOKE if options.smoke else FULL, options.rounds)
        bars = [
            Bar("every 100th step", "static masks", SHARE_AT_MOST),
            Bar("work of an update", "static masks"),
            Bar("work of an ordinary step", "static masks"),
            Bar("static again", "static masks"),
        ]
        report.add(f"training, {name}", found, bars)


def steps_in_turn(optimizer: str, setting: Setting, rounds: int) -> dict[str, list[Sample]]:
    """Return the mean times of steps, and of what the callback does in them; a turn of RigL is a cycle."""
    names = ("static masks", "static again", "RigL")
    fits = {name: fit(name == "RigL", optimizer, setting, CYCLE * (rounds + WARMUP)) for name in names}
    work = clocked_work(fits["RigL"])
    samples: dict[str, list[Sample]] = {}

    def take_turns(steps: dict[str, Callable[[], None]]) -> None:
        turns = {name: timed(steps[name], calls=2) for name in names[:2]}
        turns["RigL"] = timed(partial(work.step, steps["RigL"]), CYCLE)
        samples.update(interleave(turns, rounds, WARMUP))

    inside_all(fits, take_turns)
    taken = {name: samples[name] for name in names[:2]}
    return {**taken, **shares(taken["static masks"], work.steps)}


def clocked_work(fit: Fit, clocks: Clocks = read_clocks) -> "Work":
    """Let the clocks run inside what the callback does and the masking of weights that a move brings on."""
    trainer, module, _ = fit
    (callback,) = (c for c in trainer.callbacks if isinstance(c, RigLCallback))
    work = Work(clocks)
    work.clock(callback, "move_", "after_step")
    work.clock(state_of(module), "mask_weights_")
    return work


def shares(static: list[Sample], steps: list[Sample]) -> dict[str, list[Sample]]:
    """Return, round by round, the work of an update, of an ordinary step, and a step with its share of both.

    Args:
        static: Mean steps with static masks.
        steps: The callback's work, step by step, those of the warm-up cycles included.
    """
    after, ordinary, before, update = (steps[i::CYCLE][WARMUP:] for i in range(CYCLE))
    updates = [a.plus(b).plus(c) for a, b, c in zip(after, before, update, strict=True)]
    amortised = [add_work(*step) for step in zip(static, updates, ordinary, strict=True)]
    return {
        "every 100th step": amortised,
        "work of an update": updates,
        "work of an ordinary step": ordinary,
    }


def add_work(static: Sample, update: Sample, ordinary: Sample) -> Sample:
    """Return the mean step with an update in a hundred: static + (update + 97 ordinary) / 100.

    The work of an update is that of three steps.
    """
    rest = Sample(*((EVERY - CYCLE + 1) * seconds for seconds in ordinary))
    return static.plus(update.plus(rest).per(EVERY))


def fit(moves: bool, optimizer: str, setting: Setting, steps: int) -> Fit:
    """Return Trainer, module and data; both start from the same masks, RigL updates every fourth step."""
    torch.manual_seed(0)
    task = Task(setting.make(), OPTIMIZERS[optimizer])
    company = RigLCallback(every_n_steps=CYCLE, drop_fraction=DROPPED, stop_at=NEVER) if moves else Empty()
    return bare_trainer([PruneAtInit("erk", DENSITY, seed=0), company]), task, loader(setting.shape, steps)


class Work:
    """Clocks what methods do in a step, while they do it; none of them may call another.

    Args:
        clocks: What tells the time.

    Attributes:
        steps: What they took together, step by step.
    """

    def __init__(self, clocks: Clocks = read_clocks) -> None:
        self.clocks = clocks
        self.steps: list[Sample] = []
        self._spent = Sample(0, 0)

    def clock(self, owner: object, *names: str) -> None:
        """Let the clocks run inside these methods of an object."""
        for name in names:
            setattr(owner, name, partial(self._clocked, getattr(owner, name)))

    def step(self, advance: Callable[[], None]) -> None:
        """Do a step and take down what was spent in it."""
        self._spent = Sample(0, 0)
        advance()
        self.steps.append(self._spent)

    def _clocked(self, method: Callable[..., Any], *arguments: Any) -> Any:
        start = self.clocks()
        result = method(*arguments)
        self._spent = self._spent.plus(since(start, self.clocks))
        return result


if __name__ == "__main__":
    main()
