import pytest
import torch
from torch import nn

from lightning_sparse.models import VGG11, VGG13, VGG16, Conv2, Conv4, Conv6

CONVS = [Conv2, Conv4, Conv6]
VGGS = [VGG11, VGG13, VGG16]


def _counts(net: nn.Module) -> tuple[int, int]:
    weights = sum(p.numel() for p in net.parameters() if p.dim() > 1)
    return sum(p.numel() for p in net.parameters()), weights


@pytest.mark.parametrize(
    ("net", "on_mnist", "on_cifar10"),
    [
        (Conv2, (3_317_450, 3_316_800), (4_301_642, 4_300_992)),
        (Conv4, (1_933_258, 1_932_352), (2_425_930, 2_425_024)),
        (Conv6, (1_802_698, 1_801_280), (2_262_602, 2_261_184)),
    ],
)
def test_conv_totals_are_those_of_the_asni_paper(net, on_mnist, on_cifar10):
    with torch.device("meta"):
        assert _counts(net(in_channels=1, image_size=28)) == on_mnist
        assert _counts(net()) == on_cifar10


@pytest.mark.parametrize(
    ("net", "counts", "convs"),
    [
        (VGG11, (9_231_114, 9_222_848), 8),
        (VGG13, (9_416_010, 9_407_168), 10),
        (VGG16, (14_728_266, 14_715_584), 13),
    ],
)
def test_vgg_totals_are_those_of_the_asni_paper(net, counts, convs):
    with torch.device("meta"):
        made = net()
    assert _counts(made) == counts
    assert sum(isinstance(module, nn.Conv2d) for module in made.modules()) == convs


@pytest.mark.parametrize("net", CONVS)
@pytest.mark.parametrize("image_size", [28, 9])  # 9 becomes 4, 2 and 1: pooling leaves out an odd pixel
def test_conv_takes_images_of_its_size(net, image_size):
    made = net(in_channels=1, image_size=image_size, num_classes=7)
    assert made(torch.zeros(2, 1, image_size, image_size)).shape == (2, 7)


@pytest.mark.parametrize("net", VGGS)
def test_vgg_takes_small_and_larger_images(net):
    made = net(in_channels=1, num_classes=7)
    assert made(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    assert made(torch.zeros(2, 1, 64, 96)).shape == (2, 7)


@pytest.mark.parametrize("net", CONVS)
def test_a_conv_net_is_relu_and_pooling_in_pairs(net):
    made = net(in_channels=1, image_size=32)
    names = [type(layer).__name__ for layer in made.convs]
    assert names == ["Conv2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d"] * len(made.widths)
    assert [layer.out_channels for layer in made.convs if isinstance(layer, nn.Conv2d)] == [
        width for width in made.widths for _ in range(2)
    ]


@pytest.mark.parametrize("net", [*CONVS, *VGGS])
def test_sizes_must_be_positive(net):
    with pytest.raises(ValueError, match="`in_channels` must be an integer of at least 1, got 0"):
        net(in_channels=0)


def test_an_image_must_survive_the_pooling():
    with pytest.raises(
        ValueError,
        match=r"`image_size` must be an integer of at least 8, got 7\. Each of 3 poolings halves it",
    ):
        Conv6(image_size=7)
