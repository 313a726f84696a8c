"""Nets that are called while they are exported: copies of them, and what they are called with."""

import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map

from lightning_sparse.checks import SparsityError, first_line
from lightning_sparse.layers import to_dense_
from lightning_sparse.trainer.parts import called_net

__all__ = ["WAY_OUT", "Call", "call_of", "copied_call", "program_of"]

WAY_OUT = "Export a child that can be, or use the format 'safetensors' or 'dense'."
_FIXED = (
    "The file takes {} items at a time: torch.export finds no program of this net for batches of any size."
)


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
        """Return the tensors that the net, or another one, returns; random draws are always alike."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # not `torch.manual_seed`, which seeds GPUs too
            out = (net or self.net)(*self.args, **self.kwargs)
        return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]

    def __str__(self) -> str:
        """Return the shapes of all tensors, as ``1 x 3 x 224 x 224``."""
        shapes = (" x ".join(map(str, tensor.shape)) or "a number" for tensor in self._tensors())
        return ", ".join(shapes) or "no tensor"

    @property
    def path(self) -> str:
        """Name of what is called in the whole module; "" for the module itself."""
        return next((name for name, part in self.whole.named_modules() if part is self.net), "")

    @property
    def batch(self) -> int | None:
        """First size of the first argument; ``None`` if it has none."""
        first = next(self._tensors(), None)
        return len(first) if first is not None and first.dim() else None

    def of_batch(self, size: int) -> "Call":
        """Return the call with so many items, those that there are over and over."""
        batch = self.batch

        def sized(leaf: Any) -> Any:
            is_batched = isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == batch
            return leaf[torch.arange(size) % max(1, len(leaf))] if is_batched else leaf

        return self if batch is None else self._map(sized)

    def random(self, seed: int = 0) -> "Call":
        """Return the call with random numbers in the place of what may be zeros; integers stay."""
        draws = torch.Generator().manual_seed(seed)

        def drawn(leaf: Any) -> Any:
            is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
            return torch.randn(leaf.shape, generator=draws).to(leaf.dtype) if is_float else leaf

        return self._map(drawn)

    def samples(self, count: int = 1, larger: bool = True) -> Iterator["Call"]:
        """Yield the call, and what the net takes of others: random numbers, and a larger batch."""
        yield self
        others = [self.random(seed) for seed in range(count)]
        if larger and self.batch is not None:
            others.append(self.of_batch(self.batch + 2).random(count))
        for other in others:
            try:
                other()
            except Exception:  # whatever a net raises that takes one size of the batch, or not all numbers
                continue
            yield other

    def to(self, dtype: torch.dtype) -> "Call":
        """Return a call of a copy, all of whose floating-point numbers are of a type."""

        def cast_(leaf: Any) -> Any:
            return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

        whole = deepcopy(self.whole).to(dtype)
        return replace(self._map(cast_), whole=whole, net=whole.get_submodule(self.path))

    def check(self, argument: str) -> None:
        """Call the net.

        Raises:
            SparsityError: If it raises anything; names the argument that the input is from.
        """
        try:
            self()
        except Exception as error:  # whatever a net raises
            raise SparsityError(
                f"`{argument}` must be what the net takes, got {self}, which ends in "
                f"{type(error).__name__}: {first_line(error)}. Give one like those that it was trained with."
            ) from error

    def _tensors(self) -> Iterator[Tensor]:
        return (leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor))

    def _map(self, function: Callable[[Any], Any]) -> "Call":
        return replace(self, args=tree_map(function, self.args), kwargs=tree_map(function, self.kwargs))


def call_of(module: nn.Module, example_input: Any, dense: bool = True) -> Call:
    """Return a copy of a net with what it is called with, once it has been called with it.

    Args:
        module: A LightningModule without ``forward`` is exported as the child that holds its weights.
        example_input: A tensor, a tuple of arguments, or a dict of them by name; ``None``: the module's
            ``example_input_array``.
        dense: Whether compact layers become ordinary ones.

    Raises:
        SparsityError: If nobody knows an input, the net cannot be called with it, or has no values yet.
    """
    call, argument = copied_call(module, example_input, dense)
    call.whole.requires_grad_(False)
    call.check(argument)
    return call


def copied_call(module: nn.Module, example_input: Any, dense: bool = True) -> tuple[Call, str]:
    """Return a call as `call_of` does, not yet tried, and the name of what its input is from."""
    own = getattr(module, "example_input_array", None) if example_input is None else example_input
    if own is None:
        raise SparsityError(
            "`example_input` must be given for a format that calls the net, got none. Pass what the net "
            "takes: a tensor, a tuple or a dict; or set the module's `example_input_array`."
        )
    copy = _eval_copy(module, dense)
    net = called_net(copy, copy.parameters(), "export a child alone")
    given = tree_map(lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf, own)
    args = () if isinstance(given, dict) else tuple(given) if isinstance(given, tuple | list) else (given,)
    call = Call(copy, net, args, given if isinstance(given, dict) else {})
    return call, "example_input_array" if example_input is None else "example_input"


def _eval_copy(module: nn.Module, dense: bool) -> nn.Module:
    """Return a copy of a module on the CPU, in eval mode.

    Args:
        module: Any module; left as it is. Lightning copies no Trainer with it.
        dense: Whether compact layers become ordinary ones.
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            raise SparsityError(
                f"`module` must have values, got {name!r} without (lazy, or on the meta device). Run it "
                "once, or load a checkpoint."
            )
    try:
        holder = nn.ModuleList([deepcopy(module)])  # a bare compact layer has to be held by something
    except Exception as error:  # whatever copying an attribute raises
        raise SparsityError(
            f"`module` must be one that can be copied, got {type(module).__name__}, which ends in "
            f"{type(error).__name__}: {first_line(error)}. Export a child, load the checkpoint anew, or make "
            "computed weights plain ones by `torch.nn.utils.prune.remove` and its like."
        ) from error
    if dense:
        to_dense_(holder)
    return holder[0].cpu().eval()


def program_of(call: Call, name: str) -> tuple[torch.export.ExportedProgram, list[Call], list[str]]:
    """Trace a net, with a batch of any size where that is possible.

    Args:
        call: What to trace.
        name: Of the format, for errors.

    Returns:
        The program, calls to compare its outputs at, and what there is to say.

    Raises:
        SparsityError: If the net cannot be traced.
    """
    batch = call.batch
    if batch is not None:
        try:
            # Of one item it would be traced as for one item.
            program = _traced(call.of_batch(max(2, batch)), batch_is_free=True)
            if program.range_constraints:  # a size is free: no other than that of the batch was to be
                return program, list(call.samples()), []
        except Exception:  # of a net that takes one size only, or that cannot be traced at all: see below
            pass
    try:
        said = [] if batch is None else [_FIXED.format(batch)]
        return _traced(call, batch_is_free=False), list(call.samples(larger=False)), said
    except Exception as error:  # whatever tracing stumbles over
        raise SparsityError(
            f"`module` must be a net that torch.export can trace, for the format {name!r}, got "
            f"{type(call.net).__name__}, which ends in {type(error).__name__}: {first_line(error)}. "
            f"{WAY_OUT}"
        ) from error


def _traced(call: Call, batch_is_free: bool) -> torch.export.ExportedProgram:
    length = call.batch

    def dims(leaf: Any) -> Any:
        is_batched = isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == length
        return {0: torch.export.Dim.AUTO} if is_batched else None

    shapes = tree_map(dims, call.kwargs or call.args) if batch_is_free else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how torch traces, which nobody can change
        return torch.export.export(call.net, call.args, call.kwargs, dynamic_shapes=shapes)
