"""Weights that are masked before they are saved."""

from torch import nn

from lightning_sparse.weights.state import state_of
from lightning_sparse.weights.stepping import Handle

__all__ = ["mask_when_saved"]


def mask_when_saved(module: nn.Module) -> Handle:
    """Mask the weights of a module whenever its ``state_dict`` is taken, whoever has written to them."""
    handle: Handle = module.register_state_dict_pre_hook(_mask_to_save)  # type: ignore[no-untyped-call]
    return handle


def _mask_to_save(module: nn.Module, _prefix: str, _keep_vars: bool) -> None:
    """Mask the weights, unless the module is a copy, whose weights others are responsible for."""
    state_of(module).hold_(however_written=True)
