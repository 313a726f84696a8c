"""Decoders on encoders of several packages."""

from functools import partial
from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from benchmarks.nets.case import Build, Case, Task, images, loader


def segmented(net: nn.Module, batch: Any) -> Tensor:
    pictures, _ = batch
    loss: Tensor = smp.losses.DiceLoss("binary")(net(pictures), (pictures[:, :1] > 0).float())
    return loss


def net(kind: type[Any], encoder: str, **options: Any) -> Case:
    made = kind(encoder, encoder_weights=None, **options)
    return Case(Task(made, segmented), loader(images(64)))


NARROW = {"decoder_channels": (32, 16, 16, 8, 8)}
NETS: dict[str, Build] = {
    "Unet, mobilenet_v2": partial(net, smp.Unet, "mobilenet_v2", **NARROW),
    "FPN, tu-test_efficientnet": partial(net, smp.FPN, "tu-test_efficientnet", decoder_pyramid_channels=32),
    "DeepLabV3Plus, mobilenet_v2": partial(net, smp.DeepLabV3Plus, "mobilenet_v2", decoder_channels=32),
}
