"""Small nets of all the kinds through which units are followed, with random zeros, in double precision."""

import torch
from torch import nn


class Residual(nn.Module):
    """A stem and two blocks around it, the second with a shortcut of its own."""

    def __init__(self, kernel):
        super().__init__()
        pad = kernel // 2
        self.stem = nn.Conv2d(2, 6, 1)
        self.a1, self.n1 = nn.Conv2d(6, 5, kernel, padding=pad, bias=False), nn.BatchNorm2d(5)
        self.a2, self.n2 = nn.Conv2d(5, 6, kernel, padding=pad, bias=False), nn.BatchNorm2d(6)
        self.b1, self.m1 = nn.Conv2d(6, 5, kernel, 2, padding=pad, bias=False), nn.BatchNorm2d(5)
        self.b2, self.m2 = nn.Conv2d(5, 8, kernel, padding=pad, bias=False), nn.BatchNorm2d(8)
        self.short, self.ms = nn.Conv2d(6, 8, 1, 2, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 3)
        self.act, self.pool = nn.Softplus(), nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = self.stem(x)
        x = self.act(x + self.n2(self.a2(self.act(self.n1(self.a1(x))))))
        branch = self.m2(self.b2(self.act(self.m1(self.b1(x)))))
        branch += self.ms(self.short(x))
        return self.fc(self.pool(self.act(branch)).flatten(1))


class Concatenated(nn.Module):
    """Two branches side by side, as in a dense block."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 5, 1), nn.Conv2d(5, 4, 1), nn.Conv2d(9, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = torch.tanh(self.a(x))
        x = torch.cat([x, torch.tanh(self.b(x))], 1)
        return self.fc(torch.tanh(self.c(x)).mean((2, 3)))


def chain():
    layers = []
    for inputs, outputs in zip([5, 8, 8, 8], [8, 8, 8, 3], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def convs():
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Softplus(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 6, 2), nn.BatchNorm2d(6), nn.Softplus(), nn.Dropout(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3)),
    )


def padded_convs():
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.Tanh(), nn.AdaptiveMaxPool2d(5)),
        *(nn.Conv2d(6, 6, 3, padding="same"), nn.Tanh()),
        *(nn.Conv2d(6, 6, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        *(nn.Linear(24, 7), nn.Tanh(), nn.Linear(7, 3)),
    )


def depthwise():
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6), nn.Softplus()),
        *(nn.Conv2d(6, 6, 2, groups=6, bias=False), nn.BatchNorm2d(6), nn.Softplus()),
        *(nn.Conv2d(6, 6, 1), nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    )


def grouped():
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 1), nn.Softplus()),
        *(nn.Conv2d(6, 6, 1), nn.Softplus()),
        *(nn.Conv2d(6, 4, 2, groups=2), nn.Softplus()),
        *(nn.Conv2d(4, 6, 1), nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    )


def grouped_input():
    """The input of the first layer is no unit of any layer, and its outputs are tied to it."""
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 2, groups=2), nn.Softplus(), nn.Conv2d(6, 6, 1), nn.Softplus()),
        *(nn.Conv2d(6, 12, 1, groups=6), nn.Softplus()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3)),
    )


def one_dimensional():
    return nn.Sequential(
        *(nn.Conv1d(2, 6, 3, padding=1, padding_mode="circular"), nn.PReLU(6)),
        *(nn.Conv1d(6, 6, 3, padding=1, padding_mode="circular"), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(24, 5), nn.Tanh(), nn.Linear(5, 3)),
    )


def sparse(net, density, seed):
    """Return a net with random zeros, and numbers everywhere else, in double precision and eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if "running_var" in name:
            tensor.data = tensor.abs() + 0.1
        if tensor.dim() > 1:  # whole kernels too, or units of convolutions hardly ever die
            for shape in (tensor.shape[:2] + (1,) * (tensor.dim() - 2), tensor.shape):
                tensor.data *= torch.rand(shape, generator=generator) < density**0.5
    return net.double().eval()
