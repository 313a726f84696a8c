"""The reference runs' nets, states and masks."""

import json
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lightning_sparse import PruningProblem
from lightning_sparse.functional.packing import unpack_bits

FOLDER = Path(__file__).parent / "golden"


class MLP(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = (nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x):
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())


class Conv(nn.Module):
    def __init__(self, channels, width, wide, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv4 = nn.Conv2d(width, wide, 3, stride=2, padding=1)
        self.bn4 = nn.BatchNorm2d(wide)
        self.conv5 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.bn5 = nn.BatchNorm2d(wide)
        self.short = nn.Conv2d(width, wide, 1, stride=2, bias=False)
        self.bns = nn.BatchNorm2d(wide)
        self.fc = nn.Linear(wide, classes)

    def forward(self, x):
        a = F.relu(self.bn1(self.conv1(x)))
        b = F.relu(self.bn3(self.conv3(F.relu(self.bn2(self.conv2(a))))) + a)
        c = F.relu(self.bn5(self.conv5(F.relu(self.bn4(self.conv4(b))))) + self.bns(self.short(b)))
        return self.fc(c.mean((2, 3)))


class Case:
    """One file of reference runs."""

    def __init__(self, name):
        self.about = json.loads((FOLDER / f"{name}.json").read_text())
        self.arrays = np.load(FOLDER / f"{name}.npz")
        self.order = self.about["prunable_order"]

    def tensor(self, name):
        return torch.from_numpy(self.arrays[name])

    def net(self, dtype=torch.float32):
        kind = {"mlp": MLP, "conv": Conv}[self.about["net"]]
        net = kind(*self.about["net_args"])
        states = {
            key.removeprefix("state."): self.tensor(key) for key in self.arrays if key.startswith("state.")
        }
        net.load_state_dict(states, strict=True)
        return net.to(dtype)

    def weights(self, net):
        return {name: net.get_parameter(name) for name in self.order}

    def masks(self, key, net, step=None):
        """Return the masks of a run, at a step where it has several."""
        masks = {}
        for name, weight in self.weights(net).items():
            bits = self.arrays[f"{key}.{name}"]
            packed = torch.from_numpy(bits if step is None else bits[step])
            masks[name] = unpack_bits(packed, weight.shape)
        return masks

    def problem(self, net, batches=1, loss=F.cross_entropy, dtype=torch.float32):
        """Return the reference's weights, data and loss; the same batches at every step."""
        pairs = []
        if "x" in self.arrays:
            x, y = self.tensor("x").to(dtype), self.tensor("y")
            pairs = list(zip(x.chunk(batches), y.chunk(batches), strict=True))
        return PruningProblem(
            net,
            self.weights(net),
            torch.Generator(),
            losses=lambda _: [lambda x=x, y=y: loss(net(x), y) for x, y in pairs],
            inputs=lambda: torch.empty(1, *self.about["input_shape"]),
        )


@lru_cache
def case(name):
    return Case(name)
