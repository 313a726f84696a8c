"""The nets that benchmarks train and prune; torchvision is imported by those that come from there."""

from torch import Tensor, nn


def cifar_resnet18() -> nn.Module:
    """Return ResNet-18 for images of 32 x 32: a 3 x 3 stem, no pooling after it."""
    from torchvision.models import resnet18

    net: nn.Module = resnet18(num_classes=10)
    net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


def wide_mlp() -> nn.Module:
    """Return three linear layers with 11 million weights, for images of 32 x 32."""
    sizes = [(3072, 2048), (2048, 2048), (2048, 512), (512, 10)]
    layers = [layer for size in sizes for layer in (nn.Linear(*size), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def tiny_net() -> nn.Module:
    """Return a small net for smoke runs, for images of 32 x 32."""
    convolution = nn.Conv2d(3, 8, 3, 4, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the linear and convolutional layers by name."""
    return {name: parameter for name, parameter in net.named_parameters() if parameter.ndim > 1}
