"""Names that may have been meant: of classes, by the place where they stand, and of their options."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pydoc import locate

import torch

from lightning_sparse import callbacks, data, models
from lightning_sparse.functional import saliency
from lightning_sparse.functional.saliency import PruningMethod
from lightning_sparse.trainer.packages import Callback, LightningDataModule, LightningModule, names_in

__all__ = ["alike", "classes_for", "meant", "options_of", "place_of"]


def meant(word: str, names: Iterable[str]) -> str:
    """Ask whether a name was meant that a word is like, begins, or abbreviates; "" if there is none.

    >>> meant("RigL", ["SETCallback", "RigLCallback"])
    '; did you mean RigLCallback?'
    >>> meant("IMP", ["PruneAtInit", "IterativeMagnitudePruning"])
    '; did you mean IterativeMagnitudePruning?'
    """
    found = alike(word, names)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def alike(word: str, names: Iterable[str]) -> list[str]:
    """Return the one or two names that a word begins, whose capitals it is, or that it is spelt like.

    >>> alike("seed", ["seed_everything", "speed"])
    ['seed_everything']
    """
    others = [name for name in dict.fromkeys(names) if name != word]
    begun = [name for name in others if len(word) > 1 and name.lower().startswith(word.lower())]
    initials = [name for name in others if "".join(re.findall("[A-Z]", name)) == word.upper()]
    folded = {name.lower(): name for name in others}
    spelt = [folded[name] for name in get_close_matches(word.lower(), folded, n=1)]
    root = [name for name in others if len(word) > 3 and name[:3].lower() == word[:3].lower()]
    return next((sorted(found, key=len)[:2] for found in (begun, initials, spelt, root) if found), [])


def classes_for(argument: str) -> list[str]:
    """Return the names of the classes that an argument may be, by its name; those of ours if it is unknown.

    >>> "RigLCallback" in classes_for("trainer.callbacks"), "RigLCallback" in classes_for("model.net")
    (True, False)
    """
    known: dict[str, list[str]] = {
        "callbacks": [*names_in("callbacks"), *_children(Callback)],
        "logger": names_in("loggers"),
        "model": _children(LightningModule),
        "net": _children(torch.nn.Module, models.__name__),
        "data": _children(LightningDataModule),
        "method": _children(PruningMethod),
        "optimizer": _children(torch.optim.Optimizer),
        "scheduler": _children(torch.optim.lr_scheduler.LRScheduler),
    }
    last = argument.rpartition(".")[2].removeprefix("lr_")
    everywhere = [*callbacks.__all__, *data.__all__, *models.__all__, *saliency.__all__]
    return known.get(last, everywhere)


def _children(base: type, package: str = "") -> list[str]:
    """Return the names of all public classes that inherit from one, those of users too, or of one package."""
    names = []
    children: list[type] = type.__subclasses__(base)
    for child in children:
        if child.__name__[0] != "_" and child.__module__.startswith(package):
            names.append(child.__name__)
        names += _children(child, package)
    return names


def options_of(class_path: str) -> list[str]:
    """Return the arguments of a class; there are none if it cannot be found."""
    from jsonargparse import ArgumentParser

    kind = locate(class_path)
    if not isinstance(kind, type):
        return []
    names: list[str] = ArgumentParser().add_class_arguments(kind, fail_untyped=False)
    return names


def place_of(argument: str) -> list[str]:
    """Return where an argument of a class of ours is set, if it was named without its place.

    >>> place_of("density"), place_of("batch_size")
    (['trainer.callbacks.density'], ['data.batch_size'])
    """
    rooms = {"trainer.callbacks": callbacks, "data": data, "model": models}
    return [
        f"{place}.{argument}"
        for place, room in rooms.items()
        if any(argument in options_of(f"{room.__name__}.{name}") for name in room.__all__)
    ][:1]
