"""An offset that makes the signal many times as large as it was is warned of, and the way out works."""

import warnings

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from toy import Toy, loader, trainer

from lightning_sparse import DCTpSConversion, load_from_checkpoint
from lightning_sparse.layers import DCTOffset, NoOffset, convert_
from lightning_sparse.layers.signal import LOUD, signal_gain
from lightning_sparse.models import VGG11, VGG16, Conv2, LeNet5, LeNet300100, ResNet18, WideResNet

LOUDLY = "`alpha` 1 makes the output of {!r} about {} times what it was before the conversion"


class Denoiser(nn.Module):
    """As U-Nets of diffusion models end: norm, SiLU, and a convolution to few channels."""

    def __init__(self):
        super().__init__()
        self.conv_in, self.conv_out = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 3, 3, padding=1)
        self.norm = nn.GroupNorm(8, 64)

    def forward(self, x):
        return self.conv_out(nn.functional.silu(self.norm(self.conv_in(x))))


def regressor():
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 1))


def make(net):
    torch.manual_seed(0)
    return net()


def first_loss(net):
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    x = x if isinstance(net, Denoiser) else x.flatten(1)[:, :64]
    with torch.no_grad():
        y = net(x)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    return float((y - noise).square().mean())


@pytest.mark.parametrize(
    ("net", "layer", "times", "quiet"), [(Denoiser, "conv_out", 15, 0.07), (regressor, "2", 20, 0.05)]
)
def test_a_loud_layer_is_named_and_both_ways_out_help(net, layer, times, quiet):
    dense = first_loss(make(net))
    loud = make(net)
    told = LOUDLY.format(layer, times) + rf" \(1 such layers\).*match_norm.*alpha={{{layer!r}: {quiet}}}"
    with pytest.warns(UserWarning, match=told):
        convert_(loud, 0.05)
    assert first_loss(loud) > 5 * dense
    for alpha, most in (("match_norm", first_loss(loud) / 2), ({layer: quiet}, 2 * dense)):
        helped = make(net)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            convert_(helped, 0.05, alpha=alpha)
        assert first_loss(helped) < most


@pytest.mark.parametrize("net", [LeNet300100, LeNet5, Conv2, VGG11, VGG16, ResNet18, WideResNet])
def test_the_papers_nets_are_not_warned_of(net):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_(make(net), 0.01)


@pytest.mark.parametrize("shape", [(30, 40), (40, 30), (3, 200), (8, 16, 3, 3), (4, 32, 1, 1), (6, 1, 5, 3)])
@pytest.mark.parametrize("offset", [DCTOffset(), DCTOffset("chw"), NoOffset()])
def test_the_gain_is_what_is_measured(shape, offset):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    x = torch.randn(weight[0].numel(), 20000, generator=generator).relu()
    matrix = offset.matrix(weight.shape, torch.float32, torch.device("cpu"))
    after = 0.0 if matrix is None else float((0.7 * matrix.flatten(1) @ x).square().mean().sqrt())
    before = float((weight.flatten(1) @ x).square().mean().sqrt())
    assert signal_gain(weight, -0.7, offset) == pytest.approx(after / before, rel=0.02)


def test_layers_of_zeros_and_on_the_meta_device_tell_nothing():
    net = make(regressor)
    nn.init.zeros_(net[2].weight)
    with torch.device("meta"):
        nowhere = regressor()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_(net, 0.05)
        convert_(nowhere, 0.05)


@pytest.mark.parametrize(
    "layer", [nn.Conv1d(4, 8, 3), nn.Conv1d(4, 8, 1), nn.Conv3d(4, 8, (1, 2, 3))], ids=str
)
def test_a_kernel_counts_as_the_matrix_that_it_is_at_each_place(layer):
    flat = signal_gain(layer.weight.flatten(1), 2.0, DCTOffset())
    assert signal_gain(layer.weight, 2.0, DCTOffset("chw")) == pytest.approx(flat, rel=1e-5)


def test_the_limit_lies_between_the_nets_it_was_set_by():
    convs = [make(Denoiser).conv_out, nn.Conv2d(32, 3, 3), make(Conv2).fcs[0]]
    gains = [signal_gain(layer.weight, 1.0, DCTOffset()) for layer in convs]
    assert gains[0] > gains[1] > LOUD > gains[2]


class Regressor(Toy):
    def __init__(self):
        super().__init__(dropout=0.0)
        self.net[6] = nn.Sequential(nn.Linear(200, 1), nn.Linear(1, 4))


def test_once_when_training_starts_and_not_when_trained_weights_are_loaded(tmp_path):
    def runner(epochs):
        saves = ModelCheckpoint(tmp_path, save_last=True)
        return trainer(tmp_path, DCTpSConversion(0.1), saves, max_epochs=epochs, enable_checkpointing=True)

    with pytest.warns(UserWarning, match=LOUDLY.format("net.6.0", r"\d+")) as told:
        runner(1).fit(make(Regressor), loader(), loader(1))
    assert sum("makes the output" in str(one.message) for one in told) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*makes the output.*")
        load_from_checkpoint(Regressor, tmp_path / "last.ckpt")
        runner(1).test(make(Regressor), loader(1), ckpt_path=tmp_path / "last.ckpt")
        runner(2).fit(make(Regressor), loader(), loader(1), ckpt_path=tmp_path / "last.ckpt")
