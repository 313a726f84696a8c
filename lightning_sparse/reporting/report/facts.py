"""What was trained: model, data, callbacks with their arguments, seed, versions."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_sparse.reporting.runs import Run
from lightning_sparse.version import VERSION

__all__ = ["CONFIG", "callbacks_in", "facts_of_run", "in_words", "read_config", "versions"]

CONFIG = "config.yaml"
"""The recipe that LightningCLI writes beside the logs of a run."""

LONG = 400


def facts_of_run(run: Run, config: Mapping[str, Any]) -> dict[str, str]:
    """Return what there is to say of a finished run.

    Args:
        run: The run.
        config: Its recipe; empty if there is none.
    """
    trainer = config.get("trainer") or {}
    facts = {"Run": run.folder.as_posix()}
    for key in ("model", "data"):
        if config.get(key):
            facts[key.capitalize()] = in_words(config[key])
    for key, words in (("max_epochs", "Epochs planned"), ("precision", "Precision")):
        if trainer.get(key) is not None:
            facts[words] = str(trainer[key])
    if run.checkpoints:
        last = run.checkpoints[-1]
        facts["Weights from"] = f"{last.path.name}: after {last.epoch + 1} epochs, {last.step:,} steps"
    facts |= callbacks_in(run, config)
    if config.get("seed_everything") is not None:
        facts["Seed"] = str(config["seed_everything"])
    return {**facts, "Report made with": versions()}


def callbacks_in(run: Run, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the callbacks of a run, from its recipe, else from the states in its last checkpoint."""
    named = (config.get("trainer") or {}).get("callbacks")
    if named:
        found = [in_words(one) for one in (named if isinstance(named, list) else [named])]
        return {f"Callback {number}": words for number, words in enumerate(found, 1)}
    states = run.checkpoints[-1].callbacks if run.checkpoints else {}
    facts = {}
    for number, (key, state) in enumerate(states.items(), 1):
        config_of = state.get("config") if isinstance(state, Mapping) else None
        name = key.partition("{")[0]
        facts[f"Callback {number}"] = _call(name, config_of if isinstance(config_of, Mapping) else {})
    return facts


def read_config(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the recipe in the folder of a run, and "", or {} and why there is none."""
    path = folder / CONFIG
    if not path.is_file():
        return {}, f"the folder has no {CONFIG}, which LightningCLI writes"
    try:
        import yaml

        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except ModuleNotFoundError:
        return {}, f"PyYAML is not installed, which reads {CONFIG}"
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}, f"{CONFIG} cannot be read"
    return (config, "") if isinstance(config, dict) else ({}, f"{CONFIG} holds no recipe")


def versions() -> str:
    """Return the versions of what matters here."""
    return f"lightning_sparse {VERSION}, torch {torch.__version__}, Python {platform.python_version()}"


def in_words(part: Any) -> str:
    """Return a part of a recipe as a call.

    >>> in_words({"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1, "eps": None}})
    'Adam(lr=0.1)'
    """
    if isinstance(part, Mapping) and "class_path" in part:
        return _call(str(part["class_path"]).rpartition(".")[2], part.get("init_args") or {})
    if isinstance(part, Mapping):
        return "{" + ", ".join(f"{key}: {in_words(value)}" for key, value in part.items()) + "}"
    if isinstance(part, list | tuple):
        return "[" + ", ".join(map(in_words, part)) + "]"
    return str(part)


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    given = (f"{key}={in_words(value)}" for key, value in arguments.items() if value is not None)
    words = f"{name}({', '.join(given)})"
    return words if len(words) <= LONG else f"{words[:LONG]}..."
