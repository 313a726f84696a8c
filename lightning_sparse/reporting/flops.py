"""FLOPs of a net at an input: dense ones as torch counts them, and which of them each weight has a part in.

Two per multiply-add, as `torch.utils.flop_counter` counts. The net is counted as its dense twin: of masked
weights the whole, of compact layers the ordinary ones. What sparsity saves of it is theory.
"""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from lightning_sparse.checks import SparsityError, check_counts, first_line
from lightning_sparse.reporting.products import Flops, ProductCounter, WeightFlops
from lightning_sparse.reporting.twins import dense_twin
from lightning_sparse.selection import parameters_by_name
from lightning_sparse.trainer.parts import called_net
from lightning_sparse.trainer.randomness import rng_state, set_rng_state

__all__ = ["ExampleInput", "FlopCount", "NetFlops", "count_flops", "input_of_size"]

ExampleInput: TypeAlias = Any
"""A tensor, a tuple of arguments or a dict of them by name, as Lightning's ``example_input_array``."""


@dataclass(frozen=True)
class NetFlops:
    """FLOPs of a whole net, two per multiply-add, at one input.

    Attributes:
        dense: Of the dense net, by torch's own counter.
        sparse: The same in theory: products with sparse weights by density, all else as it is; ``None`` where
            densities are not known yet.
        inputs: Shapes of the input.
        unknown: What is in neither, since the counter does not know it; "" if there is nothing.
    """

    dense: Flops
    sparse: Flops | None
    inputs: str
    unknown: str

    def __str__(self) -> str:
        lines = [
            f"FLOPs of the whole net, input {self.inputs}, two per multiply-add; dense: counted by torch, "
            "sparse: theory.",
            self._in_words(),
        ]
        if self.unknown:
            lines.append(f"In none of these: {self.unknown} (not run, or unknown to torch's counter).")
        return "\n".join(lines)

    def _in_words(self) -> str:
        forward, training = (
            (None, None) if self.sparse is None else (self.sparse.forward, self.sparse.training)
        )
        words = f"Forward: {_pair(self.dense.forward, forward)}."
        if self.dense.training is not None:
            words += f" With backward: {_pair(self.dense.training, training)}."
        return words


def _pair(dense: float, sparse: float | None) -> str:
    return f"{dense:,.0f} dense, {'sparse by score' if sparse is None else f'{sparse:,.0f} sparse'}"


@dataclass(frozen=True)
class FlopCount:
    """What was counted.

    Args:
        total: All of it, by torch's own counter.
        weights: What each weight has a part in, by name.
        inputs: Shapes of the input, in words.
        unknown: What the counter does not know, in words; "" if there is nothing.
    """

    total: Flops
    weights: Mapping[str, WeightFlops]
    inputs: str
    unknown: str

    def net(self, sparse: Mapping[str, Flops] | None) -> NetFlops:
        """Return the FLOPs of the net, given those of its sparse weights in theory."""
        if sparse is None:
            return NetFlops(self.total, None, self.inputs, self.unknown)
        forward, training = self.total.forward, self.total.training
        for name, flops in sparse.items():
            dense = self.weights[name].scaled(1.0)
            forward += flops.forward - dense.forward
            if training is not None:
                training += (flops.training or 0.0) - (dense.training or 0.0)
        return NetFlops(self.total, Flops(forward, training), self.inputs, self.unknown)


def count_flops(
    module: nn.Module, inputs: ExampleInput, names: Collection[str], argument: str = "example_input"
) -> FlopCount:
    """Count a forward and a backward pass of a module's dense twin, in eval mode.

    On the meta device, where only shapes are computed; where that fails, because what is computed depends on
    values, on a copy with numbers. The module and all random states stay as they are.

    Args:
        module: Any module. A LightningModule without ``forward`` is counted as the child with these weights.
        inputs: What is passed to it.
        names: The weights to tell apart.
        argument: What the input is called in an error.

    Raises:
        SparsityError: If neither copy can be made and run, or nobody knows what to call.
    """
    before = rng_state()
    try:
        try:
            return _count(dense_twin(module, on_meta=True), torch.device("meta"), inputs, names)
        except Exception:  # whatever a net raises that asks for values, or for a device
            device = next((p.device for p in module.parameters()), torch.device("cpu"))
            return _count(dense_twin(module, on_meta=False), device, inputs, names)
    except SparsityError:
        raise
    except Exception as error:
        way_out = "Give its whole size" if argument == "input_size" else "Give a tensor, a tuple or a dict"
        raise SparsityError(
            f"`{argument}` must be what the net takes, got {_in_words(inputs)}, which ends in "
            f"{type(error).__name__}: {first_line(error)}. {way_out}."
        ) from error
    finally:
        set_rng_state(before)


def _count(twin: nn.Module, device: torch.device, inputs: Any, names: Collection[str]) -> FlopCount:
    there = parameters_by_name(twin)
    found = ((name, there.get(name.removeprefix("."))) for name in names)  # "." of a bare compact layer
    weights = {name: weight for name, weight in found if weight is not None}
    net = called_net(twin, weights.values(), "count a child alone")
    given = tree_map_only(Tensor, lambda tensor: tensor.detach().to(device), inputs)
    products, counter = ProductCounter(weights), FlopCounterMode(display=False)
    with _counted_as_products(), torch.enable_grad(), products, counter:
        out = net(**given) if isinstance(given, dict) else net(*given) if _is_several(given) else net(given)
        forward, products.backward = counter.get_total_flops(), True
        ends = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.requires_grad]
        problem = _backward(ends)
    training = counter.get_total_flops() if ends and not problem else None
    missed = products.missed([name for name in names if name not in weights])
    unknown = ", ".join([*missed, *([problem] if problem else [])])
    return FlopCount(Flops(forward, training), products.found, _in_words(inputs), unknown)


def _backward(ends: Sequence[Tensor]) -> str:
    """Run backward, and say in words what goes wrong: the forward pass has been counted already."""
    try:
        if ends:
            torch.autograd.backward(ends, [torch.ones_like(end) for end in ends])
    except Exception as error:  # whatever a function of the user's own raises
        return f"the backward pass, which ends in {type(error).__name__}"
    return ""


def input_of_size(module: nn.Module, size: Sequence[int]) -> Tensor:
    """Return zeros of a shape, the batch's size first, in the type of a module's parameters.

    Raises:
        SparsityError: If the shape is none.
    """
    check_counts("input_size", size, hint="It is a shape, the batch's size first.")
    numbers = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
    kinds = [p.dtype for p in numbers if p.dim() > 1] + [p.dtype for p in numbers]
    return torch.zeros(tuple(size), dtype=next(iter(kinds), None))


def _is_several(inputs: Any) -> bool:
    return isinstance(inputs, tuple | list)


def _in_words(inputs: Any) -> str:
    """Say what an input is: the shapes of its tensors.

    >>> _in_words((torch.zeros(1, 3), torch.zeros(2)))
    '1 x 3, 2'
    """
    leaves = tree_leaves(inputs)
    shapes = (
        " x ".join(map(str, t.shape)) if t.dim() else "a number" for t in leaves if isinstance(t, Tensor)
    )
    return ", ".join(shapes) or type(inputs).__name__


@contextmanager
def _counted_as_products() -> Iterator[None]:
    """Keep torch from fusing what its counter does not know: attention, encoder layers, compiled nets."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as undo:
        undo.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # what there is to warn of is said when the net itself runs
        undo.enter_context(sdpa_kernel(SDPBackend.MATH))
        undo.enter_context(torch.compiler.set_stance("force_eager"))
        yield
