"""Leave no trace: what scoring changes in a module is given back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_sparse.types import Masks

__all__ = ["left_as_found", "sparsified"]


@contextmanager
def left_as_found(module: nn.Module, training: bool) -> Iterator[None]:
    """Set train or eval mode for a while; give back modes, buffers and torch's random state afterwards.

    Args:
        module: Its parameters are not looked after: nothing here changes them.
        training: Whether batch norm and dropout act as in training meanwhile.
    """
    modes = [(layer, layer.training) for layer in module.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    devices = sorted({p.device.index for p in module.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        module.train(training)
        try:
            yield
        finally:
            for layer, mode in modes:
                layer.training = mode
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)


@contextmanager
def sparsified(weights: Mapping[str, Tensor], masks: Masks | None) -> Iterator[None]:
    """Set weights that ``masks`` prune to zero for a while; without masks, change nothing."""
    originals = {name: weights[name].detach().clone() for name in masks or {}}
    try:
        with torch.no_grad():
            for name in originals:
                weights[name].masked_fill_(~(masks or {})[name], 0)
        yield
    finally:
        with torch.no_grad():
            for name, original in originals.items():
                weights[name].copy_(original)
