"""Trains the nets of one budget and seed side by side, on the same images; goes on where it was stopped."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from benchmarks.experiments.open_question.kernel import State, bind
from benchmarks.experiments.open_question.stream import Batch, Stream

RATE, DECAY = 1e-3, 5e-4


class Pack:
    """Nets that are trained together: their values and scales lie end to end, for one optimizer.

    Args:
        names: Of the nets.
        states: Where they start.
        seed: Of the order of images, and of how they are cropped.
        folder: Where what is compiled is kept.
    """

    def __init__(self, names: Sequence[str], states: Sequence[State], seed: int, folder: Path) -> None:
        self.names, self.starts, self.folder = list(names), list(states), folder
        self.values = nn.Parameter(torch.cat([state.values for state in states]))
        self.scales = nn.Parameter(torch.cat([state.scales for state in states]))
        self.values.grad, self.scales.grad = torch.zeros_like(self.values), torch.zeros_like(self.scales)
        decayed = {"params": [self.values], "weight_decay": DECAY}
        others = {"params": [self.scales], "weight_decay": 0.0}
        self.optimizer = Adam([decayed, others] if len(self.scales) else [decayed], lr=RATE, fused=True)
        self.states = self._parts(self.values.detach(), self.scales.detach())
        gradients = self._parts(self.values.grad, self.scales.grad)
        self.steps = [
            bind(folder, state, (gradient.values, gradient.scales))
            for state, gradient in zip(self.states, gradients, strict=True)
        ]
        self.draws = torch.Generator().manual_seed(seed)
        self.epoch, self.cpu_seconds = 0, 0.0
        self.losses: list[list[float]] = [[] for _ in names]
        self.curves: list[list[float]] = [[] for _ in names]
        self.best = [(state.values.clone(), state.scales.clone()) for state in self.states]

    def step(self, batch: Batch) -> list[float]:
        """Train every net on a batch; return their losses."""
        losses = [step(*batch)[0] for step in self.steps]
        self.optimizer.step()
        return losses

    def train_epoch(self, stream: Stream) -> None:
        """Train for an epoch, then look at the images held out."""
        cpu = time.process_time()
        losses = [self.step(batch) for batch in stream.epoch(self.draws)]
        for number, state in enumerate(self.states):
            self.losses[number].append(sum(loss[number] for loss in losses) / len(losses))
            right = self.accuracy(state, stream.val)
            if right > max(self.curves[number], default=-1.0):
                self.best[number] = state.values.clone(), state.scales.clone()
            self.curves[number].append(right)
        self.epoch += 1
        self.cpu_seconds += time.process_time() - cpu

    def accuracy(self, state: State, batches: Sequence[Batch]) -> float:
        """Return the share of images put into the right class, in percent."""
        look = bind(self.folder, state)
        right = sum(look(*batch)[1] for batch in batches)
        return round(100 * right / sum(len(labels) for _, labels in batches), 3)

    def outcome(self, number: int, stream: Stream) -> dict[str, Any]:
        """Return what has become of a net: on test images, after the last epoch and at the best one."""
        state, curve = self.states[number], self.curves[number]
        values, scales = self.best[number]
        return {
            "epochs": self.epoch,
            "last": self.accuracy(state, stream.test),
            "best": self.accuracy(state._replace(values=values, scales=scales), stream.test),
            "max_val": max(curve),
            "best_epoch": 1 + curve.index(max(curve)),
            "val": curve,
            "losses": [round(loss, 5) for loss in self.losses[number]],
            "trained": len(state.values),
            "scales": [round(scale, 5) for scale in state.scales.tolist()],
            "cpu_seconds": round(self.cpu_seconds / len(self.names), 1),
            "error": None,
        }

    def save(self, path: Path) -> None:
        """Write everything, all or nothing."""
        content = {
            "names": self.names,
            "starts": [tuple(state) for state in self.starts],
            "values": self.values.detach(),
            "scales": self.scales.detach(),
            "optimizer": self.optimizer.state_dict(),
            "draws": self.draws.get_state(),
            "best": self.best,
            **{name: getattr(self, name) for name in _PLAIN},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{path}.part").open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        Path(f"{path}.part").replace(path)

    def _parts(self, values: Tensor, scales: Tensor) -> list[State]:
        counts = [len(state.values) for state in self.starts], [len(state.scales) for state in self.starts]
        parts = zip(self.starts, values.split(counts[0]), scales.split(counts[1]), strict=True)
        return [State(start.indices, own, scale, start.offset) for start, own, scale in parts]


_PLAIN = ("epoch", "cpu_seconds", "losses", "curves")


def load(path: Path, folder: Path) -> Pack:
    """Return a pack as it was saved."""
    content = torch.load(path)
    pack = Pack(content["names"], [State(*start) for start in content["starts"]], 0, folder)
    with torch.no_grad():
        pack.values.copy_(content["values"])
        pack.scales.copy_(content["scales"])
    pack.optimizer.load_state_dict(content["optimizer"])
    pack.draws.set_state(content["draws"])
    pack.best = content["best"]
    for name in _PLAIN:
        setattr(pack, name, content[name])
    return pack


def train(
    path: Path, start: Callable[[], Pack | None], stream: Stream, epochs: int, folder: Path
) -> Pack | None:
    """Train to the end, from what is saved at ``path`` if there is something; saved after every epoch."""
    pack = load(path, folder) if path.exists() else start()
    while pack is not None and pack.epoch < epochs:
        pack.train_epoch(stream)
        pack.save(path)
        curves = ", ".join(
            f"{name} {curve[-1]:.1f}" for name, curve in zip(pack.names, pack.curves, strict=True)
        )
        print(f"{path.stem}: epoch {pack.epoch}, {pack.cpu_seconds:.0f} s of CPU; {curves}", flush=True)
    return pack
