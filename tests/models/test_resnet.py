import pytest
import torch
from models_golden import fill_compact_, fill_dense_, logits, relative_error
from torch import nn

from lightning_sparse.layers import convert_
from lightning_sparse.models import (
    VGG19,
    FixupResNet110,
    LeNet5,
    MobileNetV2,
    ResNet,
    ResNet18,
    ResNet34,
    ResNet50,
)
from lightning_sparse.models.resnet import BasicBlock

NETS = {
    "resnet18": (ResNet18, 1.0),
    "resnet50": (ResNet50, 1.0),
    "vgg19": (VGG19, 1.0),
    "mobilenet": (MobileNetV2, 1.0),
    "fixup_resnet110": (FixupResNet110, 0.2),
    "lenet": (LeNet5, 1.0),
}


def _counts(net: nn.Module) -> tuple[int, int]:
    weights = sum(p.numel() for p in net.parameters() if p.dim() > 1)
    return weights, sum(p.numel() for p in net.parameters()) - weights


@pytest.mark.parametrize(
    ("net", "counts"),
    [
        (ResNet18, (11_164_352, 9_610)),
        (ResNet50, (23_467_712, 53_130)),
        (VGG19, (20_024_000, 11_018)),
        (MobileNetV2, (2_261_824, 35_098)),
        (FixupResNet110, (1_719_856, 282)),
        (LeNet5, (61_510, 0)),
    ],
)
def test_parameter_totals_are_those_of_the_paper(net: type[nn.Module], counts: tuple[int, int]) -> None:
    with torch.device("meta"):
        assert _counts(net()) == counts


@pytest.mark.parametrize(
    ("net", "width"), [(ResNet18, 512), (ResNet50, 2048), (VGG19, 512), (MobileNetV2, 1280), (ResNet34, 512)]
)
def test_a_class_more_is_a_row_of_the_last_layer(net: type[nn.Module], width: int) -> None:
    """100 classes are CIFAR-100's, 200 those of Tiny ImageNet."""
    with torch.device("meta"):
        weights, others = _counts(net())
        for num_classes in (100, 200):
            more = num_classes - 10
            assert _counts(net(num_classes=num_classes)) == (weights + more * width, others + more)


@pytest.mark.parametrize(
    ("net", "num_classes", "counts"),
    [
        (ResNet18, 10, (11_172_032, 9_610)),  # 11,181,642: table 1 of the ASNI paper
        (ResNet18, 1000, (11_678_912, 10_600)),
        (ResNet34, 1000, (21_779_648, 18_024)),
        (ResNet50, 1000, (25_502_912, 54_120)),  # 25,557,032: the same table
    ],
)
def test_parameter_totals_with_the_stem_for_imagenet(net, num_classes, counts) -> None:
    with torch.device("meta"):
        assert _counts(net(num_classes=num_classes, stem="imagenet")) == counts


@pytest.mark.parametrize("net", ["resnet18", "resnet34", "resnet50"])
def test_logits_with_the_stem_for_imagenet_are_those_of_torchvision(net: str) -> None:
    """Both register layers in the same order; torchvision calls the shortcuts otherwise."""
    theirs = getattr(pytest.importorskip("torchvision").models, net)(num_classes=10)
    ours = {"resnet18": ResNet18, "resnet34": ResNet34, "resnet50": ResNet50}[net](stem="imagenet")
    state = zip(ours.state_dict(), theirs.state_dict().values(), strict=True)
    ours.load_state_dict(dict(state))
    images = torch.randn(2, 3, 65, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def test_the_stem_changes_no_name() -> None:
    with torch.device("meta"):
        assert ResNet18().state_dict().keys() == ResNet18(stem="imagenet").state_dict().keys()


@pytest.mark.parametrize(("case", "made"), NETS.items(), ids=NETS)
def test_dense_logits_are_those_of_the_reference_code(case: str, made: tuple[type[nn.Module], float]) -> None:
    net = made[0]()
    fill_dense_(net, made[1])
    assert relative_error(logits(net), f"{case}_dense") < 1e-6


@pytest.mark.parametrize("backend", ["materialize", "transform", "auto"])
@pytest.mark.parametrize("case", ["lenet", "resnet18", "fixup_resnet110", "mobilenet"])
def test_dctps_logits_are_those_of_the_reference_code(case: str, backend: str) -> None:
    make, gain = NETS[case]
    net = make()
    convert_(net, 0.05, backend=backend)
    fill_compact_(net, gain)
    assert relative_error(logits(net), f"{case}_dct") < 1e-6


def test_dctps_logits_of_vgg19_are_those_of_the_reference_code() -> None:
    net = VGG19()
    convert_(net, 0.05)
    fill_compact_(net)
    assert relative_error(logits(net), "vgg19_dct") < 1e-6


def test_a_dctps_resnet50_has_one_parameter_more_per_layer() -> None:
    net = ResNet50()
    budgets = convert_(net, 0.01)
    assert len(budgets) == 54
    assert _counts(net) == (0, sum(budgets.values()) + 53_130 + 54)


@pytest.mark.parametrize("net", [ResNet18, ResNet50, FixupResNet110, VGG19, MobileNetV2])
def test_other_channels_and_classes(net: type[nn.Module]) -> None:
    assert net(in_channels=1, num_classes=7)(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("net", [ResNet18, ResNet50, FixupResNet110, VGG19, MobileNetV2])
def test_sizes_must_be_positive(net: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="`num_classes` must be an integer of at least 1, got 0"):
        net(num_classes=0)


def test_a_resnet_has_four_stages() -> None:
    class Three(ResNet):
        block = BasicBlock
        num_blocks = (2, 2, 2)

    with pytest.raises(ValueError, match=r"`num_blocks` must be 4 integers of at least 1, got \(2, 2, 2\)"):
        Three()


def test_the_stem_is_known() -> None:
    with pytest.raises(ValueError, match="`stem` must be one of cifar, imagenet, got 'mnist'"):
        ResNet18(stem="mnist")
