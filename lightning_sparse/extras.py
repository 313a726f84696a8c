"""Optional packages."""

import importlib
from types import ModuleType

__all__ = ["EXTRAS", "how_to_install", "import_extra"]

EXTRAS = {
    "jsonargparse": "cli",
    "accelerate": "transformers",
    "matplotlib": "plots",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "ray": "sweep",
    "rich": "cli",
    "sklearn": "recipes",
    "tensorboard": "plots",
    "torchvision": "recipes",
    "transformers": "transformers",
}
"""The extra of this package that brings each module in; `recipes` has those of `cli` and `plots` too."""


def how_to_install(module: str) -> str:
    """Return the pip command for a module: that of its extra, else of a package of its own name.

    >>> how_to_install("matplotlib.figure")
    'pip install ".[plots]" in a checkout, else pip install "lightning-sparse[plots]"'
    >>> how_to_install("timm")
    'pip install timm'
    """
    package = module.partition(".")[0]
    if package not in EXTRAS:
        return f"pip install {package}"
    extra = f"[{EXTRAS[package]}]"
    return f'pip install ".{extra}" in a checkout, else pip install "lightning-sparse{extra}"'


def import_extra(name: str, purpose: str, command: str | None = None) -> ModuleType:
    """Import a module of an optional package, or say how to install it.

    Args:
        name: Name of the module.
        purpose: What it is for, in words.
        command: How to install the package. ``None``: as `how_to_install` says.

    Raises:
        ModuleNotFoundError: If the package is not installed; it names the pip commands.
    """
    package = name.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        command = command or how_to_install(name)
        raise ModuleNotFoundError(f"`{package}` must be installed for {purpose}: {command}") from error
    return importlib.import_module(name)
