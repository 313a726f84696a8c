import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_sparse.models.wide_resnet import PreActivationBlock, WideResNet


def _counts(net: nn.Module) -> tuple[int, int]:
    weights = sum(p.numel() for p in net.parameters() if p.dim() > 1)
    return weights, sum(p.numel() for p in net.parameters()) - weights


@pytest.mark.parametrize(
    ("depth", "width", "counts"),
    [
        (22, 2, (1_076_912, 2_730)),
        (16, 4, (2_745_264, 3_626)),
        (28, 10, (36_461_232, 17_962)),
    ],
)
def test_parameter_totals_worked_by_hand(depth, width, counts) -> None:
    with torch.device("meta"):
        assert _counts(WideResNet(depth, width)) == counts


@pytest.mark.parametrize(
    ("depth", "width", "millions"),
    [(40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (28, 10, 36.5), (28, 12, 52.5), (22, 8, 17.2), (16, 8, 11.0)],
)
def test_parameter_totals_are_those_of_the_paper(depth, width, millions) -> None:
    """Zagoruyko and Komodakis, tables 3 to 5."""
    with torch.device("meta"):
        assert round(sum(_counts(WideResNet(depth, width))) / 1e6, 1) == millions


def test_operations_are_those_of_the_reproduction_of_rigl() -> None:
    """Sundar and Dwaraknath, table 2: 3.15e8 for one image through WRN-22-2, two for each product."""
    found = 0

    def count(layer, _, out):
        nonlocal found
        found += 2 * layer.weight[0].numel() * out.numel()

    net = WideResNet()
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    net(torch.zeros(1, 3, 32, 32))
    assert found == pytest.approx(3.15e8, rel=0.01)


@pytest.mark.parametrize(("in_channels", "stride"), [(4, 1), (6, 1), (4, 2)])
def test_a_block_is_the_papers(in_channels, stride) -> None:
    torch.manual_seed(0)
    block = PreActivationBlock(in_channels, 6, stride, 0.0).eval()
    for norm in (block.bn1, block.bn2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, in_channels, 8, 8)
    before = (x / (1 + 1e-5) ** 0.5 * block.bn1.weight.view(-1, 1, 1) + block.bn1.bias.view(-1, 1, 1)).relu()
    inside = F.conv2d(before, block.conv1.weight, stride=stride, padding=1)
    inside = (
        inside / (1 + 1e-5) ** 0.5 * block.bn2.weight.view(-1, 1, 1) + block.bn2.bias.view(-1, 1, 1)
    ).relu()
    branch = F.conv2d(inside, block.conv2.weight, padding=1)
    kept = x if in_channels == 6 else F.conv2d(before, block.shortcut.weight, stride=stride)
    torch.testing.assert_close(block(x), kept + branch)


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("side", [28, 32])
def test_logits_have_a_row_per_image(in_channels, side) -> None:
    net = WideResNet(10, 1, in_channels=in_channels, num_classes=7)
    assert net(torch.randn(2, in_channels, side, side)).shape == (2, 7)


def test_stages_halve_the_image() -> None:
    net, x = WideResNet(10, 2), torch.randn(1, 3, 32, 32)
    shapes = []
    for layer in (net.conv1, net.stage1, net.stage2, net.stage3):
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 32, 32), (32, 32, 32), (64, 16, 16), (128, 8, 8)]


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    net, images = WideResNet(10, 1, dropout=0.5), torch.randn(4, 3, 8, 8)
    assert not torch.equal(net(images), net(images))
    net.eval()
    assert torch.equal(net(images), net(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 20}, r"`depth` must be 6n \+ 4, .*, got 20\."),
        ({"depth": 4}, r"`depth` must be an integer of at least 10, got 4\."),
        ({"width": 0}, r"`width` must be an integer of at least 1, got 0\."),
        ({"in_channels": 0}, r"`in_channels` must be an integer of at least 1, got 0\."),
        ({"num_classes": 0}, r"`num_classes` must be an integer of at least 1, got 0\."),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1\.0\."),
    ],
)
def test_arguments_are_checked(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        WideResNet(**arguments)
