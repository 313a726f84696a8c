"""What the command line says of a mistake: the cause, and the name that was meant."""

import re
import sys
from collections.abc import Collection
from pathlib import Path
from pydoc import locate
from typing import NoReturn

from lightning_sparse import callbacks, data, models
from lightning_sparse.checks import SparsityError, near
from lightning_sparse.functional import saliency

__all__ = ["check_ckpt_path", "refusal_in", "shorten", "stop", "where_to_look"]

# jsonargparse finds a class by its short name once its module is imported.
_KNOWN_BY_NAME = (callbacks, data, models, saliency)

_NOISE = re.compile(
    r"Does not validate|Subtypes:|Errors:|Not a valid subclass|Subclass types expect|a class path|a dict with"
    r"|Expected a <class 'NoneType'>|Given value type|Given value: (NestedArg|Namespace|[\[{])"
    r"|Expected a path but"
)
_BASE_CLASS = re.compile(
    r"Problem with given class_path '(pytorch_lightning|lightning\.pytorch)[\w.]*\.\w+':"
)
# The second wording of each is that of older releases of jsonargparse.
_UNKNOWN = re.compile(r"(?:[uU]nrecognized arguments: --|does not accept (?:option|nested key) ')([\w.]+)")
_REFUSED = re.compile(r"(?:Option|Key) '([\w.]+)' is not (?:accepted|expected)")
_AS_CLASS = "Expected a dot import path string: "
_NOT_LOCAL = re.compile(r"best|last|hpc|registry(:.*)?|\w+://.*")


def check_ckpt_path(path: str | Path | None) -> None:
    """Refuse a checkpoint that is not there; Lightning would read the data first.

    Raises:
        SparsityError: If it names a local file that does not exist.
    """
    if path and not _NOT_LOCAL.fullmatch(str(path)) and not Path(path).exists():
        hint = _near_file(path) or "."
        raise SparsityError(
            f"`ckpt_path` must be a checkpoint, got {str(path)!r}, which does not exist{hint}"
        )


def stop(message: str) -> NoReturn:
    """End the program with an error and exit status 2, as for any mistake on a command line."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def refusal_in(error: BaseException | None) -> SparsityError | None:
    """Return the SparsityError that an error is, or was raised from; None if there is none.

    >>> refusal_in(KeyError("mine")) is None
    True
    """
    while error is not None and not isinstance(error, SparsityError):
        error = error.__cause__
    return error


def where_to_look(message: str, command: str, options: Collection[str]) -> str:
    """Return which of a command's options an unknown one may stand for, or where they are listed.

    >>> where_to_look("unrecognized arguments: --trainer.max_epoch=3", "fit", ["data", "trainer.max_epochs"])
    '; did you mean max_epochs?'
    """
    unknown = _UNKNOWN.search(message)
    if unknown is None or not options:
        return ""
    group, _, name = unknown[1].rpartition(".")
    parts = [option.rpartition(".") for option in options]
    siblings = [last for first, _, last in parts if first == group]
    close = near(name, siblings) if siblings else near(unknown[1], options)
    return close or f" (see `lightning-sparse {command} --help`)"


def shorten(message: str) -> str:
    r"""Return the lines of jsonargparse's message that say what is wrong, each once.

    It tries every type that an argument may have, and reports on all of them.

    >>> shorten("Does not validate against any of the Union subtypes\n - Option 'densty' is not accepted")
    "Option 'densty' is not accepted."
    """
    lines = [line.strip(" -") for line in message.splitlines()]
    lines = [line for line in lines if line and not _NOISE.search(line)]
    if ours := [line for line in lines if line.startswith("`")]:  # a check of ours says it best
        return " ".join(dict.fromkeys(ours))
    lines = _without_other_types(lines)
    literal = "".join(line for line in lines if "typing.Literal" in line)
    names = [*_known_classes(lines), *re.findall(r"'(\w+)'", literal)]
    pairs = zip(["", *lines], lines, strict=False)
    lines = [_refusal(line, before, message) or _translate(line, names, literal) for before, line in pairs]
    return " ".join(dict.fromkeys(lines)) or message


def _known_classes(lines: list[str]) -> list[str]:
    """Return our classes, if the place may take a class."""
    takes_class = any(_AS_CLASS in line for line in lines)
    return [name for module in _KNOWN_BY_NAME for name in module.__all__] if takes_class else []


def _without_other_types(lines: list[str]) -> list[str]:
    """Leave out the types that nobody meant: Lightning's base class; names, where a class was found."""
    for index in [i for i, line in enumerate(lines) if _BASE_CLASS.match(line)]:
        lines[index : index + 2] = ["", ""]
    pairs = zip(lines, [*lines[1:], ""], strict=True)
    return [
        line for line, after in pairs if line and not ("typing.Literal" in line and "class_path" in after)
    ]


def _refusal(line: str, before: str, message: str) -> str | None:
    """Say which option a class does not take, its value, and what the class takes; None if it is not that."""
    found = _REFUSED.search(line)
    if found is None:
        return None
    paths = re.findall(r"class_path[ =]'([\w.]+)'", before + line)
    names = _options_of(paths[-1]) if paths else []
    takes = f". {paths[-1].rpartition('.')[2]} takes {', '.join(names)}." if names else "."
    return found[0] + _value_of(found[1], message) + (near(found[1], names) or takes)


def _value_of(option: str, message: str) -> str:
    """Return what an option was set to, as far as a message shows it without doubt."""
    value = r"'?([^\s'()\[\]{},]+)'?[,)}\]]"
    found = set(re.findall(rf"\b{re.escape(option)}'?(?:, val)?(?:=|: ){value}", message))
    return f", got {found.pop()}" if len(found) == 1 else ""


def _options_of(class_path: str) -> list[str]:
    from jsonargparse import ArgumentParser

    kind = locate(class_path)
    if not isinstance(kind, type):
        return []
    names: list[str] = ArgumentParser().add_class_arguments(kind, fail_untyped=False)
    return names


def _translate(line: str, names: list[str], literal: str) -> str:
    """Say in plain words what jsonargparse expected; a name is tried as a class where a choice is due."""
    expected, _, name = line.partition(_AS_CLASS)
    if name and not literal:
        return f"{expected}There is no class {name!r}" + (near(name, names) or ".")
    if given := literal and (name or line.partition("Given value: ")[2]):
        return f"got {given!r}" + (near(given, names) or ".")
    line = re.sub(r"Given value: (.*)", r"got \1.", line)
    line = re.sub(r"(?<=File does not exist: )'(.*)'", lambda path: path[0] + _near_file(path[1]), line)
    return re.sub(r"Expected a typing\.Literal\[(.*)\]", r"must be one of \1,", line)


def _near_file(path: str | Path) -> str:
    folder = Path(path).parent
    return near(Path(path).name, [file.name for file in folder.iterdir()], 3) if folder.is_dir() else ""
