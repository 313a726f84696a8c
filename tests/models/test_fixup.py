import pytest
import torch

from lightning_sparse.models import FixupResNet110


def test_fixup_starts_as_nothing_but_its_shortcuts() -> None:
    net = FixupResNet110()
    assert not net(torch.randn(2, 3, 32, 32)).any()
    block = net.layer2[0]
    assert not block.conv2.weight.any()
    assert block.conv1.weight.std().item() == pytest.approx((2 / (9 * 32 * 54)) ** 0.5, rel=0.1)


def test_a_shortcut_takes_every_other_pixel_and_adds_channels_of_zeros() -> None:
    block = FixupResNet110().layer2[0]  # its branch is zero
    x = torch.rand(1, 16, 4, 4)
    y = block(x)
    assert torch.equal(y[:, :16], x[:, :, ::2, ::2])
    assert not y[:, 16:].any()
