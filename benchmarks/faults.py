"""Faults on purpose: runs killed at random times, and files with flipped bits.

    python -m benchmarks.faults [--kills 20] [--flips 200] [--cuts 20] [--seed 0]

Kills: a small training with a callback, ``ExactResume`` and a checkpoint every third step runs in a process
of its own and is killed (SIGKILL) at a random time, so many times for each callback. Resumed from the last
checkpoint that is complete, it must end with the weights, masks, optimizer and schedule of the run that
nobody killed, bit for bit.

Flips: in each kind of file that is read back, one random bit at a time is flipped, over the whole file;
others are cut short. Reading it must end as with the file as it was written, or in a `SparsityError` of one
or two lines that names the file.

Prints what happened, counted; the exit status is 1 if anything passed without a word or was not clear.
"""

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from benchmarks.harness.tables import table
from lightning_sparse import (
    ASNISigmoidPruner,
    DCTpSConversion,
    ExactResume,
    GradualMagnitudePruning,
    IterativeMagnitudePruning,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    SparseConversion,
    SparsityMonitor,
    load_adapter,
    load_from_checkpoint,
    load_masks,
    load_ticket,
    masks_of,
    save_adapter,
    save_masks,
)
from lightning_sparse.checks import SparsityError

BATCHES, EPOCHS = 6, 4
MOVING = {"every_n_steps": 3, "stop_at": 100}

ROWS: dict[str, Callable[[], list[pl.Callback]]] = {
    "PruneAtInit erk": lambda: [PruneAtInit("erk", density=0.2)],
    "PruneAtInit snip": lambda: [PruneAtInit("snip", density=0.2)],
    "RigLCallback": lambda: [RigLCallback(density=0.2, grad_average=2, **MOVING)],
    "SETCallback": lambda: [SETCallback(density=0.2, **MOVING)],
    "ASNISigmoidPruner": lambda: [ASNISigmoidPruner(density=0.2, search_epochs=2)],
    "IterativeMagnitudePruning": lambda: [
        IterativeMagnitudePruning(0.2, rounds=2, epochs_per_round=1, rewind_to_step=2)
    ],
    "GradualMagnitudePruning": lambda: [
        GradualMagnitudePruning(0.2, start=1, stop=0.75, every_n_steps=3, allocation="erk")
    ],
    "DCTpSConversion": lambda: [DCTpSConversion(density=0.2)],
    "DCTpSConversion, RigLCallback": lambda: [DCTpSConversion(density=0.2), RigLCallback(**MOVING)],
    "PruneAtInit snip, compact": lambda: [PruneAtInit("snip", density=0.2, storage="compact")],
    "RigLCallback, compact": lambda: [RigLCallback(density=0.2, grad_average=2, storage="compact", **MOVING)],
    "PruneAtInit magnitude, compact, SETCallback": lambda: [
        PruneAtInit("magnitude", density=0.2, storage="compact"),
        SETCallback(**MOVING),
    ],
}


class Net(pl.LightningModule):
    """Convolution, batch norm, dropout and a linear layer, under Adam and a schedule by steps."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(288, 4)
        )

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 0.01)
        schedule = {"scheduler": ExponentialLR(optimizer, 0.97), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def fit(
    folder: Path, callbacks: Sequence[pl.Callback], ckpt_path: Path | None = None, **limits: Any
) -> dict[str, Any]:
    """Train, and return all that a resumed run must share with the run that was not killed."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(8 * BATCHES, 3, 8, 8, generator=generator), torch.arange(8 * BATCHES) % 4
    pl.seed_everything(1 if ckpt_path is None else 99, verbose=False)  # a resumed run brings its own numbers
    module = Net()
    trainer = pl.Trainer(
        callbacks=list(callbacks),
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"max_epochs": EPOCHS, **limits},
    )
    trainer.fit(module, StatefulDataLoader(TensorDataset(x, y), 8, shuffle=True), ckpt_path=ckpt_path)
    return {
        "module": module,
        "weights": module.state_dict(),
        "masks": masks_of(module),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
    }


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors and numbers of nested dicts and lists, by path."""
    if isinstance(tree, dict | list | tuple):
        for name, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(part, f"{path}/{name}")
    elif isinstance(tree, Tensor | int | float):
        yield path, torch.as_tensor(tree)


def same(one: Any, other: Any) -> bool:
    """Tell whether two trees are equal bit for bit."""
    first, second = dict(leaves(one)), dict(leaves(other))
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype and torch.equal(value, second[name])
        for name, value in first.items()
    )


# Kills.


def last_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that was completed last; Lightning gives none its name before that."""
    found = sorted(folder.glob("step=*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    return found[-1] if found else None


def train(folder: Path, row: str) -> None:
    """Go on from the last checkpoint in the folder until training is done; leave the result there."""
    save = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=3)
    result = fit(folder, [*ROWS[row](), ExactResume(), save], last_checkpoint(folder))
    torch.save({name: part for name, part in result.items() if name != "module"}, folder / "result.pt")


def in_process(target: Callable[..., None], folder: Path, *arguments: Any) -> BaseProcess:
    """Start a function in a process that is forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning_sparse", "torchdata.stateful_dataloader"])
    process = context.Process(target=_quietly, args=(target, folder, *arguments), daemon=True)
    process.start()
    return process


def _quietly(target: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Run a function whose words go into a file, to be shown if it fails."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    words = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(words, stream)
    target(folder, *arguments)


def finish(process: BaseProcess, folder: Path) -> None:
    """Wait for a process to end well."""
    process.join()
    if process.exitcode != 0:
        said = (folder / "said.txt").read_text()[-2000:]
        raise RuntimeError(f"The process of {folder} ended with status {process.exitcode}.\n{said}")


def to_the_end(folder: Path, row: str) -> float:
    """Train until it is done and return the seconds that it took."""
    start = time.monotonic()
    finish(in_process(train, folder, row), folder)
    return time.monotonic() - start


def kill_once(folder: Path, row: str, seconds: float) -> bool:
    """Start a training and kill it after so long; tell whether it was still running."""
    process = in_process(train, folder, row)
    process.join(seconds)
    running = process.is_alive()
    process.kill()
    process.join()
    return running


def try_kills(row: str, kills: int, draw: random.Random, root: Path) -> Counter[str]:
    """Kill and resume so many trainings of a row, and count how they end."""
    whole = root / "whole"
    seconds = min(to_the_end(whole, row), to_the_end(root / "again", row))
    expected, counts = torch.load(whole / "result.pt"), Counter(from_the_start=0)
    while counts["kills"] < kills:
        folder = root / f"{counts['kills']}-{counts['too late']}"
        if not kill_once(folder, row, draw.uniform(0.3, 1.0) * seconds):
            counts["too late"] += 1
            continue
        counts["kills"] += 1
        counts["from_the_start"] += last_checkpoint(folder) is None
        to_the_end(folder, row)
        counts["equal" if same(torch.load(folder / "result.pt"), expected) else "different"] += 1
    return counts


# Flips.


class Kind(NamedTuple):
    """A kind of file: how one is made, and what reading it comes to."""

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]


def _checkpoint(*callbacks: Callable[[], list[pl.Callback]]) -> Kind:
    def all_of_them() -> list[pl.Callback]:
        return [callback for make in callbacks for callback in make()]

    def make(folder: Path) -> Path:
        save = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=3)
        fit(folder, [*all_of_them(), save], max_steps=3)
        return folder / "step=3.ckpt"

    def read(path: Path) -> Any:
        return {**fit(path.parent, all_of_them(), path, max_steps=4), "module": None}

    return Kind(make, read)


def _loaded(path: Path) -> Any:
    return load_from_checkpoint(Net, path).state_dict()


def _masks(folder: Path) -> Path:
    save_masks(fit(folder, ROWS["PruneAtInit erk"](), max_steps=1)["module"], folder / "masks.pt")
    return folder / "masks.pt"


def _plain_masks(folder: Path) -> Path:
    masks = fit(folder, ROWS["PruneAtInit erk"](), max_steps=1)["masks"]
    torch.save(masks, folder / "plain.pt")
    return folder / "plain.pt"


def _ticket(folder: Path) -> Path:
    path = folder / "ticket.pt"
    fit(folder, [ASNISigmoidPruner(density=0.2, search_epochs=2, ticket_path=str(path))], max_epochs=3)
    return path


def _ticket_parts(path: Path) -> Any:
    ticket = load_ticket(path)
    return [ticket.masks, ticket.signs, ticket.centroids]


def _adapter(folder: Path) -> Path:
    tuned = fit(folder, [SparseConversion("pretrained", 0.2), RigLCallback(**MOVING)], max_steps=3)["module"]
    save_adapter(tuned, folder / "adapter.safetensors")
    return folder / "adapter.safetensors"


def _adapted(path: Path) -> Any:
    torch.manual_seed(1)  # as `fit` has made the net
    module = Net()
    load_adapter(module, path)
    return module.state_dict()


MASKED = _checkpoint(ROWS["PruneAtInit erk"], lambda: [ExactResume()])
CONVERTED = _checkpoint(ROWS["DCTpSConversion"], lambda: [ExactResume()])
COMPACT = _checkpoint(ROWS["RigLCallback, compact"], lambda: [ExactResume()])
KINDS = {
    "checkpoint, masked": MASKED,
    "checkpoint, converted": CONVERTED,
    "checkpoint, compact": COMPACT,
    "checkpoint, ExactResume alone": _checkpoint(lambda: [ExactResume()]),
    "checkpoint, SparsityMonitor alone": _checkpoint(lambda: [SparsityMonitor()]),
    "checkpoint, load_from_checkpoint": Kind(CONVERTED.make, _loaded),
    "checkpoint, load_masks": Kind(MASKED.make, load_masks),
    "checkpoint, compact, load_masks": Kind(COMPACT.make, load_masks),
    "ticket": Kind(_ticket, _ticket_parts),
    "file of save_masks": Kind(_masks, load_masks),
    "dict of masks": Kind(_plain_masks, load_masks),
    "adapter": Kind(_adapter, _adapted),
}


def outcome(kind: Kind, path: Path, expected: Any) -> tuple[str, str]:
    """Read a damaged file; return what that came to, in one word, and what was said."""
    try:
        found = kind.read(path)
    except SparsityError as error:
        text = str(error)
        handled = error.__context__ is not None and not error.__suppress_context__
        chained = error.__cause__ is not None or handled  # a user would see both tracebacks
        clear = (
            path.name in text and text.count("\n") < 2 and "weights_only=False" not in text and not chained
        )
        return ("error" if clear else "unclear"), text
    except Exception as error:
        return "unclear", f"{type(error).__name__}: {error}"
    return ("exact" if same(found, expected) else "silent"), ""


def try_flips(folder: Path, name: str, flips: int, cuts: int, seed: str) -> None:
    """Flip bits of a file of one kind, one at a time, and cut it short; leave the counts in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    kind, draw, counts, notes = KINDS[name], random.Random(seed), Counter[str](), []
    path = kind.make(folder)
    whole = path.read_bytes()
    expected = kind.read(path)
    assert same(kind.read(path), expected), "reading the file twice must come to the same"
    flipped = [draw.randrange(8 * len(whole)) for _ in range(flips)]
    lengths = [0, *(draw.randrange(len(whole)) for _ in range(cuts - 1))][:cuts]
    for number in range(flips + cuts):
        content = bytearray(whole)
        if number < flips:
            content[flipped[number] // 8] ^= 1 << flipped[number] % 8
        else:
            content = content[: lengths[number - flips]]
        path.write_bytes(content)
        word, text = outcome(kind, path, expected)
        counts[word] += 1
        if word in ("silent", "unclear"):
            where = f"bit {flipped[number]}" if number < flips else f"cut to {lengths[number - flips]} bytes"
            notes.append(f"{word}: {name}, {where} of {len(whole)} bytes: {text[:200]}")
    torch.save({"counts": dict(counts), "notes": notes, "bytes": len(whole)}, folder / "counts.pt")


# All of it.


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="for each callback (default: 20)")
    parser.add_argument("--flips", type=int, default=200, help="for each kind of file (default: 200)")
    parser.add_argument("--cuts", type=int, default=20, help="for each kind of file (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="callbacks and kinds of files with this in their name")
    options = parser.parse_args(argv)
    start, notes = time.monotonic(), list[str]()
    with tempfile.TemporaryDirectory() as root:
        rows = [["callback", "kills", "before the first checkpoint", "equal", "different"]]
        for row in [row for row in ROWS if options.only in row and options.kills]:
            draw = random.Random(f"{options.seed} {row}")
            counts = try_kills(row, options.kills, draw, Path(root) / row)
            rows.append(
                [row, *(str(counts[word]) for word in ("kills", "from_the_start", "equal", "different"))]
            )
            notes += [f"different: {row}, {counts['different']} times"] * bool(counts["different"])
            print(*rows[-1], sep=", ", flush=True)
        print("", *table(rows), f"{time.monotonic() - start:.0f} seconds", "", sep="\n", flush=True)
        rows = [["file", "bytes", "flips and cuts", "exact", "error", "silent", "unclear"]]
        for name in [name for name in KINDS if options.only in name and options.flips + options.cuts]:
            folder = Path(root) / name
            sizes = (options.flips, options.cuts, f"{options.seed} {name}")
            finish(in_process(try_flips, folder, name, *sizes), folder)
            found = torch.load(folder / "counts.pt")
            counts, notes = Counter(found["counts"]), [*notes, *found["notes"]]
            words = ("exact", "error", "silent", "unclear")
            rows.append(
                [name, str(found["bytes"]), str(counts.total()), *(str(counts[word]) for word in words)]
            )
            print(*rows[-1], sep=", ", flush=True)
        print("", *table(rows), *notes, f"{time.monotonic() - start:.0f} seconds in all", sep="\n")
    return 1 if notes else 0


if __name__ == "__main__":
    sys.exit(main())
