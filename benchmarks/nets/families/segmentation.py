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


NETS: dict[str, Build] = {
    "Unet, tu-test_efficientnet": partial(
        net, smp.Unet, "tu-test_efficientnet", decoder_channels=(32, 16, 16, 8, 8)
    ),
    "DeepLabV3Plus, tu-test_efficientnet": partial(
        net, smp.DeepLabV3Plus, "tu-test_efficientnet", decoder_channels=32
    ),
    "PSPNet, tu-test_resnet": partial(net, smp.PSPNet, "tu-test_resnet", psp_out_channels=32),
}
