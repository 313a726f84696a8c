"""What a checkpoint says of a layer: its shape, and name and options of its offset, as a tensor of text.

Flat positions mean something in a weight of that shape only.

It is a tensor since files of weights often hold nothing else, and none of the module's buffers, which would
be sent between processes, averaged and moved.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

from lightning_sparse.checks import SparsityError, check_choice
from lightning_sparse.layers.offsets.base import OFFSETS, Offset

__all__ = [
    "OFFSET_KEY",
    "describes_offset",
    "offset_from_state",
    "offset_state",
    "offsets_in",
    "refuse_other_offset",
    "shape_from_state",
]

OFFSET_KEY = "_extra_state"
"""Its key in a state dict, after the layer's name: what PyTorch calls the result of ``get_extra_state``."""


def offset_state(offset: Offset, shape: torch.Size) -> Tensor:
    """Return a layer's shape and what its offset is, as far as that matters for it: a vector of uint8.

    >>> from lightning_sparse.layers.offsets.dct import DCTOffset
    >>> bytes(offset_state(DCTOffset("chw"), torch.Size((8, 4, 3, 3))).tolist())
    b'{"name": "dct", "patch_order": "chw", "shape": [8, 4, 3, 3]}'
    """
    text = json.dumps({"name": offset.name, **offset.options(shape), "shape": list(shape)})
    return torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")


def offset_from_state(state: Tensor) -> Offset:
    """Return the offset that `offset_state` described; options that did not matter have their defaults.

    Raises:
        SparsityError: If no offset of that name is registered, or the tensor describes none.
    """
    options, _ = _read_apart(state)
    name = options.pop("name")
    check_choice("offset", name, OFFSETS)
    return OFFSETS[name](**options)


def refuse_other_offset(offset: Offset, shape: torch.Size, state: Tensor) -> None:
    """Raise SparsityError if ``state`` describes another matrix than that of the offset, or another shape.

    Raises:
        SparsityError: It names both.
    """
    theirs, trained = _read_apart(state)
    if trained is not None and trained != shape:
        raise SparsityError(
            f"`shape` must be {tuple(trained)}, as when the values were saved, got a layer of shape "
            f"{tuple(shape)}. Build the module as it was then."
        )
    ours, _ = _read_apart(offset_state(offset, shape))
    if theirs != ours:
        raise SparsityError(
            f"`offset` must be {_shown(theirs)}, with which the weights were trained, got a layer with "
            f"{_shown(ours)}. Convert the module with the former."
        )


def shape_from_state(state: Tensor) -> torch.Size | None:
    """Return the shape of the layer that `offset_state` described; None if it was saved without one."""
    return _read_apart(state)[1]


def offsets_in(weights: Mapping[str, object]) -> dict[str, Offset]:
    """Return the offset of every compact layer that a state dict holds, by the layer's path in its keys.

    Raises:
        SparsityError: If no offset of such a name is registered.
    """
    ending = f".{OFFSET_KEY}"
    states = {key.removesuffix(ending): state for key, state in weights.items() if key.endswith(ending)}
    return {path: offset_from_state(state) for path, state in states.items() if describes_offset(state)}


def describes_offset(state: object) -> TypeGuard[Tensor]:
    """Tell whether what a state dict has as a layer's extra state is what `offset_state` returns."""
    try:
        return isinstance(state, Tensor) and bool(_read(state))
    except SparsityError:
        return False


def _read_apart(state: Tensor) -> tuple[dict[str, Any], torch.Size | None]:
    """Return name and options of the offset, and the shape."""
    options = _read(state)
    shape = options.pop("shape", None)
    return options, None if shape is None else torch.Size(shape)


def _read(state: Tensor) -> dict[str, Any]:
    try:
        options: dict[str, Any] = json.loads(bytes(state.tolist()))
        return {"name": options["name"], **options}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise SparsityError(f"`offset` must be described by name and options, got {state!r}.") from error


def _shown(options: dict[str, Any]) -> str:
    """Write it as a call: ``dct(patch_order='chw')``."""
    arguments = ", ".join(f"{key}={value!r}" for key, value in options.items() if key != "name")
    return f"{options['name']}({arguments})"
