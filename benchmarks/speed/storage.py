"""What ResNet-50 with 1% of its weights stores, in bytes, by each storage.

    python -m benchmarks.speed.storage                  # torchvision's ResNet-50: two minutes, 2 GiB
    python -m benchmarks.speed.storage --density 0.1
    python -m benchmarks.speed.storage --smoke          # a tiny net, just to see that it runs

Nothing is timed, and nothing follows from a formula: after one training step of one small batch, with Adam,
in a Trainer with `DistributedDataParallel` (one process, gloo), all is read off the tensors that are there,
and off the file that `Trainer.save_checkpoint` has written. What a step reduces is counted by a communication
hook of DDP, which sees every bucket. "other" is what else Python can see of tensors, but for data and
buckets: tables that layers derive from their supports, and fixed matrices that they keep to multiply by the
whole weight. "training" is parameters, gradients, optimizer state and positions, "memory" that with the rest.
"""

import argparse
import contextlib
import gc
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.futures import Future

from benchmarks.harness.memory import MIB, nbytes
from benchmarks.harness.nets import tiny_net
from benchmarks.harness.report import environment, file_of_run
from benchmarks.harness.tables import table
from benchmarks.harness.training import Task, bare_trainer, loader
from lightning_sparse import PruneAtInit, SparseConversion, summary


@dataclass(frozen=True)
class Stored:
    """Bytes that one storage takes.

    Args:
        parameters: What the module's parameters take.
        gradients: Their gradients, after a backward pass.
        optimizer: All tensors in the optimizer's state.
        positions: Positions of compact layers, and what is kept of masks.
        buffers: Other buffers of the module.
        other: All other tensors that Python can see, but for data and buckets.
        checkpoint: Size of the Trainer's checkpoint.
        reduced: What a step's gradients are in the buckets that DDP reduces.
    """

    parameters: int
    gradients: int
    optimizer: int
    positions: int
    buffers: int
    other: int
    checkpoint: int
    reduced: int

    @property
    def training(self) -> int:
        """What training needs of each weight."""
        return self.parameters + self.gradients + self.optimizer + self.positions

    @property
    def memory(self) -> int:
        """All that stays in memory between steps."""
        return self.training + self.buffers + self.other


ROWS = (*Stored.__dataclass_fields__, "training", "memory")


class Reader(pl.Callback):
    """Reads sizes after the first step, while gradients and states are there.

    Args:
        before: What was there before the net, and does not count.
        folder: Where the checkpoint is written to.
    """

    def __init__(self, before: Iterable[Tensor], folder: Path) -> None:
        self.before, self.folder = list(before), folder
        self.reduced = 0
        self.stored: Stored | None = None

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Count what is reduced; Lightning hands hooks on to DDP only on GPUs."""
        ddp: Any = trainer.strategy.model
        ddp.register_comm_hook(None, self.reduce)

    def reduce(self, _: object, bucket: GradBucket) -> Future[Tensor]:
        """Average a bucket over processes, as DDP does by itself."""
        self.reduced += bucket.buffer().nbytes
        self.before.append(bucket.buffer())
        return allreduce_hook(None, bucket)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Read everything."""
        (optimizer,) = trainer.optimizers
        parameters = list(pl_module.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        found = summary(pl_module)
        supports = [buffer for name, buffer in pl_module.named_buffers() if name.endswith(".indices")]
        buffers = list(pl_module.buffers())
        known = [*parameters, *gradients, *states, *buffers, *self.before]
        masks = found.total.positions - nbytes(supports)
        path = self.folder / "one.ckpt"
        trainer.save_checkpoint(path)
        self.stored = Stored(
            parameters=nbytes(parameters),
            gradients=nbytes(gradients),
            optimizer=nbytes(states),
            positions=found.total.positions,
            buffers=nbytes(buffers) - nbytes(supports),
            other=nbytes([*known, *alive()]) - nbytes(known) - masks,
            checkpoint=path.stat().st_size,
            reduced=self.reduced,
        )


def alive() -> list[Tensor]:
    """Return all tensors with memory that Python can see."""
    gc.collect()
    with warnings.catch_warnings():  # asking some objects of torch for their class warns
        warnings.simplefilter("ignore")
        found = [o for o in gc.get_objects() if isinstance(o, Tensor) and o.layout == torch.strided]
    return [tensor for tensor in found if not tensor.is_meta]


def storages(density: float) -> dict[str, list[pl.Callback]]:
    """Return the callbacks that make a net sparse, by the name of the storage."""
    return {
        "dense": [],
        "masked": [PruneAtInit("erk", density, seed=0)],
        "compact": [PruneAtInit("erk", density, storage="compact", seed=0)],
        "dct + compact": [SparseConversion("dct", density, "erk", seed=0)],
        "pretrained + compact": [SparseConversion("pretrained", density, "erk", seed=0)],
    }


def measure(make: Callable[[], nn.Module], callbacks: list[pl.Callback], shape: tuple[int, ...]) -> Stored:
    """Train a net for a step in one process of DDP, and return what it stores.

    Args:
        make: Makes the dense net.
        callbacks: Make it sparse.
        shape: Of the batch.
    """
    data = loader(shape, 1)
    before = alive()
    torch.manual_seed(0)
    task = Task(nn.Sequential(make()), lambda parameters: torch.optim.Adam(parameters, lr=1e-4))
    with tempfile.TemporaryDirectory() as folder, one_process(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = Reader(before, Path(folder))
        strategy = DDPStrategy(process_group_backend="gloo")
        trainer = bare_trainer([*callbacks, reader], strategy=strategy)
        trainer.fit(task, data)
    assert reader.stored is not None
    return reader.stored


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """Give the environment back, and end the group that Lightning makes."""
    before = dict(os.environ)
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(before)


def resnet50() -> nn.Module:
    """Return torchvision's ResNet-50, with 1,000 classes."""
    from torchvision.models import resnet50

    net: nn.Module = resnet50()
    return net


def rows(found: dict[str, Stored]) -> list[tuple[str, ...]]:
    """Return the table: MiB, and in parentheses the share of what the dense net takes."""
    lines = [("MiB (share of dense)", *found)]
    for name in ROWS:
        dense, *taken = (getattr(stored, name) for stored in found.values())
        has_share = name != "other" and dense
        shares = (f" ({value / dense:.4f})" if has_share else "" for value in taken)
        cells = (f"{value / MIB:.2f}{share}" for value, share in zip(taken, shares, strict=True))
        lines.append((name, f"{dense / MIB:.2f}", *cells))
    return lines


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--density", type=float, default=0.01, help="share of the weights kept (0.01)")
    parser.add_argument("--image", type=int, default=32, help="height and width of an image (32)")
    parser.add_argument("--batch", type=int, default=2, help="images per batch (2)")
    parser.add_argument("--only", nargs="*", help="storages to measure beside the dense net (all)")
    parser.add_argument("--smoke", action="store_true", help="a tiny net, to see that it runs")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results", help="folder")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(argv)
    make = tiny_net if options.smoke else resnet50
    shape = (options.batch, 3, options.image, options.image)
    found = {}
    for name, callbacks in storages(options.density).items():
        if name == "dense" or not options.only or name in options.only:
            found[name] = measure(make, callbacks, shape)
            print(f"{name}: {found[name]}", flush=True)
    print("\n".join(table(rows(found))))
    content = {
        "benchmark": "storage",
        "options": vars(options),
        "environment": environment(),
        "bytes": {name: asdict(stored) for name, stored in found.items()},
    }
    path = file_of_run("storage", options.results)
    path.write_text(json.dumps(content, indent=1, default=str))
    print(f"\nWritten to {path}")


if __name__ == "__main__":
    main()
