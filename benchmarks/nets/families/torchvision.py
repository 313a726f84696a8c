"""Classifiers, and a detector, whose outputs differ between training and evaluation."""

from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

from benchmarks.nets.case import Build, Case, Task, classified, draws, images, loader


def shufflenet() -> Case:
    net = torchvision.models.shufflenet_v2_x0_5(num_classes=4)
    return Case(Task(net, classified), loader(images(32)))


def vision_transformer() -> Case:
    net = torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=4)
    return Case(Task(net, classified), loader(images(32)))


def googlenet() -> Case:
    """Its auxiliary heads speak in training only."""
    net = torchvision.models.GoogLeNet(num_classes=4, init_weights=False)
    return Case(Task(net, with_auxiliaries), loader(images(64)))


def with_auxiliaries(net: nn.Module, batch: Any) -> Tensor:
    pictures, labels = batch
    out = net(pictures)
    auxiliary = F.cross_entropy(out.aux_logits1, labels) + F.cross_entropy(out.aux_logits2, labels)
    return F.cross_entropy(out.logits, labels) + 0.3 * auxiliary


def faster_rcnn() -> Case:
    """Returns losses in training, boxes in evaluation; trained with targets."""
    layers = [nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    backbone = nn.Sequential(*layers)
    backbone.out_channels = 32  # type: ignore[assignment]
    net = FasterRCNN(
        backbone,
        num_classes=4,
        min_size=64,
        max_size=64,
        rpn_anchor_generator=AnchorGenerator(((16, 32),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0"], 3, 2),
        box_detections_per_img=5,
    )
    return Case(
        Task(net, detected), loader(scenes(), collate_fn=lambda pairs: tuple(zip(*pairs, strict=True)))
    )


def scenes() -> list[tuple[Tensor, dict[str, Tensor]]]:
    generator = draws()
    corners = [torch.tensor([[4.0 + i, 6.0, 30.0 + i, 40.0]]) for i in range(12)]
    labels = [torch.tensor([1 + i % 3]) for i in range(12)]
    pictures = [torch.rand(3, 64, 64, generator=generator) for _ in range(12)]
    targets = [{"boxes": box, "labels": label} for box, label in zip(corners, labels, strict=True)]
    return list(zip(pictures, targets, strict=True))


def detected(net: nn.Module, batch: Any) -> Tensor:
    pictures, targets = batch
    losses = net(list(pictures), list(targets))
    return torch.stack(list(losses.values())).sum()


NETS: dict[str, Build] = {
    "shufflenet_v2_x0_5": shufflenet,
    "VisionTransformer": vision_transformer,
    "GoogLeNet": googlenet,
    "FasterRCNN": faster_rcnn,
}
