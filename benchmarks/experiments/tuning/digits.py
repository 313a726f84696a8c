"""A small MLP, pretrained here on MNIST, on the same digits turned by 90 degrees: small enough for many runs.

The net keeps its output layer, and there is no other head. Rates are chosen on training images that no seed
trains on; the test images are the same for all seeds.
"""

from functools import cache

import torch
from torch import nn

from benchmarks.experiments.tuning.methods import all_but
from benchmarks.experiments.tuning.task import TUNING_SEED, Budget, Data, Images, Task, draw_order

BATCH, TRAIN, VALIDATION = 100, 10_000, 2_000
PRETRAINING_EPOCHS = 5


@cache
def read(data_dir: str, train: bool, turned: bool) -> Images:
    """Return all digits of a part, as vectors."""
    from torchvision.datasets import MNIST

    part = MNIST(data_dir, train=train)
    images = torch.rot90(part.data, dims=(1, 2)) if turned else part.data
    return Images(images.flatten(1) / 255, part.targets)


def mlp(data_dir: str) -> nn.Module:
    """Return the MLP, trained on all upright digits; always the same one."""
    digits = read(data_dir, True, False)
    draws = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
        )
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    for _ in range(PRETRAINING_EPOCHS):
        for (images,), labels in digits.batches(draw_order(range(len(digits.labels)), draws), BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
    return net


def data(data_dir: str, seed: int, epochs: int, smoke: bool) -> Data:
    """Return the batches of a seed."""
    train, test = read(data_dir, True, True), read(data_dir, False, True)
    draws, for_rates = torch.Generator().manual_seed(seed), TRAIN + VALIDATION
    if seed == TUNING_SEED:
        mine = draw_order(range(for_rates), draws)
        order, held_out = mine[:TRAIN], train.batches(mine[TRAIN:], BATCH)
    else:
        order = draw_order(range(for_rates, len(train.labels)), draws)[:TRAIN]
        held_out = test.batches(range(len(test.labels)), BATCH)
    order = order[: 2 * BATCH] if smoke else order
    batches = [batch for _ in range(epochs) for batch in train.batches(draw_order(order, draws), BATCH)]
    return Data(batches, held_out)


DIGITS = Task(
    name="digits",
    net=mlp,
    features=None,
    classes=10,
    include=("*.weight",),
    weights=268_800,
    budgets=(
        Budget("0.68%", 1_818, 1, ("0", "2", "4")),
        Budget("2.7%", 7_272, 4, ("0", "2", "4")),
        Budget("0.10%", 266, 1, ("4",)),
    ),
    data=data,
    methods=all_but("head"),
    epochs=10,
    rate_epochs=5,
    move_every=20,
    move_until=0.75,
)
