"""Argument checks and optional imports that the data modules share."""

import importlib
from types import ModuleType

__all__ = ["check_at_least", "check_share", "import_extra"]


def check_at_least(name: str, value: float, minimum: float) -> None:
    """Raise a ValueError unless ``value`` is at least ``minimum``."""
    if not value >= minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")


def check_share(name: str, value: float) -> None:
    """Raise a ValueError unless ``value`` is a share in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"`{name}` must be at least 0 and below 1, got {value}. It is a share, not a count.")


def import_extra(name: str) -> ModuleType:
    """Import a module of an optional package, or say how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if error.name != package:
            raise
        raise ModuleNotFoundError(
            f'`{package}` must be installed for this data set: pip install "lightning-sparse[recipes]"'
        ) from error
