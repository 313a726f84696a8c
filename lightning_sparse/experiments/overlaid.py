"""A recipe made sparse in another way: by a method's name, or by a callback's."""

import copy
import importlib
from contextlib import suppress
from typing import Any

import lightning_sparse
from lightning_sparse.callbacks.sparsifier import Sparsifier
from lightning_sparse.checks import SparsityError, near
from lightning_sparse.experiments.settings import Config, Takes
from lightning_sparse.functional.saliency import METHODS

__all__ = ["BY_CALLBACK", "WITHOUT_DENSITY", "known_methods", "sparse_by", "with_density"]

BY_CALLBACK = {"dctps": "DCTpSConversion", "rigl": "RigLCallback", "set": "SETCallback"}
"""What has a callback of its own; all other methods are those of `PruneAtInit`."""
WITHOUT_DENSITY = ("dense",)
"""The net as it is without us."""


def known_methods() -> list[str]:
    """Return the names that `sparse_by` takes."""
    return [*METHODS, *BY_CALLBACK, *WITHOUT_DENSITY]


def sparse_by(recipe: Config, method: str, density: float | None) -> Config:
    """Return a recipe whose net is made sparse by one method, in the place of all that the recipe has.

    Args:
        recipe: Its other callbacks stay.
        method: One of `known_methods`.
        density: Share of the weights to keep. ``None``: that of the recipe's own callback.

    Raises:
        SparsityError: If there is no such method, or no density.

    Examples:
        >>> callbacks = [{"class_path": "PruneAtInit", "init_args": {"method": "erk", "density": 0.1}}]
        >>> sparse_by({"trainer": {"callbacks": callbacks}}, "dctps", None)["trainer"]["callbacks"]
        [{'class_path': 'DCTpSConversion', 'init_args': {'density': 0.1}}]
    """
    if method not in known_methods():
        raise SparsityError(
            f"`--methods` must be an overlay or one of {', '.join(known_methods())}, got {method!r}"
            f"{near(method, known_methods()) or '.'}"
        )
    changed = copy.deepcopy(recipe)
    trainer = changed.setdefault("trainer", {})
    entries = [_as_entry(one) for one in _listed(trainer.get("callbacks"))]
    own = [one for one in entries if is_sparsifier(one)]
    trainer["callbacks"] = [one for one in entries if one not in own]
    if method in WITHOUT_DENSITY:
        return changed
    share = _density_of(own) if density is None else density
    if share is None:
        raise SparsityError(
            f"`--densities` must be given for {method}, as the recipe's own callbacks name none, or several."
        )
    if method in BY_CALLBACK:
        added = {"class_path": BY_CALLBACK[method], "init_args": {"density": share}}
    else:
        added = {"class_path": "PruneAtInit", "init_args": {"method": method, "density": share}}
    trainer["callbacks"].append(added)
    return changed


def with_density(recipe: Config, density: float | None, least: int | None, takes: Takes) -> Config:
    """Return a recipe with another density, or another least number of weights for each layer.

    Args:
        recipe: The recipe; callbacks that take neither stay as they are.
        density: ``None``: as the recipe says.
        least: For ``min_weights_per_layer``; ``None``: as the recipe says.
        takes: Gives the arguments that the class of an entry has.

    Raises:
        SparsityError: If no callback, or more than one, has a density.
    """
    changed = copy.deepcopy(recipe)
    trainer = changed.setdefault("trainer", {})
    trainer["callbacks"] = [_as_entry(one) for one in _listed(trainer.get("callbacks"))]
    ours = [one for one in trainer["callbacks"] if is_sparsifier(one)]
    if density is not None:
        having = [one for one in ours if (one.get("init_args") or {}).get("density") is not None]
        if len(having) != 1:
            names = ", ".join(str(one["class_path"]) for one in having) or "none"
            raise SparsityError(f"`--densities` must be of one callback of the recipe, got {names}.")
        having[0]["init_args"]["density"] = density
    if least is not None:
        for one in ours:
            if "min_weights_per_layer" in takes(one):
                one["init_args"] = {**(one.get("init_args") or {}), "min_weights_per_layer": least}
    return changed


def is_sparsifier(entry: Config) -> bool:
    """Tell whether an entry of a recipe's callbacks is one that makes nets sparse.

    >>> is_sparsifier({"class_path": "RigLCallback"}), is_sparsifier({"class_path": "ExactResume"})
    (True, False)
    """
    room, _, name = str(entry.get("class_path")).rpartition(".")
    found: Any = getattr(lightning_sparse, name, None)
    if room:
        with suppress(ImportError):
            found = getattr(importlib.import_module(room), name, None)
    return isinstance(found, type) and issubclass(found, Sparsifier)


def _density_of(entries: list[Config]) -> float | None:
    found = {(one.get("init_args") or {}).get("density") for one in entries} - {None}
    return found.pop() if len(found) == 1 else None


def _listed(callbacks: Any) -> list[Any]:
    return callbacks if isinstance(callbacks, list) else [] if callbacks is None else [callbacks]


def _as_entry(one: Any) -> Config:
    return {"class_path": one} if isinstance(one, str) else dict(one)
