"""The small nets that timm tests its code with, one of a kind; the last two standardise weights."""

from functools import partial

import timm
from timm.models.resnetv2 import ResNetV2

from benchmarks.nets.case import Build, Case, Task, classified, images, loader


def model(name: str, **options: int) -> Case:
    net = timm.create_model(name, num_classes=4, **options)
    return Case(Task(net, classified), loader(images(32)))


def bit_resnet() -> Case:
    """BiT: StdConv2d and group norm."""
    net = ResNetV2([1, 1], channels=(128, 256), num_classes=4, stem_chs=32)
    return Case(Task(net, classified), loader(images(32)))


NAMES = ("test_efficientnet", "test_resnet", "test_convnext", "test_mambaout", "test_nfnet")
NETS: dict[str, Build] = {
    "test_vit": partial(model, "test_vit", img_size=32),
    **{name: partial(model, name) for name in NAMES},
    "ResNetV2 (BiT)": bit_resnet,
}
