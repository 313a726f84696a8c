"""What settings and cells are called: short enough for a column and for a folder."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePath
from typing import Any

__all__ = ["cell_name", "in_words", "short_names"]

LONGEST = 120  # of a folder's name; file systems take 255 bytes
_FAMILIAR = {"seed_everything": "seed"}
_SILENT = ("class_path", "init_args")


def short_names(keys: Iterable[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Return a name for each key: its last word, with as many words before it as make it unique.

    Args:
        keys: Dotted keys of a recipe.
        taken: Names that are not to be given.

    Examples:
        >>> short_names(["trainer.callbacks.PruneAtInit.density", "seed_everything"])
        {'trainer.callbacks.PruneAtInit.density': 'density', 'seed_everything': 'seed'}
        >>> list(short_names(["a.lr", "b.lr"]).values())
        ['a.lr', 'b.lr']
    """
    words = {key: [word for word in key.split(".") if word not in _SILENT] or [key] for key in keys}
    words |= {key: [_FAMILIAR[key]] for key in words if key in _FAMILIAR}
    names = {}
    for key, parts in words.items():
        others = [other for name, other in words.items() if name != key]
        count = 1
        while count < len(parts) and (
            any(other[-count:] == parts[-count:] for other in others) or ".".join(parts[-count:]) in taken
        ):
            count += 1
        names[key] = key if parts in others else ".".join(parts[-count:])  # `a.init_args.b` beside `a.b`
    return names


def in_words(value: Any) -> str:
    """Return a value as a person would write it: a class by its name, a file without its ending.

    >>> in_words({"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}}), in_words("nets/a.yaml")
    ('Adam(lr=0.1)', 'a')
    """
    if isinstance(value, Mapping) and "class_path" in value:
        name = str(value["class_path"]).rpartition(".")[2]
        arguments = value.get("init_args") or {}
        return f"{name}({in_words(arguments)})" if arguments else name
    if isinstance(value, Mapping):
        return ",".join(f"{key}={in_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "+".join(map(in_words, value)) or "none"
    if isinstance(value, str) and value.endswith((".yaml", ".yml")):
        return PurePath(value).stem
    return (
        {None: "none", True: "true", False: "false"}.get(value, str(value)) if _is_word(value) else str(value)
    )


def cell_name(settings: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return the name of a cell's folder: what it sets, readable, and the same in every call.

    Args:
        settings: Values by key.
        names: What the keys are called.

    >>> cell_name({"a.method": "erk", "b.seed": 0}, {"a.method": "method", "b.seed": "seed"})
    'method=erk,seed=0'
    """
    said = ",".join(f"{names[key]}={in_words(value)}" for key, value in settings.items())
    plain = re.sub(r"[^\w.=,+()%-]+", "-", said).strip(".-") or "cell"
    if len(plain) <= LONGEST:
        return plain
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    return f"{plain[: LONGEST - 9]}-{digest[:8]}"


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)
