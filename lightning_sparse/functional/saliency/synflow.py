"""SynFlow: how much of what flows through the net passes a weight, without data."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map_only

from lightning_sparse.checks import SparsityError, check_choice, check_count, first_line
from lightning_sparse.functional.isolation import left_as_found
from lightning_sparse.functional.ranking import in_pieces
from lightning_sparse.functional.saliency.base import Conformance, PruningProblem, Ranking, register_method
from lightning_sparse.functional.saliency.flow import FlowOnly
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

    Biases and shifts contribute nothing: parameters that are added and not scored, whatever their names.
    Buffers act as they are, those that are added, such as the shifts of ``FrozenBatchNorm2d``, included.
    Norms only scale: batch norm by ``|gamma| / sqrt(var + eps)``, the others by ``|gamma|``, since they would
    turn an input of ones into zeros.

    Args:
        module: The net; not changed.
        weights: The weights scored, parameters of ``module``, under any names.
        inputs: An input of the net: a tensor of shape ``(batch, ...)``, a tuple of arguments or a dict of
            them. Only shape and device of real tensors matter; those of integers beside them, such as
            lengths, stay as they are. The batch is cut to one.
        masks: Masks of earlier iterations; what they prune scores 0.
        conformance: ``"reference"``: absolute values of everything in the state dict, biases and running
            means too, and norms as they are, as the authors' code has it.
        dtype: Type to compute in. ``None``: float64, as deep nets overflow float32, or float32 for nets that
            fail in float64, as they cast to float32 inside; the weights' own with
            ``conformance="reference"``.

    Raises:
        SparsityError: If all inputs are of integers (tokens), which have no neutral value such as one, if the
            net cannot be called with ones, or if it overflows.

    Source:
        Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow",
        NeurIPS 2020 (arXiv:2006.05467), equation 6.
    """
    own = next(iter(weights.values())).dtype
    if dtype is not None or conformance == "reference" or own == torch.float64:
        return _scores(module, weights, inputs, masks, conformance, dtype or own)
    try:
        return _scores(module, weights, inputs, masks, conformance, torch.float64)
    except SparsityError as in_double:
        if in_double.__cause__ is None:  # not the net's own error
            raise
        # Perhaps the net casts to float32 inside.
        scores = _scores(module, weights, inputs, masks, conformance, torch.float32)
        if not all(bool(score.sum().isfinite()) for score in scores.values()):
            raise SparsityError(
                f"SynFlow overflows in float32, and in float64 it cannot work. {in_double}"
            ) from in_double
        return scores


def _scores(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    inputs: Any,
    masks: Masks | None,
    conformance: Conformance,
    dtype: torch.dtype,
) -> Scores:
    """Do as `synflow`, in one dtype."""
    paper = conformance == "paper"
    kept = {id(weights[name]): mask for name, mask in (masks or {}).items()}
    scored_ids = {id(weight) for weight in weights.values()}
    tensors = _linearized(module, kept, dtype, paper, scored_ids)
    own_names = {id(parameter): name for name, parameter in module.named_parameters()}
    scored = {name: tensors[own_names[id(weight)]].requires_grad_() for name, weight in weights.items()}
    arguments, keywords = _ones_like(inputs, dtype)
    flow_only = FlowOnly(tensors[name] for name in own_names.values()) if paper else nullcontext()
    explained = _explained(module, arguments, keywords)
    with left_as_found(module, False, parameters=False), explained, flow_only:
        outputs = functional_call(module, _by_place(module, tensors), arguments, keywords, tie_weights=False)
        flow = _total(outputs)
        gradients = torch.autograd.grad(flow, list(scored.values()), allow_unused=True)
    return {
        name: _saliencies_(tensor.detach(), gradient)
        for (name, tensor), gradient in zip(scored.items(), gradients, strict=True)
    }


@contextmanager
def _explained(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Iterator[None]:
    """Say of an error in a forward of others what it was called with, and what else can be done."""
    try:
        yield
    except (SparsityError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever others wrote
        values = [_described(value) for value in arguments]
        values += [f"{name}={_described(value)}" for name, value in keywords.items()]
        given = shorten(", ".join(values), 200)
        raise SparsityError(
            f"SynFlow called `forward` of {type(module).__name__} with ones in the shape of the data, "
            f"{given}, and it failed: {first_line(error)}. Set `input_shape`, or the module's "
            "`example_input_array` to all that its forward takes (a tuple, or a dict by keyword), or choose "
            "another method (`snip`, `erk`)."
        ) from error


def _described(value: Any) -> str:
    """Return shape and type of a tensor, or of those in a list or dict."""
    described = tree_map_only(Tensor, lambda t: _Plain(f"{tuple(t.shape)} {str(t.dtype)[6:]}"), value)
    return str(described)


class _Plain(str):
    """A text that is shown without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _inputs_of_shape(shape: Sequence[int], device: torch.device) -> Tensor:
    """Return an input of one item, without memory for its values."""
    return torch.empty((), device=device).expand(1, *shape)


def _linearized(
    module: nn.Module, kept: Mapping[int, Tensor], dtype: torch.dtype, paper: bool, scored: Collection[int]
) -> dict[str, Tensor]:
    """Return parameters and buffers for the pass: in ``dtype``, parameters without signs, zero if pruned.

    Biases are found by their use (`FlowOnly`); recurrent layers and attention add theirs out of its sight.
    """
    tensors = {}
    for name, parameter in module.named_parameters():
        value = _magnitudes(parameter.detach(), kept.get(id(parameter)))
        is_named_bias = "bias" in name.rpartition(".")[2].split("_") and id(parameter) not in scored
        if paper and is_named_bias:
            value.zero_()
        tensors[name] = value.to(dtype)
    for name, buffer in module.named_buffers():
        value = buffer.detach().clone()  # a pass may change it in place
        if value.is_floating_point():
            value = value.to(dtype) if paper else value.to(dtype).abs()
        tensors[name] = value
    return tensors


def _by_place(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under a name for each place that holds one; of what is shared, names are one only.

    `functional_call` would find the other places itself (``tie_weights``), but a module that has two names it
    would find twice, and not give it back the parameters that it had.
    """
    held = chain(module.named_parameters(), module.named_buffers())
    new = {id(old): tensors[name] for name, old in held}
    places: dict[str, Tensor] = {}
    for prefix, part in module.named_modules():  # each once
        once = {"recurse": False, "remove_duplicate": False}
        held = chain(part.named_parameters(prefix, **once), part.named_buffers(prefix, **once))
        places.update((name, new[id(old)]) for name, old in held)
    return places


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
    found = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    integers = [leaf for leaf in found if not leaf.is_floating_point() and leaf.dtype != torch.bool]
    if integers and not any(leaf.is_floating_point() for leaf in found):
        raise SparsityError(
            "SynFlow needs an input that can be all ones, got integers (tokens). Set the module's "
            "`example_input_array` to embeddings that its forward takes, or use another method (`snip`)."
        )

    def ones(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():  # masks, and lengths or indices beside the real input
            return tensor[:1] if tensor.ndim else tensor
        return torch.ones(tensor[:1].shape if tensor.ndim else (), dtype=dtype, device=tensor.device)

    prepared = tree_map_only(Tensor, ones, inputs)
    if isinstance(prepared, dict):
        return (), prepared
    return (tuple(prepared) if isinstance(prepared, tuple | list) else (prepared,)), {}


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
