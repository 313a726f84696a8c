"""Optional packages."""

import importlib
from types import ModuleType

__all__ = ["import_extra"]

RECIPES = 'pip install ".[recipes]" in a checkout, else pip install "lightning-sparse[recipes]"'


def import_extra(name: str, purpose: str, command: str = RECIPES) -> ModuleType:
    """Import a module of an optional package, or say how to install it.

    Args:
        name: Name of the module.
        purpose: What it is for, in words.
        command: How to install the package.

    Raises:
        ModuleNotFoundError: If the package is not installed; it names the pip commands.
    """
    package = name.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(f"`{package}` must be installed for {purpose}: {command}") from error
    return importlib.import_module(name)
