"""A plugin of pytest for releases of Lightning that lack what some tests use: ``-p older_lightning``.

What is missing gets a stand-in by its name, which skips the test that makes one: tests need no word about
releases. It must be found by ``PYTHONPATH``, as plugins are imported before pytest reads its own paths.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

import pytest

NAMES = {
    "callbacks.weight_averaging": ("EMAWeightAveraging", "WeightAveraging"),
    "callbacks": ("EMAWeightAveraging", "WeightAveraging"),
    "strategies": ("ModelParallelStrategy",),
    "utilities": ("CombinedLoader",),
}
RENAMED = {"plugins.precision": {"MixedPrecision": "MixedPrecisionPlugin"}}
"""What had another name, by its present one."""
PACKAGES = ("pytorch_lightning", "lightning.pytorch")


def missing(name: str, version: str) -> type:
    def skip(*_: Any, **__: Any) -> None:
        pytest.skip(f"Lightning {version} has no {name}")

    return type(name, (), {"__init__": skip})


def pytest_configure() -> None:
    for package in PACKAGES:
        try:
            lightning = importlib.import_module(package)
        except ModuleNotFoundError:
            continue
        for place, renamed in RENAMED.items():
            room = module_at(f"{package}.{place}")
            for name, before in renamed.items():
                if not hasattr(room, name):
                    setattr(room, name, getattr(room, before))
        for place, names in NAMES.items():
            room = module_at(f"{package}.{place}")
            for name in names:
                if not hasattr(room, name):
                    setattr(room, name, missing(name, lightning.__version__))


def module_at(path: str) -> ModuleType:
    """Return a module, an empty one if there is none."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        return sys.modules.setdefault(path, ModuleType(path))
