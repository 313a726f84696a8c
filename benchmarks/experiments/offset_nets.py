"""What `benchmarks.experiments.offsets` trains: nets with their data and budgets, and rows of tables."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.experiments.gaussian import GaussianOffset
from lightning_sparse.data import ImageFolderDataModule, MNISTDataModule
from lightning_sparse.data.images import InMemoryImages
from lightning_sparse.functional.saliency import PruningMethod, SynFlow, method_from_name
from lightning_sparse.layers import DCTOffset, HadamardOffset, Offset, SignedDCTOffset
from lightning_sparse.models import LeNet5, LeNet300100


@dataclass(frozen=True)
class Row:
    """A way to start: an offset, by the seed of the run, with its scales, or masks.

    Args:
        name: Of the row in tables.
        offset: Makes the offset; ``None`` for masks.
        lsuv: Whether the scales come from data.
        last: What the last layer's scale is multiplied by.
        masks: Makes the pruning method.
        rigl: Whether connections move.
    """

    name: str
    offset: Callable[[int], Offset] | None = None
    lsuv: bool = False
    last: float = 1.0
    masks: Callable[[], PruningMethod] | None = None
    rigl: bool = False


OFFSETS = (
    Row("DCT", lambda _: DCTOffset()),
    Row("signed DCT", SignedDCTOffset),
    Row("DCT (chw), LSUV, last x 0.1", lambda _: DCTOffset("chw"), lsuv=True, last=0.1),
    Row("Hadamard", HadamardOffset),
    Row("Gaussian", GaussianOffset),
    Row("signed DCT, last x 0.1", SignedDCTOffset, last=0.1),
)
MASKS = (
    Row("SynFlow", masks=partial(SynFlow, iterations=100)),
    Row("random EPL", masks=partial(method_from_name, "epl")),
)
ROWS = (
    *OFFSETS,
    *MASKS,
    *(Row(f"{row.name} + RigL", row.offset, row.lsuv, row.last, rigl=True) for row in OFFSETS),
)


@dataclass(frozen=True)
class Net:
    """A net, how it is trained, and with how many weights; the first budget is the main one."""

    make: Callable[[], nn.Module]
    data: str
    weights: int
    budgets: tuple[int, ...]
    epochs: int
    batch_size: int = 64


WIDTHS = (16, 32, 64, 64)


def conv_net(norm: bool) -> nn.Module:
    """Four 3 x 3 convolutions with max pooling between them, the mean over pixels, and a linear layer."""
    layers: list[nn.Module] = []
    for channels, width in zip((3, *WIDTHS), WIDTHS, strict=False):
        layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(width), nn.ReLU()] if norm else [nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], 10))


CONV = partial(Net, data="cifar10-jpeg", weights=60_976, budgets=(300, 1_000), epochs=3, batch_size=128)
NETS = {
    "lenet5": Net(LeNet5, "cifar10-jpeg", 61_510, (300, 100, 1_000, 3_000), epochs=10),
    "conv_bn": CONV(partial(conv_net, norm=True)),
    "lenet300": Net(LeNet300100, "mnist", 266_200, (1_331, 266, 5_324), epochs=10),
    "conv": CONV(partial(conv_net, norm=False)),
}


@dataclass(frozen=True)
class Images:
    """A data set in memory, normalised: images and labels to train on, held out, and to test on."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def random_images(net: Net) -> Images:
    """Return noise, to see that everything runs."""
    shape = (1, 28, 28) if net.data == "mnist" else (3, 32, 32)
    draws = torch.Generator().manual_seed(0)

    def part(count: int) -> tuple[Tensor, Tensor]:
        images = torch.randn(count, *shape, generator=draws)
        return images, torch.randint(10, (count,), generator=draws)

    return Images(part(2 * net.batch_size), part(16), part(16))


def load_images(name: str, data_dir: Path, cache: Path) -> Images:
    """Return a data set as the package's data modules split and normalise it; decoded once per cache."""
    return Images(*(_normalised(*part) for part in load_raw(name, data_dir, cache)))


def load_raw(name: str, data_dir: Path, cache: Path) -> list[tuple[Tensor, ...]]:
    """Return images, labels, means and deviations of the three parts, not normalised yet."""
    path = cache / f"{name}.pt"
    if not path.exists():
        make = MNISTDataModule if name == "mnist" else ImageFolderDataModule
        data = make(str(data_dir if name == "mnist" else data_dir / name))
        data.setup()
        parts = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
        cache.mkdir(parents=True, exist_ok=True)
        torch.save([_plain(loader.dataset) for loader in parts], path)
    loaded: list[tuple[Tensor, ...]] = torch.load(path)
    return loaded


def _plain(images: InMemoryImages) -> tuple[Tensor, ...]:
    return images.images, images.labels, images.mean, images.std


def _normalised(images: Tensor, labels: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    normalised = images.float().sub_(mean).div_(std)
    return normalised.contiguous(memory_format=torch.channels_last), labels
