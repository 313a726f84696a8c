"""ASNI's compressed initialisation: two numbers per layer, given to the survivors by their sign."""

from collections.abc import Iterable, Mapping
from itertools import accumulate

import torch
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.finite import check_finite
from lightning_sparse.functional.shards.layout import is_sharded
from lightning_sparse.selection import parameters_by_name, plain_name
from lightning_sparse.types import Masks

__all__ = ["centroids", "reinitialise_", "set_by_rule", "signs"]

NORMS = (
    nn.modules.batchnorm._NormBase,  # batch and instance norms of any dimension
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def centroids(weights: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    """Return the means of each layer's positive and of its negative survivors.

    Args:
        weights: Weight by layer.
        masks: Boolean mask by layer; the survivors are what it keeps.

    Returns:
        By layer the tensor ``[c_plus, c_minus]`` of the weight's type, on the CPU; 0 where there is no
        survivor of that sign, NaN in layers that hold NaN.

    Source:
        Damadi et al., "Amenable Sparse Network Investigator", 2021, algorithm 1, lines 13 and 15.

    Examples:
        >>> weight, mask = torch.tensor([1.0, 3.0, -4.0, 9.0]), torch.tensor([True, True, True, False])
        >>> centroids({"fc": weight}, {"fc": mask})["fc"]
        tensor([ 2., -4.])
    """
    return {name: _centroids(_survivors(weights[name], mask)) for name, mask in masks.items()}


def signs(weights: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    """Return the signs of each layer's survivors in flat order: int8, -1, 0 or 1, on the CPU.

    Raises:
        SparsityError: If a survivor is NaN or infinite.
    """
    left = {name: _survivors(weights[name], mask) for name, mask in masks.items()}
    check_finite(left)
    return {name: values.sign().to("cpu", torch.int8) for name, values in left.items()}


def set_by_rule(module: nn.Module, masked: Iterable[str]) -> set[str]:
    """Return the names of all parameters and buffers that ``reinitialise_`` gives a value.

    Args:
        module: The module that will be initialised anew.
        masked: Names of the masked weights.
    """
    norms = {name for path, norm in _norms(module, masked) for name in _names(path, norm)}
    return {*masked, *_biases(module, masked), *norms}


@torch.no_grad()
def reinitialise_(
    module: nn.Module,
    masks: Masks,
    survivors: Mapping[str, Tensor],
    means: Mapping[str, Tensor],
) -> None:
    """Start a sparse net from its centroids: each survivor gets the mean of its layer and sign.

    Biases of masked layers become 0. Norms beside masked weights, which are those in a module that holds a
    masked weight at any depth, scale by 1, shift by 0, and forget their running statistics. Survivors that
    were exactly 0 have no sign, and start at 0. What is frozen, and all else, stays as it is.

    Args:
        module: The module that holds the weights.
        masks: Boolean mask by parameter name.
        survivors: Signs of the survivors, as from ``signs``.
        means: ``[c_plus, c_minus]`` by parameter name, as from ``centroids``.

    Raises:
        SparsityError: If a mean is NaN or infinite, or weights are split over processes.

    Source:
        Damadi et al., 2021, algorithm 1, lines 14, 16 and 17. The paper does not say what becomes of biases
        and norms; the authors' code resets them, but for the running statistics, which it keeps.
    """
    check_finite({f"centroids of {name}": means[name] for name in masks})
    parameters = parameters_by_name(module)
    if split := [name for name in masks if is_sharded(parameters[name])]:
        raise SparsityError(
            f"`module` must hold its weights whole to start from centroids, got {split[0]!r}, which is split "
            "over processes. Do so before it is sharded, or leave `start` out."
        )
    for name, mask in masks.items():
        weight = parameters[name]
        sign, (plus, minus) = survivors[name].to(weight.device), means[name].to(weight)
        values = torch.where(sign > 0, plus, torch.where(sign < 0, minus, torch.zeros_like(plus)))
        weight.zero_().masked_scatter_(mask.to(weight.device), values)
    for name in _biases(module, masks):
        parameters[name].zero_()
    for _, norm in _norms(module, masks):
        _reset_norm_(norm)


def _centroids(survivors: Tensor) -> Tensor:
    values = survivors.cpu().double()  # some devices have no float64
    if values.isnan().any():
        return values.new_full((2,), torch.nan, dtype=survivors.dtype)
    means = [
        part.mean() if part.numel() else values.new_zeros(())
        for part in (values[values > 0], values[values < 0])
    ]
    return torch.stack(means).to(survivors.dtype)


def _survivors(weight: Tensor, mask: Tensor) -> Tensor:
    return weight.detach()[mask.to(weight.device)]


def _norms(module: nn.Module, masked: Iterable[str]) -> list[tuple[str, nn.Module]]:
    """Return the norms that start as new, with their paths: not those of frozen or excluded parts."""
    holders = {part for name in masked for part in accumulate(name.split(".")[:-1], "{}.{}".format)} | {""}
    return [
        (path, child)
        for path, child in module.named_modules()
        if isinstance(child, NORMS)
        and plain_name(f"{path}.").rstrip(".").rpartition(".")[0] in holders
        and all(parameter.requires_grad for parameter in child.parameters())
    ]


def _names(path: str, module: nn.Module) -> list[str]:
    """Return the full names of all that a module holds."""
    return [plain_name(f"{path}.{name}" if path else name) for name in module.state_dict()]


def _biases(module: nn.Module, masked: Iterable[str]) -> list[str]:
    """Return the names of the biases beside masked weights, such as ``bias`` or ``in_proj_bias``."""
    holders = {name.rpartition(".")[0] for name in masked}
    trained = [name for name, parameter in parameters_by_name(module).items() if parameter.requires_grad]
    names = [(name, *name.rpartition(".")[::2]) for name in trained]
    return [name for name, holder, last in names if holder in holders and "bias" in last]


def _reset_norm_(norm: nn.Module) -> None:
    if isinstance(norm, nn.modules.batchnorm._NormBase):
        norm.reset_running_stats()
    if isinstance(weight := getattr(norm, "weight", None), Tensor):
        weight.fill_(1)
    if isinstance(bias := getattr(norm, "bias", None), Tensor):
        bias.zero_()
