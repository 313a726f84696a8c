"""Random number generators that data, modules and callbacks own: found by their attributes, read and set."""

import functools
import random
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from lightning_sparse.trainer.packages import Trainer
from lightning_sparse.trainer.parts import callbacks_of, train_loaders

__all__ = ["draws_places", "generator_states", "own_generators", "restore_generators_"]

GeneratorStates: TypeAlias = dict[str, dict[str, Any]]
"""Kind and state of each generator, in types that a checkpoint may hold, by where it was found."""

_Found: TypeAlias = tuple[str, Any]
"""Where something was found, such as ``train[0].dataset.transform``, and what it is."""

_OBJECTS = 20_000  # who has more is looked at as far as that, what lies nearest first
_ENTRIES = 1_000  # longer lists and dicts hold data
_LEAVES = (Tensor, np.ndarray, np.generic, str, bytes, bytearray, int, float, complex, type, ModuleType)
_OUTSIDE = ("pytorch_lightning", "lightning", "lightning_fabric", "multiprocessing", "threading", "logging")
_WITHOUT_STATE = (*_OUTSIDE, "builtins", "torch", "numpy", "abc", "typing", "collections", "lightning_sparse")
_OF_CLASSES = (FunctionType, staticmethod, classmethod, property)
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_BACK = ("trainer", "_trainer", "_fabric", "__dict__", "__weakref__")  # ways back to where we came from
_SAMPLING = ("sampler", "batch_sampler", "generator")


def own_generators(trainer: Trainer) -> dict[str, Any]:
    """Return the generators that training data, modules and callbacks have of their own, each once.

    Looked through are attributes, those of classes too, entries of lists, tuples and dicts, children of
    modules, and what functions are bound to: the transforms of a data set inside a ``Subset`` inside a
    ``ConcatDataset``, say. Not variables of Python modules, nor long lists, nor optimizers. Our callbacks and
    Lightning's are left out.

    Returns:
        ``torch.Generator``, ``numpy.random.Generator``, ``BitGenerator`` and ``RandomState``,
        ``random.Random``, by where they were found.
    """
    return dict(_generators(_roots(trainer)))


def draws_places(name: str) -> bool:
    """Tell whether a generator draws places in the data and nothing else: a sampler's or dataloader's."""
    owner, _, rest = name.partition(".")
    return owner.startswith("train[") and rest.split(".")[0] in _SAMPLING


def generator_states(generators: Mapping[str, Any]) -> GeneratorStates:
    """Return the states of generators."""
    return {name: {"kind": _kind(one), "state": _state(one)} for name, one in generators.items()}


def restore_generators_(generators: Mapping[str, Any], states: GeneratorStates) -> list[str]:
    """Set generators to these states; return the names of states for which there is no such generator."""
    missing = []
    for name, saved in states.items():
        generator = generators.get(name)
        if generator is None or _kind(generator) != saved["kind"]:
            missing.append(name)
        else:
            _set_state(generator, saved["state"])
    return missing


def _kind(value: Any) -> str | None:
    if isinstance(value, torch.Generator):
        return "torch"
    if isinstance(value, np.random.Generator):
        return f"numpy {type(value.bit_generator).__name__}"
    if isinstance(value, np.random.BitGenerator):
        return f"numpy bits of {type(value).__name__}"
    if isinstance(value, np.random.RandomState):
        return "numpy RandomState"
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return "python"
    return None


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return _plain(generator.bit_generator.state)
    if isinstance(generator, np.random.BitGenerator):
        return _plain(generator.state)
    if isinstance(generator, np.random.RandomState):
        return _plain(generator.get_state(legacy=False))
    return _plain(generator.getstate())


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = _with_arrays(state)
    elif isinstance(generator, np.random.BitGenerator):
        generator.state = _with_arrays(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(_with_arrays(state))
    else:
        version, internal, gauss = state
        generator.setstate((version, tuple(internal), gauss))


def _plain(value: Any) -> Any:
    """Return a state without arrays of NumPy, which a checkpoint may not hold."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "values": value.tolist()}
    return value.item() if isinstance(value, np.generic) else value


def _with_arrays(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value.keys() == {"dtype", "values"}:
        return np.array(value["values"], dtype=value["dtype"])
    return {key: _with_arrays(entry) for key, entry in value.items()}


def _roots(trainer: Trainer) -> list[_Found]:
    """Return where to look: at data before samplers, which may hold a generator of the data too."""
    roots: list[_Found] = []
    for index, loader in enumerate(train_loaders(trainer)):
        names = ["dataset", "collate_fn", *_SAMPLING]
        roots += [(f"train[{index}].{name}", getattr(loader, name, None)) for name in names]
        rest = getattr(loader, "__dict__", {}).items()
        roots += [(f"train[{index}].{name}", value) for name, value in rest if name != "_iterator"]
    roots += _attributes("module", trainer.lightning_module)
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is not None:
        roots += _attributes("datamodule", datamodule)
    return [*roots, *_other_callbacks(trainer)]


def _other_callbacks(trainer: Trainer) -> Iterator[_Found]:
    """Yield callbacks that are not ours, by class, as a resumed run may list others beside them."""
    count: Counter[str] = Counter()
    for callback in callbacks_of(trainer):
        kind = type(callback).__name__
        if not _is_of(type(callback), ("lightning_sparse",)):
            yield f"callback {kind}[{count[kind]}]", callback
            count[kind] += 1


def _is_of(kind: type, packages: tuple[str, ...]) -> bool:
    return kind.__module__.partition(".")[0] in packages


def _generators(roots: list[_Found]) -> Iterator[_Found]:
    """Yield the generators that can be reached, the roots' order first, then what lies nearest."""
    seen: set[int] = set()
    for root in roots:
        left: deque[_Found] = deque([root])
        while left and len(seen) < _OBJECTS:
            name, value = left.popleft()
            if value is None or isinstance(value, _LEAVES) or id(value) in seen:
                continue
            seen.add(id(value))
            if _kind(value) is not None:
                yield name, value
            else:
                left.extend(_inside(name, value))


def _inside(name: str, value: Any) -> Iterator[_Found]:
    """Yield what a thing holds."""
    if isinstance(value, dict):
        if len(value) <= _ENTRIES:
            yield from ((f"{name}[{key!r}]", entry) for key, entry in value.items())
    elif isinstance(value, list | tuple | deque):
        if len(value) <= _ENTRIES:
            yield from ((f"{name}[{index}]", entry) for index, entry in enumerate(value))
    elif isinstance(value, functools.partial):
        yield from ((f"{name}.{part}", getattr(value, part)) for part in ("func", "args", "keywords"))
    elif isinstance(value, MethodType):
        yield f"{name}.__self__", value.__self__
    elif not _is_of(type(value), _OUTSIDE):
        yield from _attributes(name, value)


def _attributes(name: str, value: Any) -> Iterator[_Found]:
    """Yield the attributes of an object, those of a module without what every module has."""
    held: dict[str, Any] = dict(getattr(value, "__dict__", {}))
    if isinstance(value, nn.Module):
        held = {key: held[key] for key in held.keys() - _OF_EVERY_MODULE} | value._modules
    if isinstance(value, FunctionType):
        held |= {"__defaults__": value.__defaults__, "__kwdefaults__": value.__kwdefaults__}
        for key, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            with suppress(ValueError):  # a variable that has no value yet
                held[key] = cell.cell_contents
    for slots in (vars(cls).get("__slots__", ()) for cls in type(value).__mro__):
        for key in (slots,) if isinstance(slots, str) else slots:
            held.setdefault(key, getattr(value, key, None))
    for cls in (cls for cls in type(value).__mro__ if not _is_of(cls, _WITHOUT_STATE)):
        for key, entry in vars(cls).items():
            if not (key.startswith("__") or isinstance(entry, _OF_CLASSES)):
                held.setdefault(key, entry)
    yield from ((f"{name}.{key}", held[key]) for key in sorted(held) if key not in _BACK)
