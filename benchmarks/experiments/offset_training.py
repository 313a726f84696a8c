"""A training of `benchmarks.experiments.offsets`: a plain loop, as short as it can be."""

import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from benchmarks.experiments.offset_nets import Images, Net, Row
from lightning_sparse import keep_sparse_, sparsify_
from lightning_sparse.functional.growth import ActiveWeights, RigL, move
from lightning_sparse.functional.growth.moves import draws_of
from lightning_sparse.functional.schedules import drop_fraction, is_due
from lightning_sparse.layers import alpha_groups, compact_layers, convert_, lsuv_
from lightning_sparse.models import ImageClassifier
from lightning_sparse.weights.base import SparseWeight
from lightning_sparse.weights.found import sparse_weights

LSUV_IMAGES = 512
TEST_BATCH = 500
RATE, DECAY = 1e-3, 5e-4
EVERY, DROPPED, STOP = 100, 0.3, 0.75


def train(net: Net, row: Row, budget: int, seed: int, images: Images, epochs: int) -> dict[str, Any]:
    """Train from a seed; return the accuracy on test images after the last epoch, and what led there."""
    started, cpu = time.perf_counter(), time.process_time()
    torch.manual_seed(seed)
    module = ImageClassifier(net.make(), weight_init="kaiming_normal").net
    start_(module, row, budget / net.weights, seed, images.train[0][:LSUV_IMAGES])
    scales = alphas(module)
    module.to(memory_format=torch.channels_last)
    optimizer = Adam(alpha_groups(module, DECAY), lr=RATE, fused=True)
    if row.masks is not None:
        keep_sparse_(module, optimizer)
    order = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(images.train[1]) // net.batch_size)
    mover = Mover(module, optimizer, int(STOP * steps)) if row.rigl else None
    losses, curve = [], []
    for _ in range(epochs):
        module.train()
        losses += [
            float(step(module, optimizer, batch, mover)) for batch in batches(net, images.train, order)
        ]
        curve.append(accuracy(module, images.val))
    return {
        "accuracy": accuracy(module, images.test),
        "val": curve,
        "first_loss": losses[0],
        "last_losses": sum(losses[-100:]) / len(losses[-100:]),
        "alphas": scales,
        "last_alphas": alphas(module),
        "moved": mover.moved if mover else None,
        "trained": sum(weight.nnz for weight in sparse_weights(module).values()),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "error": None,
    }


def start_(module: nn.Module, row: Row, density: float, seed: int, images: Tensor) -> None:
    """Make the net sparse as the row says."""
    if row.offset is None:
        assert row.masks is not None
        sparsify_(module, row.masks(), density, batches=[images[:1]], seed=seed)
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`alpha` .* makes the output of")  # is what is tried here
        # Such small weights are built fastest.
        convert_(module, density, offset=row.offset(seed), backend="materialize", generator=seed)
    if row.lsuv:
        lsuv_(module, lambda: module(images), row.last)
    elif row.last != 1:
        with torch.no_grad():
            list(compact_layers(module).values())[-1].alpha.mul_(row.last)


def batches(net: Net, part: tuple[Tensor, Tensor], order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield an epoch of batches, the last of which may be smaller."""
    images, labels = part
    for index in torch.randperm(len(labels), generator=order).split(net.batch_size):
        # Laid out with channels last, which small convolutions take two thirds of the time with.
        batch = images.movedim(1, -1).index_select(0, index).movedim(-1, 1)
        yield batch, labels.index_select(0, index)


def step(
    module: nn.Module, optimizer: Optimizer, batch: tuple[Tensor, Tensor], mover: "Mover | None"
) -> Tensor:
    """Make a step; an update of RigL takes the place of the optimizer's."""
    due = mover is not None and mover.is_due()
    optimizer.zero_grad()
    loss = F.cross_entropy(module(batch[0]), batch[1])
    loss.backward()
    if mover is not None and due:
        mover.move_()
    else:
        optimizer.step()
    return loss.detach()


class Mover:
    """What `RigLCallback` does with ``every_n_steps=100, drop_fraction=0.3, stop_at=0.75``, without hooks."""

    def __init__(
        self, module: nn.Module, optimizer: Optimizer, last_step: int, every_n_steps: int = EVERY
    ) -> None:
        self.weights: Sequence[SparseWeight] = list(sparse_weights(module).values())
        self.optimizer, self.last_step, self.every_n_steps = optimizer, last_step, every_n_steps
        self.step = self.moved = 0

    def is_due(self) -> bool:
        """Count a step; ask for gradients of whole weights if connections move in it."""
        self.step += 1
        due = is_due(self.step, self.every_n_steps, self.last_step)
        for weight in self.weights if due else ():
            weight.ask_for_gradient()
        return due

    def move_(self) -> None:
        """Move connections by the gradients that have been asked for."""
        fraction = drop_fraction("cosine", self.step, self.last_step, DROPPED)
        for weight in self.weights:
            gradient = weight.gradient(lambda g: g, 1.0)
            weight.forget_gradient()
            if gradient is None:
                continue
            draws = draws_of(0, self.step, weight.name)
            active = ActiveWeights(weight.active, weight.positions, weight.shape, draws, lambda g=gradient: g)
            self.moved += weight.move_(move(RigL(), active, fraction), [self.optimizer])


def accuracy(module: nn.Module, part: tuple[Tensor, Tensor]) -> float:
    """Return the share of images put into the right class, in percent."""
    module.eval()
    with torch.inference_mode():
        pairs = zip(part[0].split(TEST_BATCH), part[1].split(TEST_BATCH), strict=True)
        right = sum(int((module(images).argmax(1) == labels).sum()) for images, labels in pairs)
    return round(100 * right / len(part[1]), 3)


def alphas(module: nn.Module) -> list[float]:
    """Return the scale of every converted layer."""
    return [round(layer.alpha.item(), 5) for layer in compact_layers(module).values()]
