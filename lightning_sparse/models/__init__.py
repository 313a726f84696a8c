"""Networks of the papers, the LightningModule that trains them, and a learning rate."""

from lightning_sparse.models.classifier import ImageClassifier
from lightning_sparse.models.conv import Conv2, Conv4, Conv6, ConvNet
from lightning_sparse.models.fixup import FixupResNet110
from lightning_sparse.models.lenet import LeNet5, LeNet300100
from lightning_sparse.models.mobilenet import MobileNetV2
from lightning_sparse.models.resnet import ResNet, ResNet18, ResNet34, ResNet50
from lightning_sparse.models.schedulers import TruncatedCosineLR
from lightning_sparse.models.vgg import VGG, VGG11, VGG13, VGG16, VGG19
from lightning_sparse.models.wide_resnet import WideResNet

__all__ = [
    "VGG",
    "VGG11",
    "VGG13",
    "VGG16",
    "VGG19",
    "Conv2",
    "Conv4",
    "Conv6",
    "ConvNet",
    "FixupResNet110",
    "ImageClassifier",
    "LeNet5",
    "LeNet300100",
    "MobileNetV2",
    "ResNet",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "TruncatedCosineLR",
    "WideResNet",
]
