"""Does DCTpS lead at 0.01% of the weights, as in Figure 2 of its paper? Deeper nets on CIFAR-10, shortened.

    python -m benchmarks.experiments.extreme --data_dir data                 # a CPU: two hours of one core
    python -m benchmarks.experiments.extreme --show
    python -m benchmarks.experiments.extreme --nets resnet18 vgg19 --densities 0.0001 0.001 0.01 \\
        --epochs 10 --device cuda --seconds 500                              # a GPU, ended in time
    python -m benchmarks.experiments.extreme --smoke

Random masks (EPL), SynFlow, DCTpS and DCTpS with RigL (an update every 100 steps until three quarters of the
training, 30% at first, a cosine); at last DCTpS with the offset that did best in `offsets`. All of them keep
their weights as values and positions. Adam at 0.001, weight decay 0.0005, batch 128, images cropped and
mirrored, no drop of the rate: as in the paper, but for the number of epochs, which is 200 there. On a GPU in
bf16 autocast. The test accuracy is that after the last epoch.

`resnet18_small` is ResNet-18 with ImageNet's stem, which looks at an image of 32 x 32 as the paper's net
would at one of 8 x 8: 11,172,032 weights, a fifteenth of the work. Nets without any path from input to output
are not trained. What tells most comes first; everything is saved every 50 steps and when `--seconds` are
over, and goes on from there when started again; a line per run is added to `<results>/extreme/runs.jsonl`.
Runs of another number of epochs are other runs, in a table of their own.
"""

import argparse
import copy
import itertools
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from benchmarks.experiments import accuracy
from benchmarks.experiments.offset_nets import load_raw
from benchmarks.experiments.offset_training import Mover
from benchmarks.harness import series
from benchmarks.harness.nets import tiny_net
from lightning_sparse import sparsify_
from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.saliency import SynFlow
from lightning_sparse.layers import DCTOffset, alpha_groups, compact_layers, convert_, lsuv_
from lightning_sparse.models import VGG19, ImageClassifier, MobileNetV2, ResNet18

BATCH, RATE, DECAY, PADDING = 128, 1e-3, 5e-4, 4
SAVED_EVERY, STOP = 50, 0.75
NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet18_small": partial(ResNet18, stem="imagenet"),
    "resnet18": ResNet18,
    "vgg19": VGG19,
    "mobilenet": MobileNetV2,
    "tiny": tiny_net,
}
METHODS = ("SynFlow", "DCTpS", "DCTpS + RigL", "EPL", "DCTpS, chw, LSUV, last x 0.1")
CHANCE = 10.0


@dataclass(frozen=True)
class Run:
    """What is trained."""

    net: str
    density: float
    method: str
    seed: int

    @property
    def key(self) -> dict[str, Any]:
        """What its record is found by."""
        return {"net": self.net, "budget": self.density, "method": self.method, "seed": self.seed}

    @property
    def name(self) -> str:
        """What is saved while it is under way is named after it."""
        return f"{self.net}-{self.density}-{METHODS.index(self.method)}-{self.seed}"


class OutOfTime(Exception):  # noqa: N818 - it is no error
    """The seconds are over; what was trained is saved."""


def make(run: Run, images: Tensor, empty: bool) -> nn.Module:
    """Return the net, sparse; ``empty`` if what is saved is loaded into it anyway."""
    torch.manual_seed(run.seed)
    net: nn.Module = ImageClassifier(NETS[run.net](), weight_init="kaiming_normal").net
    convert = partial(convert_, net, run.density, backend="auto", generator=run.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if run.method == "SynFlow" and not empty:
            sparsify_(net, SynFlow(iterations=100), run.density, batches=[images[:1]], storage="compact")
        elif run.method in ("SynFlow", "EPL"):
            convert(offset="none")
        elif run.method in ("DCTpS", "DCTpS + RigL"):
            convert()
        else:
            convert(offset=DCTOffset("chw"))
            lsuv_(net, lambda: net(images), 0.1)
    return net


@torch.no_grad()
def has_path(net: nn.Module) -> bool:
    """Tell whether any output depends on any input, whatever the values."""
    layers = compact_layers(net)
    if any(layer.alpha is not None for layer in layers.values()):
        return True
    ones = copy.deepcopy(net).double().eval()
    for layer in compact_layers(ones).values():
        layer.values.fill_(1)
    low, high = ones(torch.full((2, 3, 32, 32), 1.0).double() * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
    return not torch.equal(low, high)


class Images:
    """CIFAR-10 on a device, as bytes, normalised when read."""

    def __init__(self, parts: list[tuple[Tensor, ...]], device: torch.device) -> None:
        (train, self.labels, mean, std), *looked_at = [[t.to(device) for t in part] for part in parts]
        self.train = F.pad(train, 4 * (PADDING,)).permute(0, 2, 3, 1).contiguous()
        self.mean, self.std = mean.view(3), std.view(3)
        self.val, self.test = ((self.floats(i.permute(0, 2, 3, 1)), y) for i, y, *_ in looked_at)

    def floats(self, images: Tensor) -> Tensor:
        """Return images, channels last, as floats of mean 0 and standard deviation 1."""
        return images.float().sub_(self.mean).div_(self.std).permute(0, 3, 1, 2)

    def plain(self, count: int) -> Tensor:
        """Return the first images as they are."""
        return self.floats(self.train[:count, PADDING:-PADDING, PADDING:-PADDING])

    def epoch(self, number: int, seed: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch from the ``first`` on: images cropped, every second mirrored."""
        draws = torch.Generator().manual_seed(1_000 * seed + number)
        order = torch.randperm(len(self.labels), generator=draws)
        corners = torch.randint(2 * PADDING + 1, (2, len(order)), generator=draws)
        mirrored = torch.rand(len(order), generator=draws) < 0.5
        drawn = [t.to(self.labels.device) for t in (order, *corners, mirrored)]
        for places, top, left, turned in itertools.islice(
            zip(*(t.split(BATCH) for t in drawn), strict=True), first, None
        ):
            side = torch.arange(32, device=places.device)
            columns = torch.where(turned[:, None], 31 - side, side) + left[:, None]
            rows = side + top[:, None]
            yield (
                self.floats(self.train[places[:, None, None], rows[:, :, None], columns[:, None]]),
                self.labels[places],
            )


def noise() -> list[tuple[Tensor, ...]]:
    """Return few images without a meaning, to see that everything runs."""
    draws = torch.Generator().manual_seed(0)

    def part(count: int) -> tuple[Tensor, ...]:
        images = torch.randint(256, (count, 3, 32, 32), generator=draws).byte()
        return (
            images,
            torch.randint(10, (count,), generator=draws),
            torch.full((3,), 127.0),
            torch.full((3,), 74.0),
        )

    return [part(3 * BATCH), part(20), part(20)]


class Training:
    """A run under way, which is saved now and then, and goes on from there.

    Args:
        run: What is trained.
        images: On the device to train on.
        epochs: Until the end, of which RigL moves connections in three quarters.
        path: Where it is saved.
    """

    def __init__(self, run: Run, images: Images, epochs: int, path: Path) -> None:
        self.run, self.images, self.epochs, self.path = run, images, epochs, path
        device = images.labels.device
        saved = torch.load(path, map_location=device) if path.exists() else None
        self.net = make(run, images.plain(512).cpu(), empty=saved is not None)
        self.has_path = saved is not None or has_path(self.net)
        if saved is not None:
            self.net.load_state_dict(saved["net"])
        self.net.to(device, memory_format=torch.channels_last)
        self.optimizer = Adam(alpha_groups(self.net, DECAY), lr=RATE, fused=True)
        self.per_epoch = -(-len(images.labels) // BATCH)
        last = int(STOP * epochs * self.per_epoch)
        self.mover = Mover(self.net, self.optimizer, last) if run.method.endswith("RigL") else None
        self.said: dict[str, Any] = {
            "step": 0,
            "losses": [],
            "val": [],
            "seconds": 0.0,
            "cpu_seconds": 0.0,
            "moved": 0,
        }
        if saved is not None:
            self.optimizer.load_state_dict(saved["optimizer"])
            self.said = saved["said"]
        if self.mover is not None:
            self.mover.step, self.mover.moved = self.said["step"], self.said["moved"]
        self.running, self.seen = torch.zeros((), device=device), 0
        self.clocks = time.perf_counter(), time.process_time()

    def train(self, deadline: float) -> dict[str, Any]:
        """Train to the end and return the record.

        Raises:
            OutOfTime: If the deadline has passed; everything is saved then.
        """
        if not self.has_path:
            return {"epochs": 0, "accuracy": CHANCE, "path": False, "error": None}
        while True:
            epoch, first = divmod(self.said["step"], self.per_epoch)
            if len(self.said["val"]) < epoch:  # also if the last step before was saved, and this was not
                self.said["val"].append(_accuracy(self.net, *self.images.val))
            if epoch == self.epochs:
                break
            self._train_epoch(epoch, first, deadline)
        self.save()
        test = _accuracy(self.net, *self.images.test)
        trained = sum(layer.nnz for layer in compact_layers(self.net).values())
        found = {"epochs": self.epochs, "accuracy": test, "path": True, "trained": trained, "error": None}
        return self.said | found

    def _train_epoch(self, epoch: int, first: int, deadline: float) -> None:
        for batch in self.images.epoch(epoch, self.run.seed, first):
            self.net.train()
            self.running += _step(self.net, self.optimizer, batch, self.mover)
            self.seen += 1
            self.said["step"] += 1
            late = time.monotonic() > deadline
            if self.said["step"] % SAVED_EVERY == 0 or late:
                self.save()
            if late:
                raise OutOfTime

    def save(self) -> None:
        """Write everything, all or nothing, and say how far it is."""
        said, now = self.said, (time.perf_counter(), time.process_time())
        said["losses"].append(round(self.running.item() / max(1, self.seen), 4))
        self.running.zero_()
        self.seen = 0
        said["seconds"] += now[0] - self.clocks[0]
        said["cpu_seconds"] += now[1] - self.clocks[1]
        said["moved"] = self.mover.moved if self.mover else 0
        self.clocks = now
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), "said": said}
        torch.save(content, f"{self.path}.part")
        Path(f"{self.path}.part").replace(self.path)
        progress = f"step {said['step']}, loss {said['losses'][-1]}, {said['cpu_seconds']:.0f} s of CPU"
        print(f"{self.path.stem} {self.run.method}: {progress}", flush=True)


def _step(net: nn.Module, optimizer: Adam, batch: tuple[Tensor, Tensor], mover: Mover | None) -> Tensor:
    due = mover is not None and mover.is_due()
    optimizer.zero_grad()
    with torch.autocast(batch[0].device.type, torch.bfloat16, enabled=batch[0].is_cuda):
        loss = F.cross_entropy(net(batch[0]), batch[1])
    loss.backward()
    if mover is not None and due:
        mover.move_()
    else:
        optimizer.step()
    return loss.detach().float()


@torch.inference_mode()
def _accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    net.eval()
    right = torch.zeros((), dtype=torch.long, device=labels.device)
    for part, wanted in zip(images.split(500), labels.split(500), strict=True):
        with torch.autocast(part.device.type, torch.bfloat16, enabled=part.is_cuda):
            right += (net(part).argmax(1) == wanted).sum()
    return round(100 * right.item() / len(labels), 3)


def runs(options: argparse.Namespace) -> Iterator[Run]:
    """Yield the runs in order: seed by seed, the mended offset last, the fewest weights first."""
    for seed, late in itertools.product(options.seeds, (False, True)):
        for net, density, method in itertools.product(options.nets, sorted(options.densities), METHODS):
            if (method == METHODS[-1]) == late:
                yield Run(net, density, method, seed)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, or show what is there."""
    options = _parse(argv)
    folder = options.results / f"extreme{'-smoke' if options.smoke else ''}"
    records = folder / "runs.jsonl"
    series.settle(options.threads)
    if not options.show:
        _train_missing(options, folder, records)
    for name in options.nets:
        experiment = accuracy.Experiment(METHODS, tuple(sorted(options.densities)), options.against)
        found = series.matching(_records(records, options.epochs), {"net": name})
        title = f"\n{name}, {options.epochs} epochs: test accuracy, by density\n"
        print("\n".join([title, *accuracy.table(experiment, found)]))


def _train_missing(options: argparse.Namespace, folder: Path, records: Path) -> None:
    deadline = time.monotonic() + options.seconds
    there = _records(records, options.epochs)
    missing = [run for run in runs(options) if not series.matching(there, run.key)]
    if not missing:
        return
    parts = noise() if options.smoke else load_raw("cifar10-jpeg", options.data_dir, options.cache)
    images = Images(parts, torch.device(options.device))
    for run in missing:
        path = folder / "under_way" / f"{run.name}-{options.epochs}.pt"
        try:
            outcome = Training(run, images, options.epochs, path).train(deadline)
        except SparsityError as refusal:  # as in the paper, where what cannot be trained counts as chance
            outcome = {"epochs": 0, "accuracy": CHANCE, "error": str(refusal)}
        except OutOfTime:
            print("out of time; the same command goes on", flush=True)
            return
        print(json.dumps(run.key | outcome), flush=True)
        series.add(run.key | {"device": options.device} | outcome, records)
        path.unlink(missing_ok=True)


def _records(path: Path, epochs: int) -> list[dict[str, Any]]:
    """Return the records of runs of so many epochs, and of nets that cannot be trained, which have 0."""
    return [record for record in series.read(path) if record["epochs"] in (0, epochs)]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = series.parser(__doc__)
    parser.add_argument("--data_dir", type=series.absolute, default=Path("data"), help="folder with the data")
    parser.add_argument(
        "--cache", type=series.absolute, default=Path("data"), help="folder for decoded images"
    )
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=["resnet18_small"])
    parser.add_argument("--densities", type=float, nargs="+", default=[0.0001, 0.001])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="save and end after so many seconds"
    )
    parser.add_argument("--against", choices=METHODS, default="DCTpS", help="row to print differences from")
    options = parser.parse_args(argv)
    if options.plot:
        parser.error("`--plot` is not there: the tables say more.")
    if options.smoke:
        options.nets, options.densities, options.seeds = ["tiny"], [0.01, 0.1], [0]
        options.epochs = 1
    return options


if __name__ == "__main__":
    main()
