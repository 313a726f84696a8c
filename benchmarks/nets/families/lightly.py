"""Self-supervised learning as in lightly's examples; BYOL's teacher is a copy that follows by an average."""

import copy
from typing import Any

import pytorch_lightning as pl
import torch
import torchvision
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead, SimCLRProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn

from benchmarks.nets.case import Build, Case, images, loader


def backbone() -> nn.Module:
    net = torchvision.models.resnet18()
    return nn.Sequential(*list(net.children())[:6], nn.AdaptiveAvgPool2d(1))  # 128 channels


class SimCLR(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = backbone()
        self.projection_head = SimCLRProjectionHead(128, 64, 32)
        self.criterion = NTXentLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x).flatten(start_dim=1))

    def training_step(self, batch: Any, _: int) -> Tensor:
        x0, x1 = two_views(batch)
        return self.criterion(self.forward(x0), self.forward(x1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.06)


class BYOL(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = backbone()
        self.projection_head = BYOLProjectionHead(128, 64, 32)
        self.prediction_head = BYOLPredictionHead(32, 64, 32)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, x: Tensor) -> Tensor:
        return self.prediction_head(self.projection_head(self.backbone(x).flatten(start_dim=1)))

    def forward_momentum(self, x: Tensor) -> Tensor:
        return self.projection_head_momentum(self.backbone_momentum(x).flatten(start_dim=1)).detach()

    def training_step(self, batch: Any, _: int) -> Tensor:
        update_momentum(self.backbone, self.backbone_momentum, m=0.9)
        update_momentum(self.projection_head, self.projection_head_momentum, m=0.9)
        x0, x1 = two_views(batch)
        losses = [
            self.criterion(self.forward(x0), self.forward_momentum(x1)),
            self.criterion(self.forward(x1), self.forward_momentum(x0)),
        ]
        return 0.5 * torch.stack(losses).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.06)


def two_views(batch: Any) -> tuple[Tensor, Tensor]:
    pictures, _ = batch
    return pictures, pictures.flip(-1)


def teacher_follows(module: Any) -> list[str]:
    """Say where the teacher has other parameters than the pupil that it averages."""
    pairs = (
        (module.backbone, module.backbone_momentum),
        (module.projection_head, module.projection_head_momentum),
    )
    return [
        f"the teacher's {name} is no average of the pupil's"
        for pupil, teacher in pairs
        for (name, one), (other_name, other) in zip(
            pupil.named_parameters(), teacher.named_parameters(), strict=False
        )
        if (name, one.shape) != (other_name, other.shape)
    ][:1]


NETS: dict[str, Build] = {
    "SimCLR": lambda: Case(SimCLR(), loader(images(32))),
    "BYOL": lambda: Case(BYOL(), loader(images(32)), problems=teacher_follows),
}
