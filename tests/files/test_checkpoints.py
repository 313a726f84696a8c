"""Checkpoints of nets converted without a callback: weights alone tell how to rebuild the layers."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from layers_toy import fill_
from torch import Tensor, nn
from toy import trainer

from lightning_sparse import load_from_checkpoint
from lightning_sparse.layers import DCTOffset, NoOffset, Offset, compact_layers, convert_, register_offset
from lightning_sparse.layers.offsets import OFFSETS, OffsetOptions


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@dataclass(frozen=True)
class Steps(Offset):
    """An offset of a user's own."""

    name = "steps"

    height: int = 1

    def options(self, shape: torch.Size) -> OffsetOptions:
        return {"height": self.height}

    def matrix(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        steps = self.height * torch.arange(math.prod(shape), dtype=dtype, device=device)
        return (steps % 3).view(shape)

    def transform(self, *args: Any) -> None:
        return None

    def transform_time(self, shape: torch.Size, rows: int, threads: int) -> float:
        return math.inf

    def norm(self, shape: torch.Size) -> float:
        return float(self.matrix(shape, torch.float64, torch.device("cpu")).norm())


@pytest.fixture(autouse=True, scope="module")
def tidy() -> Iterator[None]:
    register_offset(Steps)  # not when tests are collected: all of them would see it
    yield
    del OFFSETS["steps"]


def saved(path: Path, module: nn.Module) -> Path:
    runner = trainer(path)
    runner.strategy.connect(module)
    runner.save_checkpoint(path / "it.ckpt", weights_only=True)
    return path / "it.ckpt"


@pytest.mark.parametrize("offset", [DCTOffset(), DCTOffset("chw"), NoOffset(), Steps(2)], ids=str)
def test_layers_come_back_with_any_offset(tmp_path: Path, offset: Any) -> None:
    module = Net()
    convert_(module, 0.1, "erk", offset=offset)
    fill_(module)
    loaded = load_from_checkpoint(Net, saved(tmp_path, module))
    assert compact_layers(loaded).keys() == compact_layers(module).keys()
    assert compact_layers(loaded)["net.0"].offset == offset
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(loaded(x), module(x))


def test_an_offset_that_is_not_registered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Net()
    convert_(module, 0.1, offset="steps")
    path = saved(tmp_path, module)
    monkeypatch.delitem(OFFSETS, "steps")
    with pytest.raises(
        ValueError, match="`offset` must be one of dct, hadamard, none, signed_dct, got 'steps'"
    ):
        load_from_checkpoint(Net, path)


def test_layers_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    class Indexed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values = nn.Parameter(torch.arange(3.0))
            self.register_buffer("indices", torch.arange(3))

    class Foreign(Net):
        def __init__(self) -> None:
            super().__init__()
            self.other = Indexed()

    module = Foreign()
    nn.init.ones_(module.other.values)
    assert load_from_checkpoint(Foreign, saved(tmp_path, module)).other.values.eq(1).all()
