"""FLOPs against counts of others: torch's own of dense nets, and those of the RigL paper."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_sparse.functional.pruning import plan_budgets
from lightning_sparse.reporting.flops import count_flops
from lightning_sparse.selection import select_weights

models = pytest.importorskip("torchvision").models


def built(name):
    with torch.device("meta"):
        return getattr(models, name)().eval(), torch.zeros(2, 3, 224, 224)


@pytest.mark.parametrize("name", ["resnet50", "vgg16", "mobilenet_v2", "vit_b_16"])
def test_dense_nets_as_torch_counts_them(name):
    net, image = built(name)
    count = count_flops(net, image, list(select_weights(net)))
    mode = FlopCounterMode(display=False)
    with mode, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        out = net(image)
        forward = mode.get_total_flops()
        out.sum().backward()
    assert count.total.forward == forward
    assert count.total.training == mode.get_total_flops()
    assert count.unknown == ""


@pytest.fixture(scope="module")
def resnet():
    """Return the weights of ResNet-50, and the FLOPs of each for one image."""
    net, image = built("resnet50")
    weights = select_weights(net)
    count = count_flops(net, image[:1], list(weights))
    assert count.total.forward == sum(flops.forward for flops in count.weights.values())  # no other products
    shapes = {name: weight.shape for name, weight in weights.items()}
    return shapes, {name: flops.forward for name, flops in count.weights.items()}


@pytest.mark.parametrize(
    ("allocation", "density", "ours", "published"),
    [
        ("erk", 0.2, 0.4138, 0.42),
        ("erk", 0.1, 0.2418, 0.24),
        ("uniform", 0.2, 0.2231, 0.23),
        ("uniform", 0.1, 0.1260, 0.13),
    ],
)
def test_rigl_on_resnet50(resnet, allocation, density, ours, published):
    """All layers are sparse, the last too; beside uniform the authors leave the first one dense.

    We count products alone, as torch does. The authors' script (`get_stats`) adds an operation for each
    output of a layer, its ReLU, and takes the first layer to have 115 x 115 outputs: it pads its input twice.
    """
    shapes, dense = resnet
    left_dense = {"conv1.weight"} if allocation == "uniform" else set()
    budgets = plan_budgets({n: s for n, s in shapes.items() if n not in left_dense}, density, allocation)
    share = {name: budgets[name] / s.numel() if name in budgets else 1.0 for name, s in shapes.items()}
    outputs = {name: dense[name] / (2 * s[1:].numel()) for name, s in shapes.items()}
    assert outputs["conv1.weight"] == 64 * 112**2

    def factor(products, beside):
        return (sum(share[n] * f for n, f in products.items()) + beside) / (sum(products.values()) + beside)

    assert factor(dense, 0) == pytest.approx(ours, abs=1e-4)
    padded = (115 / 112) ** 2
    outputs["conv1.weight"] *= padded
    theirs = factor({**dense, "conv1.weight": dense["conv1.weight"] * padded}, sum(outputs.values()))
    assert round(theirs, 2) == published
