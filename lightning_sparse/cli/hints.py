"""The way out of a mistake: how a value is written, what a module has, where it is looked for."""

import re
import sys
from collections.abc import Collection
from pathlib import Path
from pydoc import locate

from lightning_sparse.cli.names import meant

__all__ = ["right_spelling", "value_of", "way_out"]

_NO_ATTRIBUTE = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
_NO_MODULE = re.compile(r"No module named '([\w.]+)'")


def right_spelling(given: str, kinds: Collection[str]) -> str:
    """Say how a value is written that was given in another notation; "" if that is unknown.

    >>> right_spelling("5%", ["float"]), right_spelling("head.*", ["list"])
    ('. Write 0.05', '. Write [head.*]')
    """
    text = given.strip("'\"")
    if "float" in kinds or "int" in kinds:
        number = _number(text)
        if number is not None and ("float" in kinds or number == int(number)):
            quotes = " without quotes" if text != given else ""
            return f". Write {number:g}{quotes}"
    if {"list", "Sequence", "Iterable"} & set(kinds) and given and "Namespace" not in given:
        return f". Write [{given}]"
    if "bool" in kinds and text.lower() in ("yes", "on", "no", "off", "1", "0"):
        return f". Write {'true' if text.lower() in ('yes', 'on', '1') else 'false'}"
    return ""


def _number(text: str) -> float | None:
    """Return the number that a percentage, a fraction, a decimal comma or a text stands for."""
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        above, is_fraction, below = text.partition("/")
        return float(above.replace(",", ".")) / (float(below) if is_fraction else 1)
    except (ValueError, ZeroDivisionError):
        return None


def way_out(line: str, class_path: str) -> str:
    """Say what a module has instead of what it has not, or where a module is looked for."""
    if Path(class_path).suffix in (".pt", ".pth", ".ckpt"):
        return f". Masks of a file are written {{class_path: FromFile, init_args: {{file: {class_path}}}}}"
    if found := _NO_ATTRIBUTE.search(line):
        return meant(found[2], [name for name in dir(sys.modules.get(found[1])) if name[0] != "_"])
    if found := _NO_MODULE.search(line):
        parent, _, name = found[1].rpartition(".")
        if parent:
            return meant(name, [path.stem for path in _modules_beside(parent)])
        if Path(f"{found[1]}.py").exists() or Path(found[1]).is_dir():
            return ", though it lies in this folder. Set PYTHONPATH=. before the command"
        return ". Install its package, or set PYTHONPATH to the folder it lies in"
    return ""


def _modules_beside(package: str) -> list[Path]:
    module = locate(package)
    return [path for folder in getattr(module, "__path__", []) for path in Path(folder).iterdir()]


def value_of(option: str, message: str) -> str:
    """Return what an option was set to, as far as a message shows it without doubt."""
    value = r"'?([^\s'()\[\]{},]+)'?[,)}\]]"
    found = set(re.findall(rf"\b{re.escape(option)}'?(?:, val)?(?:=|: ){value}", message))
    return f", got {found.pop()}" if len(found) == 1 else ""
