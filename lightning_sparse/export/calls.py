"""Nets that are called while they are exported: dense copies, inputs, and the comparison of outputs."""

import math
import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lightning_sparse.checks import SparsityError, first_line
from lightning_sparse.layers import to_dense_
from lightning_sparse.trainer.packages import LightningModule, is_lightning
from lightning_sparse.trainer.parts import callable_net

__all__ = ["Call", "call_of", "check_outputs", "program_of"]

_TOLERANCE = 1e-5
_OTHER_BATCH = 3
_FIXED = "The batch size is part of the net: the file takes {} items at a time."
_WAY_OUT = "Export a child that can be, or use the format 'safetensors' or 'dense'."


@dataclass(frozen=True)
class Call:
    """A net and what it is called with.

    Args:
        whole: The module that was to be exported: a copy on the CPU, in eval mode.
        net: What of it is called, mostly all of it.
        args: Positional arguments.
        kwargs: Arguments by name.
    """

    whole: nn.Module
    net: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, net: Callable[..., Any] | None = None) -> list[Tensor]:
        """Return the tensors that the net, or another one, returns."""
        with torch.no_grad():
            out = (net or self.net)(*self.args, **self.kwargs)
        return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]

    @property
    def batch(self) -> int | None:
        """First size of the first argument; ``None`` if it has none."""
        tensors = [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]
        return tensors[0].shape[0] if tensors and tensors[0].dim() else None

    def of_batch(self, size: int) -> "Call":
        """Return the call with so many items, those that there are over and over."""
        batch = self.batch

        def sized(leaf: Any) -> Any:
            is_batched = isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == batch
            return leaf[torch.arange(size) % max(1, len(leaf))] if is_batched else leaf

        return self if batch is None else self._map(sized)

    def random(self) -> "Call":
        """Return the call with random numbers in the place of what may be zeros; integers stay."""
        draws = torch.Generator().manual_seed(0)

        def drawn(leaf: Any) -> Any:
            is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
            return torch.randn(leaf.shape, generator=draws).to(leaf.dtype) if is_float else leaf

        return self._map(drawn)

    def _map(self, function: Callable[[Any], Any]) -> "Call":
        return replace(self, args=tree_map(function, self.args), kwargs=tree_map(function, self.kwargs))


def _eval_copy(module: nn.Module, dense: bool = True) -> nn.Module:
    """Return a copy of a module on the CPU, in eval mode.

    Args:
        module: Any module; left as it is. Its Trainer is not copied.
        dense: Whether compact layers become ordinary ones.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for trainer in (vars(part).get("_trainer"), vars(part).get("_fabric")):
            if trainer is not None:
                memo[id(trainer)] = None
    try:
        holder = nn.ModuleList([deepcopy(module, memo)])  # a bare compact layer has to be held by something
    except Exception as error:  # whatever copying an attribute raises
        raise SparsityError(
            f"`module` must be one that can be copied, got {type(module).__name__}, which ends in "
            f"{type(error).__name__}: {first_line(error)}. Export a child, or load the checkpoint anew."
        ) from error
    if dense:
        to_dense_(holder)
    return holder[0].cpu().requires_grad_(False).eval()


def call_of(module: nn.Module, example_input: Any, dense: bool = True) -> Call:
    """Return a copy of a net with what it is called with.

    Args:
        module: A LightningModule without ``forward`` is exported as the child that holds its weights.
        example_input: A tensor, a tuple of arguments, or a dict of them by name; ``None``: the module's
            ``example_input_array``.
        dense: Whether compact layers become ordinary ones.

    Raises:
        SparsityError: If nobody knows an input, or the net cannot be called with it.
    """
    own = getattr(module, "example_input_array", None) if example_input is None else example_input
    if own is None:
        raise SparsityError(
            "`example_input` must be given for a format that calls the net, got none. Pass what the net "
            "takes: a tensor, a tuple or a dict; or set the module's `example_input_array`."
        )
    copy = _eval_copy(module, dense)
    net: nn.Module | None = copy
    if is_lightning(copy, "core.LightningModule"):
        net = callable_net(cast(LightningModule, copy), copy.parameters())
    if net is None:
        raise SparsityError(
            f"`module` must have a `forward`, or one child that holds all its weights, got "
            f"{type(copy).__name__}. Give it a `forward`, or export a child alone."
        )
    given = tree_map(lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf, own)
    args = () if isinstance(given, dict) else tuple(given) if isinstance(given, tuple | list) else (given,)
    call = Call(copy, net, args, given if isinstance(given, dict) else {})
    try:
        call()
    except Exception as error:  # whatever a net raises
        raise SparsityError(
            f"`example_input` must be what the net takes, got {_in_words(call)}, which ends in "
            f"{type(error).__name__}: {first_line(error)}. Give a tensor, a tuple or a dict."
        ) from error
    return call


def program_of(call: Call, name: str) -> tuple[torch.export.ExportedProgram, list[Call], list[str]]:
    """Trace a net, with a batch of any size where the net allows it.

    Args:
        call: What to trace.
        name: Of the format, for errors.

    Returns:
        The program, calls to compare its outputs at, and what there is to say.

    Raises:
        SparsityError: If the net cannot be traced.
    """
    batch = call.batch
    try:
        if batch is not None:
            # Of one item it would be traced as for one item.
            program = _traced(call.of_batch(max(2, batch)), batch)
            if program.range_constraints:  # a size is free: no other than that of the batch was to be
                return program, [call.of_batch(size).random() for size in (batch, _OTHER_BATCH)], []
        said = [] if batch is None else [_FIXED.format(batch)]
        return _traced(call, None), [call.random()], said
    except Exception as error:  # whatever tracing stumbles over
        raise SparsityError(
            f"`module` must be a net that torch.export can trace, for the format {name!r}, got "
            f"{type(call.net).__name__}, which ends in {type(error).__name__}: {first_line(error)}. "
            f"{_WAY_OUT}"
        ) from error


def check_outputs(
    calls: Iterable[Call], reference: nn.Module, run: Callable[[Call], list[Tensor]], name: str
) -> None:
    """Compare what a file computes with the net that it was written of.

    Args:
        calls: At which inputs.
        reference: The net.
        run: Runs what the file holds.
        name: Of the format, for errors.

    Raises:
        SparsityError: If an output differs by more than 1e-5 of the largest, or than rounding in half
            precision.
    """
    for call in calls:
        expected = call(reference)
        try:
            got = run(call)
        except Exception as error:  # whatever the other program raises
            raise SparsityError(
                f"`module` must run as {name!r}, and ends in {type(error).__name__}: {first_line(error)}; no "
                f"file was written. {_WAY_OUT}"
            ) from error
        if not all(_is_close(*pair) for pair in zip_longest(expected, got)):
            off = max(
                (_difference(one, other) for one, other in zip(expected, got, strict=False)), default=math.inf
            )
            raise SparsityError(
                f"`module` must have the same outputs as {name!r}, got some that differ by {off:.2g} at an "
                f"input of {_in_words(call)}; no file was written. {_WAY_OUT}"
            )


def _is_close(one: Tensor | None, other: Tensor | None) -> bool:
    """Tell whether outputs are the same but for rounding."""
    if one is None or other is None:
        return False
    limit = max(_TOLERANCE, 4 * torch.finfo(one.dtype).eps) if one.is_floating_point() else 0.0
    finite = one[one.isfinite()].double().abs()
    return _difference(one, other) <= limit * max(1.0, float(finite.max()) if finite.numel() else 1.0)


def _difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors; none where both are NaN or the same infinity."""
    if one.shape != other.shape:
        return math.inf
    same = (one == other) | (one.isnan() & other.isnan())
    off = (one.double() - other.double()).abs().nan_to_num(math.inf).masked_fill(same, 0)
    return float(off.max()) if off.numel() else 0.0


def _traced(call: Call, batch: int | None) -> torch.export.ExportedProgram:
    length = call.batch

    def dims(leaf: Any) -> Any:
        is_batched = isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == length
        return {0: torch.export.Dim.AUTO} if batch is not None and is_batched else None

    given: Any = call.kwargs or call.args
    shapes = None if batch is None else tree_map(dims, given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how torch traces, which nobody can change
        return torch.export.export(call.net, call.args, call.kwargs, dynamic_shapes=shapes)


def _in_words(call: Call) -> str:
    tensors = [leaf for leaf in tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Tensor)]
    return ", ".join(" x ".join(map(str, tensor.shape)) or "a number" for tensor in tensors) or "no tensor"
