"""Networks of the papers, and the LightningModule that trains them."""

from lightning_sparse.models.classifier import ImageClassifier
from lightning_sparse.models.fixup import FixupResNet110
from lightning_sparse.models.lenet import LeNet5, LeNet300100
from lightning_sparse.models.resnet import ResNet, ResNet18, ResNet50

__all__ = ["FixupResNet110", "ImageClassifier", "LeNet5", "LeNet300100", "ResNet", "ResNet18", "ResNet50"]
