"""SynFlow: how much of what flows through the net passes a weight, without data."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from lightning_sparse.checks import SparsityError, check_choice, check_count
from lightning_sparse.functional.isolation import left_as_found
from lightning_sparse.functional.ranking import in_pieces
from lightning_sparse.functional.saliency.base import Conformance, PruningProblem, Ranking, register_method
from lightning_sparse.functional.saliency.iterative import Arithmetic, PathName, density_path, rounded_up
from lightning_sparse.functional.saliency.published import PublishedMethod
from lightning_sparse.types import Masks, Scores

__all__ = ["SynFlow", "synflow"]


def _path_of_the_code(density: float, steps: int, schedule: PathName) -> list[float]:
    """Return the densities in the arithmetic of the authors' code, whose last bits its rounding shows."""
    if schedule == "exponential":
        return density_path(density, steps)
    return [1 - (1 - density) * ((step + 1) / steps) for step in range(steps)]


@register_method("synflow")
class SynFlow(PublishedMethod):
    """Keep what carries the flow through the net, iteratively and without data.

    Args:
        iterations: How often the net is scored and pruned.
        input_shape: Shape of one input without the batch, such as ``[3, 32, 32]``. ``None``: that of the
            module's ``example_input_array``, or else of the first tensor of the first batch.
        schedule: How the density falls: ``"exponential"`` or ``"linear"``.
        allocation: ``"global"`` ranks the weights of all layers together, else each layer has a budget.
        conformance: ``"reference"``: the authors' code: its rounding, the module's own dtype instead of
            float64, biases, shifts and running means with their absolute values.

    Source:
        Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow",
        NeurIPS 2020 (arXiv:2006.05467).
    """

    needs_forward = True
    reference = Arithmetic(rounded_up, _path_of_the_code)

    def __init__(
        self,
        iterations: int = 100,
        input_shape: list[int] | None = None,
        schedule: PathName = "exponential",
        allocation: Ranking = "global",
        conformance: Conformance = "paper",
    ) -> None:
        super().__init__(allocation, conformance)
        check_count("iterations", iterations)
        check_choice("schedule", schedule, ("exponential", "linear"))
        if not isinstance(input_shape, list | tuple | None):
            raise SparsityError(f"`input_shape` must be a list such as [3, 32, 32], got {input_shape!r}.")
        for size in input_shape or []:
            check_count("input_shape", size)
        self.iterations = iterations
        self.input_shape = None if input_shape is None else list(input_shape)
        self.schedule = schedule

    def scores(self, problem: PruningProblem) -> Scores:
        """Return ``|dR/dw * w|`` of the net so far."""
        device = next(iter(problem.weights.values())).device
        inputs = problem.inputs() if self.input_shape is None else _inputs_of_shape(self.input_shape, device)
        net = problem.net or problem.module
        return synflow(net, problem.weights, inputs, problem.masks, conformance=self.conformance)


def synflow(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    inputs: Any,
    masks: Masks | None = None,
    *,
    conformance: Conformance = "paper",
    dtype: torch.dtype | None = None,
) -> Scores:
    """Return ``|dR/dw * w|``, R the sum of the outputs for an input of ones, all weights taken as ``|w|``.

    Biases and shifts contribute nothing, and norms only scale: batch norm by ``|gamma| / sqrt(var + eps)``,
    the others by ``|gamma|``, since they would turn an input of ones into zeros.

    Args:
        module: The net; not changed.
        weights: The weights scored, parameters of ``module``, under any names.
        inputs: An input of the net: a tensor of shape ``(batch, ...)``, a tuple of arguments or a dict of
            them. Only shape and device matter; the batch is cut to one.
        masks: Masks of earlier iterations; what they prune scores 0.
        conformance: ``"reference"``: absolute values of everything in the state dict, biases and running
            means too, and norms as they are, as the authors' code has it.
        dtype: Type to compute in. ``None``: float64, as deep nets overflow float32; the weights' own with
            ``conformance="reference"``.

    Raises:
        SparsityError: If an input is of integers (tokens): it has no neutral value such as one.

    Source:
        Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow",
        NeurIPS 2020 (arXiv:2006.05467), equation 6.
    """
    paper = conformance == "paper"
    dtype = dtype or (torch.float64 if paper else next(iter(weights.values())).dtype)
    kept = {id(weights[name]): mask for name, mask in (masks or {}).items()}
    tensors = _linearized(module, kept, dtype, paper)
    own_names = {id(parameter): name for name, parameter in module.named_parameters()}
    scored = {name: tensors[own_names[id(weight)]].requires_grad_() for name, weight in weights.items()}
    arguments, keywords = _ones_like(inputs, dtype)
    with left_as_found(module, False, parameters=False), _NormsScale() if paper else nullcontext():
        outputs = functional_call(module, tensors, arguments, keywords)
        flow = _total(outputs)
        gradients = torch.autograd.grad(flow, list(scored.values()), allow_unused=True)
    return {
        name: _saliencies_(tensor.detach(), gradient)
        for (name, tensor), gradient in zip(scored.items(), gradients, strict=True)
    }


def _inputs_of_shape(shape: Sequence[int], device: torch.device) -> Tensor:
    """Return an input of one item, without memory for its values."""
    return torch.empty((), device=device).expand(1, *shape)


def _linearized(
    module: nn.Module, kept: Mapping[int, Tensor], dtype: torch.dtype, paper: bool
) -> dict[str, Tensor]:
    """Return parameters and buffers for the pass: in ``dtype``, parameters without signs, zero if pruned."""
    tensors = {}
    for name, parameter in module.named_parameters():
        value = _magnitudes(parameter.detach(), kept.get(id(parameter)))
        if paper and "bias" in name.rpartition(".")[2].split("_"):
            value.zero_()
        tensors[name] = value.to(dtype)
    for name, buffer in module.named_buffers():
        value = buffer.detach().clone()  # a pass may change it in place
        if value.is_floating_point():
            value = value.to(dtype) if paper else value.to(dtype).abs()
        tensors[name] = value
    return tensors


def _magnitudes(weight: Tensor, mask: Tensor | None) -> Tensor:
    """Return new ``|w|``, zero if pruned; on the CPU by numpy, which takes half of torch's time."""
    if mask is None:
        return weight.abs()
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        return weight.abs().mul_(mask)
    return torch.from_numpy(np.abs(weight.numpy()) * mask.numpy())


def _saliencies_(weight: Tensor, gradient: Tensor | None) -> Tensor:
    """Make of ``|w|`` the scores ``|dR/dw * w|``."""
    if gradient is None:
        return weight.mul_(0)
    for w, g in in_pieces(weight, gradient):
        w.mul_(g).abs_()  # not into the gradient, which two weights may share
    return weight


def _ones_like(inputs: Any, dtype: torch.dtype) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments of ones, for a batch of one."""

    def ones(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.bool:
            return tensor[:1] if tensor.ndim else tensor
        if not tensor.is_floating_point():
            raise SparsityError(
                "SynFlow needs an input that can be all ones, got integers (tokens). Set the module's "
                "`example_input_array` to embeddings that its forward takes, or use another method (`snip`)."
            )
        return torch.ones(tensor[:1].shape if tensor.ndim else (), dtype=dtype, device=tensor.device)

    prepared = tree_map_only(Tensor, ones, inputs)
    if isinstance(prepared, dict):
        return (), prepared
    return (tuple(prepared) if isinstance(prepared, tuple | list) else (prepared,)), {}


class _NormsScale(TorchFunctionMode):
    """Normalisation functions scale by their weight and variance, and do nothing else, for a while.

    Layers need not be known: whoever calls ``torch.nn.functional`` is meant.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in _NORMS:
            return func(*args, **(kwargs or {}))
        return _scaled(func, **signature(func).bind(*args, **(kwargs or {})).arguments)


_NORMS = (F.batch_norm, F.group_norm, F.instance_norm, F.layer_norm, F.rms_norm)


def _scaled(func: Callable[..., Any], input: Tensor, weight: Tensor | None = None, **others: Any) -> Tensor:  # noqa: A002 - torch's name
    per_channel = func not in (F.layer_norm, F.rms_norm)  # these two scale the last dimensions
    for_channels = (-1, *[1] * (input.ndim - 2))
    scaled = input if weight is None else input * (weight.view(for_channels) if per_channel else weight)
    if func is F.batch_norm and others["running_var"] is not None:
        scaled = scaled / torch.sqrt(others["running_var"] + others.get("eps", 1e-5)).view(for_channels)
    return scaled


def _total(outputs: Any) -> Tensor:
    """Return the sum over all real outputs of the net, in whatever structure they come."""
    found = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not any(leaf.requires_grad for leaf in found):
        raise SparsityError(
            "SynFlow needs an output of real numbers that depends on the weights, got "
            f"{type(outputs).__name__} from the net. Return a tensor, tuple or dict, without `no_grad`, or "
            "choose another method (`snip`)."
        )
    return torch.stack([leaf.sum() for leaf in found]).sum()
