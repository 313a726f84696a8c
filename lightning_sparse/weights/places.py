"""Where in a module its weights are, to see at once when something else is there."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.shards.layout import is_sharded
from lightning_sparse.selection import misfit, parameters_by_name, plain_name

__all__ = ["Places", "refuse_untied", "weights_for"]

_Way: TypeAlias = tuple["weakref.ReferenceType[nn.Module]", str, Callable[[], Any]]
"""A layer, a key, and what it holds under it; all of it weak, as a layer may refer to the whole module.

But for split parameters: PyTorch moves a ``DTensor`` by swapping it, which no weak reference may hinder.
"""


class Places:
    """Knows the way to some parameters of a module, and tells whether it still leads to them.

    Layers are replaced (a new head), weights are assigned (``load_state_dict(assign=True)``) or tied anew,
    and whoever holds the old ones takes no notice. A look costs a few dictionary lookups for each weight.

    Args:
        module: Where the parameters are.
        names: Their plain names, as `parameters_by_name` gives them.

    Attributes:
        names: All their names, those of tied ones too.
    """

    def __init__(self, module: nn.Module, names: Iterable[str]) -> None:
        parameters = parameters_by_name(module)
        wanted = {id(parameters[name]) for name in names}
        self.names: set[str] = set()
        ways: dict[tuple[int, str], _Way] = {}
        for path, layer in module.named_modules(remove_duplicate=False):
            keys = [key for key, p in layer._parameters.items() if p is not None and id(p) in wanted]
            self.names |= {plain_name(f"{path}.{key}" if path else key) for key in keys}
            for holder, key in [*_steps(module, path), *((layer, key) for key in keys)] if keys else ():
                held = _held(holder, key)
                reference = partial(_itself, held) if is_sharded(held) else weakref.ref(held)
                ways[id(holder), key] = (weakref.ref(holder), key, reference)
        self._ways = list(ways.values())

    @property
    def changed(self) -> bool:
        """Whether another layer or parameter is in the place of one."""
        for holder, key, there in self._ways:  # at every step: plain lines are the fastest
            layer = holder()
            if layer is None or _held(layer, key) is not there():
                return True
        return False


def weights_for(masks: Mapping[str, Tensor], module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of a module that masks are for.

    Raises:
        SparsityError: If there is no such weight, or one of another shape.
    """
    parameters = parameters_by_name(module)
    if (found := misfit(masks, parameters)) is not None:
        name, instead = found
        raise SparsityError(
            f"The mask of {name!r} is for a weight of shape {tuple(masks[name].shape)}, but the module "
            f"has {instead}. Build the module as it was when the masks were made, or start with a new "
            "callback."
        )
    return {name: parameters[name] for name in masks}


def refuse_untied(before: Places, after: Places) -> None:
    """Refuse weights that were tied to a masked one when masks were made, and are on their own now.

    Raises:
        SparsityError: It names one.
    """
    if untied := sorted(before.names - after.names):
        raise SparsityError(
            f"{untied[0]!r} was tied to a weight with a mask when that was made, and is one of its own now: "
            "it would train dense. Untie weights before fit."
        )


def _itself(held: Any) -> Any:
    return held


def _held(holder: nn.Module, key: str) -> Any:
    return holder._parameters.get(key, holder._modules.get(key))


def _steps(module: nn.Module, path: str) -> list[tuple[nn.Module, str]]:
    """Return the way to a layer: where to look, and for what."""
    steps: list[tuple[nn.Module, str]] = []
    for key in path.split(".") if path else ():
        steps.append((module, key))
        module = module._modules[key]  # type: ignore[assignment]
    return steps
