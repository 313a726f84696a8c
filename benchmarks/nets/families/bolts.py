"""lightning-bolts: its modules and data modules, under the Lightning 1.9 that it needs (docs/bolts.md)."""

import atexit
import functools
import gzip
import shutil
import struct
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

warnings.simplefilter("ignore")  # every module of bolts says that it is under review
from pl_bolts.datamodules import MNISTDataModule, SklearnDataModule  # noqa: E402
from pl_bolts.models import LitMNIST  # noqa: E402
from pl_bolts.models.autoencoders import AE, VAE  # noqa: E402
from pl_bolts.models.autoencoders.components import DecoderBlock, EncoderBlock, Interpolate, conv3x3  # noqa: E402
from pl_bolts.models.gans import DCGAN, GAN  # noqa: E402
from pl_bolts.models.regression import LinearRegression, LogisticRegression  # noqa: E402
from pl_bolts.models.self_supervised import SimCLR  # noqa: E402

from benchmarks.nets.case import BATCH_SIZE, Build, Case, images, loader  # noqa: E402

__all__ = ["NETS", "fake_mnist"]

COUNT = 5 * BATCH_SIZE


@functools.cache
def fake_mnist() -> str:
    """Write a few random digits in MNIST's own format, once in a process, and return the folder."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    raw = Path(folder) / "MNIST" / "raw"
    raw.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for part in ("train", "t10k"):
        pixels = draw.integers(0, 256, (COUNT, 28, 28), dtype=np.uint8)
        labels = np.arange(COUNT, dtype=np.uint8) % 10
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            content = header + array.tobytes()
            (raw / f"{part}-{name}-ubyte").write_bytes(content)
            (raw / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
    return folder


def digits() -> MNISTDataModule:
    return MNISTDataModule(fake_mnist(), val_split=BATCH_SIZE, batch_size=BATCH_SIZE, pin_memory=False)


def rows(features: int, targets: int) -> SklearnDataModule:
    """Return made-up rows: class numbers, or one real number each if there are no classes."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((40, features))
    y = np.arange(40) % targets if targets else x[:, :1] * 2
    return SklearnDataModule(x, y, batch_size=BATCH_SIZE, pin_memory=False)


def pairs() -> Any:
    """Return two views of an image, and the image, as SimCLR's transforms make them."""
    return loader([((image, image + 0.1, image), label) for image, label in images(16, count=COUNT)])


class ManualGAN(GAN):
    """The same GAN, as it has to be written for Lightning 2: two steps in one `training_step`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def training_step(self, batch: Any, _: int) -> dict[str, Tensor]:
        """Train the generator, then the discriminator."""
        losses = []
        for optimizer, step in zip(
            self.optimizers(), (self.generator_step, self.discriminator_step), strict=True
        ):
            optimizer.zero_grad()
            loss = step(batch[0])
            self.manual_backward(loss)
            optimizer.step()
            losses.append(loss.detach())
        return {"loss": losses[0]}


def encoder(width: int = 16) -> nn.Sequential:
    """Return a ResNet of bolts' own blocks, narrower and with fewer of them than its resnet18."""
    half = nn.Sequential(nn.Conv2d(width, 2 * width, 1, stride=2, bias=False), nn.BatchNorm2d(2 * width))
    return nn.Sequential(
        conv3x3(3, width),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        EncoderBlock(width, width),
        EncoderBlock(width, 2 * width, 2, half),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def decoder(latent_dim: int, width: int = 64) -> nn.Sequential:
    """Return a decoder of bolts' own blocks, as wide at its end as theirs."""
    return nn.Sequential(
        nn.Linear(latent_dim, 16 * width),
        nn.Unflatten(1, (width, 4, 4)),
        Interpolate(scale_factor=4),
        DecoderBlock(width, width),
        conv3x3(width, 3),
    )


class Listed(nn.Module):
    """Returns a list of features, as bolts' ResNets for self-supervised learning do."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.net(x)]


def autoencoder(kind: type[nn.Module]) -> Build:
    """Return an autoencoder of bolts with small nets in it, as one puts one's own there."""

    def build() -> Case:
        module = kind(input_height=16, enc_out_dim=32, latent_dim=8, lr=1e-3)
        module.encoder, module.decoder = encoder(), decoder(8)
        return Case(module, loader(images(16, count=COUNT)))

    return build


def gan(kind: type[nn.Module]) -> Build:
    return lambda: Case(
        kind(input_channels=1, input_height=8, input_width=8), loader(images(8, 1, count=COUNT))
    )


def simclr(optimizer: str) -> Case:
    module = SimCLR(
        gpus=0,
        num_samples=COUNT,
        batch_size=BATCH_SIZE,
        dataset="cifar10",
        arch="resnet18",
        hidden_mlp=32,
        feat_dim=16,
        optimizer=optimizer,
        exclude_bn_bias=True,
        warmup_epochs=1,
        max_epochs=6,
    )
    module.encoder = Listed(encoder())
    return Case(module, pairs())


NETS: dict[str, Build] = {
    "LitMNIST, MNISTDataModule": lambda: Case(LitMNIST(), digits()),
    "LinearRegression, SklearnDataModule": lambda: Case(LinearRegression(input_dim=32), rows(32, 0)),
    "LogisticRegression, SklearnDataModule": lambda: Case(LogisticRegression(32, 4), rows(32, 4)),
    "AE": autoencoder(AE),
    "VAE": autoencoder(VAE),
    "GAN": gan(GAN),
    "GAN, manual optimization": gan(ManualGAN),
    "DCGAN": lambda: Case(DCGAN(feature_maps_gen=8, feature_maps_disc=8), loader(images(64, 1, count=COUNT))),
    "SimCLR": lambda: simclr("adam"),
    "SimCLR, LARS": lambda: simclr("lars"),
}
