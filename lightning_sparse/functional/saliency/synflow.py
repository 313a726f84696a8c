"""SynFlow: how much of what flows through the net passes a weight, without data."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from lightning_sparse.functional.isolation import left_as_found
from lightning_sparse.functional.saliency.gradients import never_again
from lightning_sparse.types import Masks, Scores

__all__ = ["synflow"]

Conformance: TypeAlias = Literal["paper", "reference"]

_BATCH_NORMS = nn.modules.batchnorm._BatchNorm
_OTHER_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.instancenorm._InstanceNorm)


def synflow(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    example: Tensor,
    masks: Masks | None = None,
    *,
    conformance: Conformance = "paper",
    dtype: torch.dtype = torch.float64,
) -> Scores:
    """Return ``|dR/dw * w|``, R the sum of the outputs for an input of ones, all weights taken as ``|w|``.

    Biases and shifts contribute nothing, and norms only scale: batch norm by ``|gamma| / sqrt(var + eps)``,
    the others by ``|gamma|``, since they would turn an input of ones into zeros.

    Args:
        module: The net; not changed.
        weights: The weights scored, by parameter name.
        example: An input; only its shape and device matter, the batch is cut to one.
        masks: Masks of earlier iterations; what they prune has the lowest score.
        conformance: ``"reference"``: absolute values of everything in the state dict, biases and running
            means too, and norms as they are, as the authors' code has it.
        dtype: Type to compute in; deep nets overflow ``float32``.

    Source:
        Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow",
        NeurIPS 2020 (arXiv:2006.05467), equation 6.
    """
    paper = conformance == "paper"
    tensors = _linearized(module, weights, masks, dtype, drop_biases=paper)
    ones = torch.ones(1, *example.shape[1:], dtype=dtype, device=example.device)
    with left_as_found(module, training=False), _norms_scale(module) if paper else ExitStack():
        flow = torch.stack(
            [_total(leaf) for leaf in tree_leaves(functional_call(module, tensors, (ones,)))]
        ).sum()
        scored = [tensors[name] for name in weights]
        gradients = torch.autograd.grad(flow, scored, allow_unused=True)
    scores = {
        name: torch.zeros_like(tensor) if gradient is None else (gradient * tensor.detach()).abs()
        for name, tensor, gradient in zip(weights, scored, gradients, strict=True)
    }
    return scores if masks is None else {name: never_again(s, masks[name]) for name, s in scores.items()}


def _linearized(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    masks: Masks | None,
    dtype: torch.dtype,
    drop_biases: bool,
) -> dict[str, Tensor]:
    """Return parameters and buffers for the pass: weights without signs, in ``dtype``."""
    tensors = {}
    for name, parameter in module.named_parameters():
        value = parameter.detach().to(dtype).abs()
        if drop_biases and "bias" in name.rpartition(".")[2]:
            value = torch.zeros_like(value)
        if masks is not None and name in masks:
            value = value * masks[name]
        tensors[name] = value.requires_grad_(name in weights)
    for name, buffer in module.named_buffers():
        value = buffer.detach().clone()  # a pass may change it in place
        if value.is_floating_point():
            value = value.to(dtype) if drop_biases else value.to(dtype).abs()
        tensors[name] = value
    return tensors


@contextmanager
def _norms_scale(module: nn.Module) -> Iterator[None]:
    """Let normalisation layers scale by their weight and variance, and do nothing else, for a while."""
    with ExitStack() as stack:
        for layer in module.modules():
            scale = _batch_scale if isinstance(layer, _BATCH_NORMS) else _scale
            if isinstance(layer, (_BATCH_NORMS, *_OTHER_NORMS)):
                handle = layer.register_forward_hook(_replace_by(scale))
                stack.callback(handle.remove)
        yield


def _replace_by(function: Callable[[Any, Tensor], Tensor]) -> Callable[..., Tensor]:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        return function(layer, inputs[0])

    return hook


def _batch_scale(layer: Any, x: Tensor) -> Tensor:
    factor = torch.ones(x.shape[1], dtype=x.dtype, device=x.device) if layer.weight is None else layer.weight
    if layer.running_var is not None:
        factor = factor / torch.sqrt(layer.running_var + layer.eps)
    return x * _along_channels(factor, x)


def _scale(layer: Any, x: Tensor) -> Tensor:
    if layer.weight is None:
        return x
    over_channels = isinstance(layer, nn.GroupNorm | nn.modules.instancenorm._InstanceNorm)
    return x * (_along_channels(layer.weight, x) if over_channels else layer.weight)


def _along_channels(factor: Tensor, x: Tensor) -> Tensor:
    return factor.view(1, -1, *[1] * (x.ndim - 2))


def _total(leaf: object) -> Tensor:
    return leaf.sum() if isinstance(leaf, Tensor) and leaf.is_floating_point() else torch.zeros(())
