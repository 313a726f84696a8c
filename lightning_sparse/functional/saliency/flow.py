"""What SynFlow makes of a net while it runs: norms only scale, and what is added to the flow is nothing."""

from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

__all__ = ["FlowOnly"]

_NORMS = (F.batch_norm, F.group_norm, F.instance_norm, F.layer_norm, F.rms_norm)

# Functions that add, by name, and which of their arguments are added: position and keyword.
_BOTH, _FIRST, _BIAS = ((0, "input"), (1, "other")), ((0, "input"),), ((2, "bias"),)
_ADDENDS: dict[str, tuple[tuple[int, str], ...]] = {
    **dict.fromkeys(("add", "sub", "subtract", "rsub", "__add__", "__radd__", "__sub__", "__rsub__"), _BOTH),
    **dict.fromkeys(("add_", "sub_", "__iadd__", "__isub__"), ((1, "other"),)),
    **dict.fromkeys(("addcmul", "addcdiv", "addmm", "addmv", "addbmm", "baddbmm"), _FIRST),
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d"), _BIAS),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _BIAS),
    "bilinear": ((3, "bias"),),
    "index_add": ((0, "input"), (3, "source")),
    "index_add_": ((3, "source"),),
    "scatter_add": ((0, "input"), (3, "src")),
    "scatter_add_": ((3, "src"),),
}

# Operators that write into what they are called on, by name.
_AUGMENTED = ("__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__", "__ipow__")

# Functions that take of other tensors the shape or type alone, by name.
_LIKE_OTHERS = ("expand_as", "reshape_as", "to", "type_as", "view_as")

# Functions that make constants, by name: of no tensor at all, or of the shape of one.
_CONSTANTS = ("arange", "eye", "full", "linspace", "ones", "scalar_tensor", "tensor", "zeros")
_CONSTANTS_LIKE = ("full_like", "ones_like", "zeros_like", "new_full", "new_ones", "new_zeros")


class FlowOnly(TorchFunctionMode):
    """For a while, normalisation scales by its weight and variance, and shifts are zero.

    Layers and names need not be known: whoever calls ``torch.nn.functional`` is meant, and a shift is a
    parameter, or what is computed of parameters alone, that is added to something else. Integers, such as
    indices, and constants that the net makes may take part in that. Where it multiplies, the same parameter
    acts as it is.

    Args:
        parameters: The tensors that the net computes with. Those that require a gradient are scored, and are
            no shifts.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        # By storage, as views are the same numbers. All stay alive: no other tensor may get their memory.
        self._of_parameters = {_storage(tensor): tensor for tensor in parameters if _storage(tensor)}
        self._constants: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _NORMS:
            return _scaled(func, **signature(func).bind(*args, **kwargs).arguments)
        name = getattr(func, "__name__", "")
        if name in _ADDENDS:
            args, kwargs = self._without_shifts(_ADDENDS[name], args, kwargs)
        result = func(*args, **kwargs)
        self._follow(name, args, kwargs, result)
        return result

    def _without_shifts(
        self, addends: tuple[tuple[int, str], ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Put zeros in the place of shifts; where all is of parameters nothing flows, and nothing is one."""
        new, by_name = list(args), dict(kwargs)
        if self._are_all_known(args, kwargs):
            return args, by_name
        for position, keyword in addends:
            if position < len(new) and self._is_shift(new[position]):
                new[position] = torch.zeros_like(new[position])
            elif keyword in by_name and self._is_shift(by_name[keyword]):
                by_name[keyword] = torch.zeros_like(by_name[keyword])
        return tuple(new), by_name

    def _follow(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """Note what is computed of parameters and constants alone, and forget what flow was written into."""
        if not isinstance(result, Tensor | None):
            return
        values = _real_tensors(args[:1] if name in _LIKE_OTHERS else (args, dict(kwargs)))
        if name in _CONSTANTS_LIKE or (name in _CONSTANTS and not values):
            _note(result, self._constants)
        elif not values:
            return
        elif all(map(self._is_known, values)):
            are_constants = not any(map(self._is_of_parameters, values))
            written = args[0] if name == "__setitem__" else result
            _note(written, self._constants if are_constants else self._of_parameters)
        elif _writes(name, kwargs):
            for known in (self._of_parameters, self._constants):
                known.pop(_storage(kwargs.get("out", args[0] if args else None)), None)

    def _is_shift(self, value: Any) -> bool:
        return self._is_of_parameters(value) and not value.requires_grad

    def _are_all_known(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        return all(map(self._is_known, _real_tensors((args, dict(kwargs)))))

    def _is_known(self, value: Tensor) -> bool:
        return _storage(value) in self._of_parameters or _storage(value) in self._constants

    def _is_of_parameters(self, value: Any) -> bool:
        return isinstance(value, Tensor) and _storage(value) in self._of_parameters


def _real_tensors(values: Any) -> list[Tensor]:
    """Return the tensors that are no integers or booleans."""
    leaves = (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
    return [leaf for leaf in leaves if leaf.is_floating_point() or leaf.is_complex()]


def _note(result: Tensor | None, known: dict[int, Tensor]) -> None:
    if result is not None and result.is_floating_point() and (storage := _storage(result)):
        known.setdefault(storage, result)


def _writes(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Tell whether a function writes into its first argument, or into ``out``."""
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name == "__setitem__" or name in _AUGMENTED or kwargs.get("out") is not None


def _storage(tensor: Any) -> int:
    """Return where a tensor's numbers are; 0 for tensors without a place of their own, as under ``vmap``."""
    if not isinstance(tensor, Tensor):
        return 0
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0


def _scaled(func: Callable[..., Any], input: Tensor, weight: Tensor | None = None, **others: Any) -> Tensor:  # noqa: A002 - torch's name
    per_channel = func not in (F.layer_norm, F.rms_norm)  # these two scale the last dimensions
    for_channels = (-1, *[1] * (input.ndim - 2))
    scaled = input if weight is None else input * (weight.view(for_channels) if per_channel else weight)
    if func is F.batch_norm and others["running_var"] is not None:
        scaled = scaled / torch.sqrt(others["running_var"] + others.get("eps", 1e-5)).view(for_channels)
    return scaled
