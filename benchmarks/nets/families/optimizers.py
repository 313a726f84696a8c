"""A small net with optimizers that wrap another one, or keep what they know in a layout of their own."""

from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from benchmarks.nets.case import Build, Case, Task, classified, images, loader

WIDE = 128  # 8-bit states are kept only for tensors of 4096 elements and more


def net(optimizer: Callable[[Iterable[Tensor]], Any], rounding: float = 0.0) -> Case:
    sizes = [(3 * 64, WIDE), (WIDE, WIDE), (WIDE, 4)]
    layers = [layer for size in sizes for layer in (nn.Linear(*size), nn.ReLU())]
    module = Task(nn.Sequential(nn.Flatten(), *layers[:-1]), classified, optimizer)
    return Case(module, loader(images(8)), rounding=rounding)


def of(package: str, name: str, rounding: float = 0.0, **options: Any) -> Build:
    """Return a build with an optimizer that is imported when it is needed."""

    def optimizer(parameters: Iterable[Tensor]) -> Any:
        return getattr(import_module(package), name)(parameters, **options)

    return partial(net, optimizer, rounding)


def around(package: str, name: str, inner: Any, **options: Any) -> Build:
    """Return a build with an optimizer around another one."""

    def optimizer(parameters: Iterable[Tensor]) -> Any:
        return getattr(import_module(package), name)(inner(parameters), **options)

    return partial(net, optimizer)


MOMENTUM = partial(SGD, lr=0.01, momentum=0.9)
ADAM = partial(Adam, lr=1e-3)

METHODS = ("dense", "magnitude", "RigL", "ASNI", "IMP", "DCTpS", "DCTpS + RigL")
"""Those that optimizers make a difference to."""

NETS: dict[str, Build] = {
    "torch LBFGS": of("torch.optim", "LBFGS", lr=0.1, max_iter=3),
    "torch Muon, of matrices": partial(
        net, lambda ps: torch.optim.Muon([p for p in ps if p.ndim == 2], lr=1e-3)
    ),
    "torch Adafactor": of("torch.optim", "Adafactor"),
    "timm Lookahead": around("timm.optim", "Lookahead", MOMENTUM, k=2),
    "transformers Adafactor": of("transformers", "Adafactor"),
    "torchao AdamW8bit": of("torchao.optim", "AdamW8bit", rounding=0.1),
    "torchao AdamW4bit": of("torchao.optim", "AdamW4bit", rounding=0.3),
    "torchao AdamWFp8": of("torchao.optim", "AdamWFp8", rounding=0.1),
    "bitsandbytes Adam8bit": of("bitsandbytes.optim", "Adam8bit"),
    "bitsandbytes Lion8bit": of("bitsandbytes.optim", "Lion8bit"),
    "pytorch_optimizer Lookahead": around("pytorch_optimizer", "Lookahead", ADAM, k=2),
    "pytorch_optimizer SAM": of("pytorch_optimizer", "SAM", base_optimizer=SGD, lr=0.01, momentum=0.9),
    "pytorch_optimizer ScheduleFreeAdamW": of("pytorch_optimizer", "ScheduleFreeAdamW"),
    "pytorch_optimizer SOAP": of("pytorch_optimizer", "SOAP"),
    "pytorch_optimizer Shampoo": of("pytorch_optimizer", "Shampoo"),
    "pytorch_optimizer Lion": of("pytorch_optimizer", "Lion"),
    "pytorch_optimizer Prodigy": of("pytorch_optimizer", "Prodigy"),
}
