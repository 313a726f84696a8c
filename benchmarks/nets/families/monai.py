"""Nets for medical images, in two and three dimensions."""

from functools import partial
from typing import Any

from monai.losses import DiceCELoss
from monai.networks.nets import UNETR, AttentionUnet, DenseNet, SwinUNETR, UNet
from torch import Tensor, nn

from benchmarks.nets.case import Build, Case, Task, classified, images, loader


def segmented(net: nn.Module, batch: Any) -> Tensor:
    pictures, _ = batch
    loss: Tensor = DiceCELoss(softmax=True, to_onehot_y=True)(net(pictures), (pictures[:, :1] > 0).long())
    return loss


def unet(dims: int, size: int) -> Case:
    net = UNet(dims, 1, 2, channels=(8, 16, 32), strides=(2, 2), num_res_units=1)
    return Case(Task(net, segmented), loader(images(size, 1, dims)))


def attention_unet() -> Case:
    return Case(Task(AttentionUnet(2, 1, 2, (8, 16), (2,)), segmented), loader(images(32, 1)))


def unetr() -> Case:
    net = UNETR(1, 2, 32, feature_size=8, hidden_size=32, mlp_dim=64, num_heads=4, spatial_dims=2)
    return Case(Task(net, segmented), loader(images(32, 1)))


def swin_unetr() -> Case:
    net = SwinUNETR(1, 2, feature_size=12, spatial_dims=2, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2))
    return Case(Task(net, segmented), loader(images(64, 1)))


def densenet() -> Case:
    net = DenseNet(3, 1, 4, init_features=8, growth_rate=4, block_config=(2, 2))
    return Case(Task(net, classified), loader(images(16, 1, 3)))


NETS: dict[str, Build] = {
    "UNet, 2-d": partial(unet, 2, 32),
    "UNet, 3-d": partial(unet, 3, 16),
    "AttentionUnet": attention_unet,
    "UNETR": unetr,
    "SwinUNETR": swin_unetr,
    "DenseNet, 3-d": densenet,
}
