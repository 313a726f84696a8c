"""Denoisers, which are called with a time; they start with zeros in their last layers."""

from typing import Any

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.nets.case import Build, Case, Task, images, loader


def denoised(net: nn.Module, batch: Any) -> Tensor:
    clean, _ = batch
    noise = torch.randn_like(clean)
    times = torch.randint(0, 1000, (len(clean),))
    return F.mse_loss(net(clean + noise, times).sample, noise)


def unet() -> Case:
    net = UNet2DModel(
        16,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        norm_num_groups=8,
        attention_head_dim=8,
    )
    return Case(Task(net, denoised), loader(images(16)))


def transformer() -> Case:
    """DiT: adaptive norms, a condition of classes."""
    net = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=3,
        out_channels=3,
        num_layers=2,
        sample_size=16,
        patch_size=4,
        num_embeds_ada_norm=1000,
        norm_num_groups=8,
    )
    return Case(Task(net, with_classes), loader(images(16)))


def with_classes(net: nn.Module, batch: Any) -> Tensor:
    clean, labels = batch
    noise = torch.randn_like(clean)
    times = torch.randint(0, 1000, (len(clean),))
    return F.mse_loss(net(clean + noise, timestep=times, class_labels=labels).sample, noise)


def autoencoder() -> Case:
    net = AutoencoderKL(block_out_channels=(16,), norm_num_groups=8, latent_channels=2, sample_size=16)
    return Case(Task(net, lambda net, batch: F.mse_loss(net(batch[0]).sample, batch[0])), loader(images(16)))


NETS: dict[str, Build] = {
    "UNet2DModel": unet,
    "DiTTransformer2DModel": transformer,
    "AutoencoderKL": autoencoder,
}
