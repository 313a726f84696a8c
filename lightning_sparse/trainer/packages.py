"""The one place that imports Lightning.

Lightning is published twice, as ``pytorch_lightning`` and as ``lightning.pytorch``, with the same code and
different classes. One ``Callback`` serves both: it inherits from the bases of every package installed,
so either Trainer and either LightningCLI accepts our callbacks. Modules and data modules can belong to one
package only, and so do our children of Lightning's callbacks: to the one that the process imported first,
else to that which the variable `VARIABLE` of the environment names, else to ``pytorch_lightning``.
"""

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = [
    "VARIABLE",
    "Callback",
    "EarlyStopping",
    "LightningDataModule",
    "LightningModule",
    "ModelCheckpoint",
    "Trainer",
    "cli_module",
    "is_lightning",
    "lightning_versions",
    "names_in",
    "overrides",
    "package_of",
    "packages_with",
    "quiet_lightning",
    "rank_zero_warn",
    "without_module",
]


_PACKAGES = ("pytorch_lightning", "lightning.pytorch")
VARIABLE = "LIGHTNING_SPARSE_PACKAGE"
"""Says which package to use where none was imported before ours."""
_LOGGERS = (*_PACKAGES, "lightning", "lightning.fabric", "lightning_fabric")


def _import_installed() -> list[ModuleType]:
    """Return the Lightning packages that are installed, the one this process uses first."""
    named = os.environ.get(VARIABLE)
    named = "lightning.pytorch" if named == "lightning" else named
    if named and named not in _PACKAGES:
        raise ValueError(f"`{VARIABLE}` must be one of {', '.join(_PACKAGES)}, got {named!r}. Correct it.")
    in_use = [name for name in _PACKAGES if name in sys.modules] or [named or _PACKAGES[0]]
    installed = []
    for name in sorted(_PACKAGES, key=lambda name: name not in in_use):
        try:
            installed.append(importlib.import_module(name))
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise
    if not installed:
        raise ModuleNotFoundError(
            "`lightning_sparse` needs Lightning, by either of its names, and found none: "
            "pip install pytorch-lightning, or pip install lightning"
        )
    return installed


if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

    rank_zero_warn: Callable[[str], None]
    _installed: list[ModuleType] = []
else:
    _installed = _import_installed()
    LightningModule = _installed[0].LightningModule
    LightningDataModule = _installed[0].LightningDataModule
    Trainer = _installed[0].Trainer
    EarlyStopping = _installed[0].callbacks.EarlyStopping
    ModelCheckpoint = _installed[0].callbacks.ModelCheckpoint
    rank_zero_warn = _installed[0].utilities.rank_zero.rank_zero_warn
    _bases = tuple(package.Callback for package in _installed)
    Callback = type("Callback", _bases, {"__getstate__": lambda self: without_module(self)})


def without_module(callback: Callback) -> dict[str, Any]:
    """Return a callback's attributes but ``log`` and ``log_dict``, methods of the module put there."""
    return {key: value for key, value in vars(callback).items() if key not in ("log", "log_dict")}


def overrides(module: LightningModule, hook: str) -> bool:
    """Tell whether a module has a hook of its own in place of Lightning's, if Lightning has such a hook."""
    modules = [package.LightningModule for package in _installed]
    plain = [getattr(module, hook) for module in modules if hasattr(module, hook)]
    return bool(plain) and getattr(type(module), hook, None) not in (None, *plain)


def is_lightning(thing: object, *kinds: str) -> bool:
    """Tell whether ``thing`` is of one of Lightning's classes, such as ``"callbacks.ModelSummary"``.

    Classes of either package count; those that this version does not have do not.
    """
    paths = [kind.rpartition(".") for kind in kinds]
    modules = [(attrgetter(module)(package), name) for package in _installed for module, _, name in paths]
    classes = [getattr(module, name, None) for module, name in modules]
    return isinstance(thing, tuple(kind for kind in classes if kind is not None))


def package_of(trainer: Trainer) -> ModuleType:
    """Return the package whose Trainer this is; the first one for what only stands in for a Trainer."""
    return next((one for one in _installed if isinstance(trainer, one.Trainer)), _installed[0])


def packages_with(kind: type) -> list[str]:
    """Return the names of the packages to which a module, a data module or a callback is of use."""
    return [
        package.__name__
        for package in _installed
        if issubclass(kind, package.LightningModule | package.LightningDataModule | package.Callback)
    ]


def cli_module() -> ModuleType:
    """Return ``pytorch_lightning.cli`` (or ``lightning.pytorch.cli``), which needs jsonargparse."""
    return importlib.import_module(f"{_installed[0].__name__}.cli")


def names_in(module: str) -> list[str]:
    """Return the public names of one of Lightning's modules, such as ``"callbacks"``."""
    names: list[str] = getattr(_installed[0], module).__all__
    return names


def lightning_versions() -> dict[str, str]:
    """Return the version of every Lightning that is installed, the one in use first."""
    return {package.__name__: package.__version__ for package in _installed}


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep back what Lightning says of devices and seeds; warnings are still shown."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
