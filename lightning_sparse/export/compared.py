"""Nets as exports make them, to be measured beside the net itself."""

from typing import Any

from torch import nn

from lightning_sparse.export.units.smaller import smaller

__all__ = ["exported_nets"]


def exported_nets(module: nn.Module, example_input: Any) -> dict[str, nn.Module]:
    """Return what an export makes faster without a runtime of its own: the net without its dead units.

    Args:
        module: The net; not changed.
        example_input: What it is called with.

    Returns:
        The net by the name of its format; empty if nothing of it can be cut, or it cannot be followed.

    Examples:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> exported_nets(net, torch.zeros(1, 4))
        {}
        >>> _ = nn.init.zeros_(net[2].weight[:, 1].detach())
        >>> exported_nets(net, torch.zeros(1, 4))["exported as dense-small"][0]
        Linear(in_features=4, out_features=2, bias=True)
    """
    try:
        small = smaller(module, example_input)
    except Exception:  # whatever a net raises that cannot be followed: it is measured without this one
        return {}
    return {"exported as dense-small": small.module} if small.units < small.units_before else {}
