"""The net with linear layers that PyTorch multiplies sparsely on a CPU."""

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.checks import check_count
from lightning_sparse.export.base import ExportFormat, register_format
from lightning_sparse.export.calls import Call, call_of
from lightning_sparse.export.same import check_outputs
from lightning_sparse.export.timing import ratio_of_times
from lightning_sparse.layers.dense_state import dense_state_dict
from lightning_sparse.selection import plain_name

__all__ = ["SparseRows"]

_FASTER = 0.9  # shares of the dense time from which on it is not worth while, nor told from noise
_DENSE = 0.5  # density from which on nothing is measured
_NUMBERS = (torch.float32, torch.float64)


@register_format
@dataclass(frozen=True)
class SparseRows(ExportFormat):
    """A state dict for CPUs: linear weights in PyTorch's CSR layout, where that was measured to be faster.

    Each linear layer is timed at the input that it gets for ``example_input``, as dense and as sparse, on
    this machine and with the threads that PyTorch uses. So take an input with as many items as will come
    together.

    Args:
        rounds: How often each layer is timed.
        example_input: What the net is called with.
    """

    name = "csr"
    suffix = ".csr.pt"
    loading = (
        "net.load_state_dict(torch.load({path!r}), assign=True)\n"
        "net.eval()  # and call it under torch.no_grad(): inference_mode cannot multiply CSR"
    )

    rounds: int = field(default=7, metadata={"help": "how often each layer is timed"})
    example_input: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds)

    def write(self, module: nn.Module, path: Path) -> list[str]:
        """Time the layers, save the state dict, load it, and compare outputs with those of the net."""
        *_, call = call_of(module, self.example_input).samples(larger=False)
        state = dense_state_dict(call.whole)
        threads = torch.get_num_threads()
        where = f"{threads} thread{'s' * (threads != 1)}"
        said = [f"Time of linear layers as CSR, as a share of dense, measured on {where}:"]
        sparse, taken = copy.deepcopy(call.whole), 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch calls CSR a beta, and says how it reads such files
            for name, layer, rows in _timed_layers(call):
                weight = _as_csr(layer.weight.detach())
                if self._pays(name, layer, weight, rows, said) and _takes_(sparse, call, name, weight, said):
                    old = state[f"{name}.weight" if name else "weight"]  # a layer may have several names
                    state |= {key: weight for key, value in state.items() if value is old}
                    taken += 1
            torch.save(state, path)
            sparse = copy.deepcopy(call.whole)
            sparse.load_state_dict(torch.load(path), assign=True)
        net = sparse.get_submodule(call.path)
        reference = call_of(module, self.example_input, dense=False).net
        check_outputs(call.samples(), reference, lambda one: one(net), self.name)
        if not taken:
            said.append("  No layer is faster as CSR: all weights are written densely.")
        else:
            ratio = ratio_of_times(
                lambda: net(*call.args, **call.kwargs),  # `call` itself has more to do
                lambda: call.net(*call.args, **call.kwargs),
                self.rounds,
            )
            said.append(f"  the whole net: {ratio:.2f}")
        return said

    def _pays(self, name: str, layer: nn.Linear, weight: Tensor, rows: Tensor, said: list[str]) -> bool:
        """Time a layer with a sparse weight beside the dense one."""
        sparse = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        sparse.weight, sparse.bias = nn.Parameter(weight, requires_grad=False), layer.bias
        sizes = f"{layer.in_features} to {layer.out_features}, density {_density(layer.weight):.2%}"
        what = f"  {name or 'the layer'}: {sizes}"
        try:
            ratio = ratio_of_times(lambda: sparse(rows), lambda: layer(rows), self.rounds)
        except RuntimeError as error:  # some builds of PyTorch and some shapes of inputs have no such product
            said.append(f"{what}: dense; PyTorch has no such product here ({type(error).__name__})")
            return False
        pays, count = ratio < _FASTER, rows[..., 0].numel()
        said.append(f"{what}, {count} row{'s' * (count != 1)}: {ratio:.2f}{'' if pays else ', stays dense'}")
        return pays


def _timed_layers(call: Call) -> Iterator[tuple[str, nn.Linear, Tensor]]:
    """Yield the linear layers with enough zeros, and the input that each gets."""
    owners: dict[int, int] = {}
    for part in call.whole.modules():
        for parameter in part._parameters.values():
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    layers = {plain_name(path): part for path, part in call.whole.named_modules() if type(part) is nn.Linear}
    inputs: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, given: tuple[Any, ...]) -> None:
        if given and name not in inputs:
            inputs[name] = given[0].detach().clone()

    hooks = [layer.register_forward_pre_hook(partial(keep, name)) for name, layer in layers.items()]
    call()
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        fits = layer.weight.dtype in _NUMBERS and owners[id(layer.weight)] == 1 and name in inputs
        if fits and _density(layer.weight) < _DENSE:
            yield name, layer, inputs[name]


def _takes_(sparse: nn.Module, call: Call, name: str, weight: Tensor, said: list[str]) -> bool:
    """Give a layer of a copy a sparse weight, unless the net does more with it than to call the layer."""
    layer = next(part for path, part in sparse.named_modules() if plain_name(path) == name)
    before, layer.weight = layer.weight, nn.Parameter(weight, requires_grad=False)
    try:
        call(sparse.get_submodule(call.path))
    except RuntimeError:
        layer.weight = before
        said.append(f"  {name} stays dense all the same: the net has another use for its weight")
        return False
    return True


def _density(weight: Tensor) -> float:
    return int(weight.count_nonzero()) / max(1, weight.numel())


def _as_csr(weight: Tensor) -> Tensor:
    """Return a weight in CSR layout with positions of 32 bits, which are half as long and faster."""
    csr = weight.to_sparse_csr()
    if csr.values().numel() >= 2**31:
        return csr
    rows, columns = csr.crow_indices().int(), csr.col_indices().int()
    return torch.sparse_csr_tensor(rows, columns, csr.values(), weight.shape, check_invariants=False)
