"""Where in a module its weights are, to see at once when something else is there."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.selection import misfit, parameters_by_name, plain_name

__all__ = ["Places", "weights_for"]


class Places:
    """Knows the way to some parameters of a module, and tells whether it still leads to them.

    Layers are replaced (a new head), weights are assigned (``load_state_dict(assign=True)``) or tied anew,
    and whoever holds the old ones takes no notice. A look costs a few dictionary lookups for each weight.

    Args:
        module: Where the parameters are.
        names: Their plain names, as `parameters_by_name` gives them.
    """

    def __init__(self, module: nn.Module, names: Iterable[str]) -> None:
        wanted = set(names)
        ways: dict[tuple[int, str], tuple[Mapping[str, Any], str, object]] = {}
        for path, layer in module.named_modules():
            keys = [
                key for key in layer._parameters if plain_name(f"{path}.{key}" if path else key) in wanted
            ]
            for holder, key in (
                [*_steps(module, path), *((layer._parameters, key) for key in keys)] if keys else ()
            ):
                ways[id(holder), key] = (holder, key, holder[key])
        self._ways = list(ways.values())

    @property
    def changed(self) -> bool:
        """Whether another layer or parameter is in the place of one."""
        return any(holder.get(key) is not there for holder, key, there in self._ways)


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


def _steps(module: nn.Module, path: str) -> list[tuple[Mapping[str, Any], str]]:
    """Return the way to a layer: where to look, and for what."""
    steps: list[tuple[Mapping[str, Any], str]] = []
    for key in path.split(".") if path else ():
        steps.append((module._modules, key))
        module = module._modules[key]  # type: ignore[assignment]
    return steps
