"""A plugin of pytest for releases of Lightning that lack what some tests use: ``-p older_lightning``.

What is missing gets a stand-in by its name, which skips the test that makes one: tests need no word about
releases. A test that meets what our own code says cannot hold with such a release is skipped, too. The plugin
must be found by ``PYTHONPATH``, as plugins are imported before pytest reads its own paths.
"""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

NAMES = {
    "callbacks.weight_averaging": ("EMAWeightAveraging", "WeightAveraging"),
    "callbacks": ("EMAWeightAveraging", "WeightAveraging"),
    "strategies": ("ModelParallelStrategy",),
    "utilities": ("CombinedLoader",),
}
MIXED = {"MixedPrecision": "MixedPrecisionPlugin"}
RENAMED = {"plugins": MIXED, "plugins.precision": MIXED}
"""What had another name, by its present one."""
PRECISIONS = {"16-mixed": 16, "bf16-mixed": "bf16", "32-true": 32, "64-true": 64}
"""What Lightning 1.9 calls those that it has."""
SAID = ("Lightning before 2.0 goes on otherwise",)
"""Begins what our own code says of such a release."""
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
                    setattr(room, name, renamed_precision(name, getattr(room, before)))
        if lightning.__version__.startswith("1."):
            lightning.seed_everything = without_verbose(lightning.seed_everything)
            lightning.Callback.__init_subclass__ = classmethod(take_optimizer_idx)
            lightning.Trainer.__init__ = with_precision(lightning.Trainer.__init__, lightning.__version__)
        for place, names in NAMES.items():
            room = module_at(f"{package}.{place}")
            for name in names:
                if not hasattr(room, name):
                    setattr(room, name, missing(name, lightning.__version__))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Iterator[None]:
    """Skip a test that ends with one of our own warnings of what an old release does not do."""
    try:
        return (yield)
    except Warning as warning:
        if any(words in str(warning) for words in SAID):
            pytest.skip(str(warning))
        raise


def without_verbose(seed: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(seed)
    def seed_everything(*arguments: Any, verbose: bool = True, **options: Any) -> int:
        return seed(*arguments, **options)

    return seed_everything


def renamed_precision(name: str, plugin: Any) -> type:
    def __init__(self: Any, precision: str, *arguments: Any, **options: Any) -> None:
        plugin.__init__(self, PRECISIONS.get(precision, precision), *arguments, **options)

    return type(name, (plugin,), {"__init__": __init__})


def take_optimizer_idx(kind: type) -> None:
    """Let a test's callback be called with an argument more; our own have to take it by themselves."""
    hook = vars(kind).get("on_before_optimizer_step")
    if hook is None or kind.__module__.startswith("lightning_sparse"):
        return
    parameters = inspect.signature(hook).parameters.values()
    if len(parameters) == 4 and all(parameter.kind != parameter.VAR_POSITIONAL for parameter in parameters):
        kind.on_before_optimizer_step = lambda *arguments: hook(*arguments[:4])  # type: ignore[attr-defined]


def with_precision(init: Callable[..., None], version: str) -> Callable[..., None]:
    @functools.wraps(init)
    def __init__(self: Any, *arguments: Any, **options: Any) -> None:
        named = options.get("precision")
        if named in ("bf16-true", "16-true"):
            pytest.skip(f"Lightning {version} has no precision {named!r}")
        if "barebones" in options:
            pytest.skip(f"Lightning {version} has no `barebones`")
        if named in PRECISIONS:
            options["precision"] = PRECISIONS[named]
        init(self, *arguments, **options)

    return __init__


def module_at(path: str) -> ModuleType:
    """Return a module, an empty one if there is none."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        return sys.modules.setdefault(path, ModuleType(path))
