"""jsonargparse's messages in plain words: where, what is expected there, what was given, and the way out.

It tries every type that an argument may have, and reports on all of them; of each only the text is left.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from lightning_sparse.checks import near
from lightning_sparse.cli.hints import right_spelling, value_of, way_out
from lightning_sparse.cli.names import alike, classes_for, meant, options_of, place_of
from lightning_sparse.cli.recipes import near_file

__all__ = ["shorten", "unknown_argument"]

_NOISE = re.compile(
    r"Does not validate|Subtypes:|Errors:|Not a valid subclass|Subclass types expect|a class path|a dict with"
    r"|Given value type|Given value: (NestedArg|Namespace|[\[{])|Expected a path but"
)
_BASE_CLASS = re.compile(
    r"Problem with given class_path '(pytorch_lightning|lightning)(\.[\w.]+)?"
    r"\.(Callback|LightningModule|LightningDataModule|Logger)':"
)
# The second wording of each is that of older releases of jsonargparse.
_UNKNOWN = re.compile(r"(?:[uU]nrecognized arguments: |does not accept (?:option|nested key) ')([^\s']+)")
_REFUSED = re.compile(r"(?:Option|Key) '([^']+)' is not (?:accepted|expected)")
_NESTED_UNKNOWN = re.compile(r"unrecognized arguments: --([\w.]+)(?:=(.*))?")
_KEY = re.compile(r'Parser key "([\w.]+)":\s*')
_CLASS = re.compile(r"Problem with given class_path '([\w.]+)':\s*")
_FUNCTION = re.compile(r"Type \S.*? expects a function or a callable class:\s*")
_EXPECTED = re.compile(r"Expected an? (<class '([\w.]+)'>|typing\.Literal\[(.*?)\])(?:\. Got value: (.*))?$")
_AS_CLASS = re.compile(r"Expected a dot import path string: (.*)")
_GIVEN = re.compile(r"(?:Given|Got) value: ?(.*?)(?:\. Got value: .*)?$")

_REPLACED = {
    "mask_path": "`method: {class_path: FromFile, init_args: {file: ...}}`",
    "weight_init": "`method: {class_path: FromFile, init_args: {file: ..., start: centroids}}`",
}
"""Former arguments of PruneAtInit, and what is written today."""

_KINDS = {
    "float": "a number",
    "int": "an integer",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "tuple": "a list",
    "Iterable": "a list",
    "Sequence": "a list",
    "dict": "a mapping (`{name: value}`)",
}


def unknown_argument(message: str, command: str, options: Collection[str]) -> str | None:
    """Say which argument a command does not have, and which may have been meant; None if it is not that.

    Args:
        message: What jsonargparse says.
        command: The command.
        options: The names of its arguments.

    >>> unknown_argument("unrecognized arguments: --trainer.max_epoch=3", "fit", ["trainer.max_epochs"])
    'There is no argument --trainer.max_epoch; did you mean --trainer.max_epochs?'
    """
    unknown = _UNKNOWN.search(message)
    if unknown is None or _CLASS.search(message):
        return None
    given = unknown[1].partition("=")[0]
    word = given.lstrip("-")
    close = f" (see `lightning-sparse {command} --help`)."
    if Path(word).suffix in (".yaml", ".yml"):
        close = f"; did you mean --config {word}?"
    elif word.partition(".")[0] in ("class_path", "init_args"):
        close = ": `init_args` stands in line with its `class_path`. Look at the indentation."
    elif found := _like(word, options) or place_of(word):
        close = f"; did you mean --{' or --'.join(found)}?"
    return f"There is no argument {given}{close}"


def _like(word: str, options: Collection[str]) -> list[str]:
    """Return the arguments that one may stand for: of its group if there is such a group, else of all."""
    if word in options:
        return [word]
    group, _, name = word.rpartition(".")
    inside = {option.rpartition(".")[2]: option for option in options if option.rpartition(".")[0] == group}
    close = [inside[last] for last in alike(name, inside)]
    if close or (group and inside):
        return close
    return [option for option in options if option.endswith(f".{name}")][:2] or alike(word, options)


def shorten(message: str) -> str:
    r"""Return in one line what a message of jsonargparse says is wrong.

    >>> shorten("Parser key \"trainer.max_epochs\":\n - Expected a <class 'int'>\n Given value: 1.5")
    '`trainer.max_epochs` must be an integer, got 1.5.'
    """
    lines = [line.strip(" -") for line in message.splitlines()]
    lines = [line for line in lines if line and not _NOISE.search(line)]
    if ours := [line for line in lines if line.startswith("`")]:  # a check of ours says it best
        return " ".join(dict.fromkeys(ours))
    found = _Findings(message)
    for line in _without_other_types(lines):
        found.read(line)
    return found.sentence() or message


def _without_other_types(lines: list[str]) -> list[str]:
    """Leave out the types that nobody meant: Lightning's base class; names, where a class was found."""
    for index in [i for i, line in enumerate(lines) if _BASE_CLASS.match(line)]:
        entry = re.match(r"Option '(init_?arg\w*|class\w*)\.?", "".join(lines[index + 1 : index + 2]))
        lines[index : index + 2] = ["", _misspelt(entry[1]) if entry else ""]
    pairs = zip(lines, [*lines[1:], ""], strict=True)
    return [
        line for line, after in pairs if line and not ("typing.Literal" in line and "class_path" in after)
    ]


def _misspelt(key: str) -> str:
    if key in ("class_path", "init_args"):
        return "An entry has `class_path` and `init_args`, nothing beside: arguments go under `init_args`"
    return f"{key!r} is no key of an entry{near(key, ['class_path', 'init_args'])}"


@dataclass
class _Findings:
    """What the lines of a message say."""

    message: str
    place: list[str] = field(default_factory=list)
    class_paths: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)
    no_class: str | None = None
    given: str | None = None
    others: list[str] = field(default_factory=list)

    def read(self, line: str) -> None:
        """Take up a line, which may hold several findings."""
        while line:
            if found := _KEY.match(line):
                self.place.append(f"`{found[1]}`")
            elif found := _CLASS.match(line):
                self.class_paths.append(found[1])
                self.place.append(f"({found[1].rpartition('.')[2]})")
            elif not (found := _FUNCTION.match(line)):
                return self._read_cause(line)
            line = line[found.end() :]
        return None

    def _read_cause(self, line: str) -> None:
        if found := _EXPECTED.match(line):
            self._expect(found[2], found[3])
            self.given = self.given or found[4]
        elif found := _AS_CLASS.match(line):
            self.no_class = found[1]
        elif found := _GIVEN.match(line):
            self.given = found[1] or "an empty text"
        elif refused := self._refused(line):
            self.others.append(refused)
        else:
            path = self.class_paths[-1] if self.class_paths else ""
            self.others.append(_GIVEN.sub("", _plain(line)).strip(" .") + way_out(line, path))

    def _expect(self, kind: str | None, choices: str | None) -> None:
        if choices:
            self.choices += choices.split(", ")
        elif kind != "NoneType":
            self.kinds.append(str(kind).rpartition(".")[2])

    def _refused(self, line: str) -> str | None:
        """Say which option a class does not take, its value, and what it takes; None if it is not that."""
        found = _REFUSED.search(line)
        unknown = _NESTED_UNKNOWN.match(line) if self.class_paths else None
        if (match := found or unknown) is None:
            return None
        option = match[1]
        said = found[0] if found else f"Option {option!r} is not accepted"
        value = value_of(option, self.message)
        if unknown and unknown[2]:
            value = f", got {unknown[2]}"
        if ":" in option:
            return f"{said}. Put a space after its colon"
        paths = re.findall(r"class_path[ =]'([\w.]+)'", line) or self.class_paths
        names = options_of(paths[-1]) if paths else []
        if option in _REPLACED and "mask_ablation" in names:
            return f"{said}{value}. It was replaced: write {_REPLACED[option]}"
        takes = f". {paths[-1].rpartition('.')[2]} takes {', '.join(names)}" if names else ""
        return said + value + (meant(option.partition(".")[0], names) or takes)

    def sentence(self) -> str:
        """Return all of it: the place, what is expected there, and what was given; "" if that is nothing."""
        place = " ".join(dict.fromkeys(self.place)).replace(" `", ": `")
        rule = self._expectation() or self._class_expected()
        if self.others or not rule:
            said = " ".join(map(_ended, dict.fromkeys(self.others)))
            return f"{place}: {said}" if place and said else said
        if "Subtypes: [dict[" in self.message and "dict" not in self.kinds:
            rule = rule.replace("must be", "must have values, each", 1)
        is_subject = rule.startswith("must") and place.endswith("`")
        return f"{place}{' ' if is_subject else ': ' if place else ''}{_ended(rule)}"

    def _class_expected(self) -> str:
        """Say that a class is due, where something was given that can be none."""
        found = re.search(r"Not a valid subclass of (\w+)(?:\. Got value: (.*))?", self.message)
        if found is None:
            return ""
        given = found[2] or self.message.rpartition("Given value: ")[2]
        shown = given if len(given) <= 80 else f"{given[:80]}..."
        return f"must be a {found[1]}: its name, or `class_path` and `init_args` beside it, got {shown}"

    def _expectation(self) -> str:
        """Say what kind of value is due, and what was given instead."""
        names = [] if self.no_class is None else classes_for(self._argument())
        if self.no_class is not None and not self.choices and not {"float", "int"} & set(self.kinds):
            if self.no_class.startswith(("{", "[")):
                return f"must be YAML, got {self.no_class}. Look at its brackets"
            return f"There is no class {self.no_class!r}{meant(self.no_class, names)}"
        given = self.no_class if self.given is None else self.given
        different = {choice.strip("'"): choice for choice in self.choices}
        wanted = [", ".join(different.values())] if self.choices else []
        wanted += dict.fromkeys(_KINDS[kind] for kind in self.kinds if kind in _KINDS)
        if "a number" in wanted and "an integer" in wanted:
            wanted.remove("an integer")
        if not wanted:
            return ""
        rule = f"must be {'one of ' if len(different) > 1 else ''}{' or '.join(wanted)}"
        if given is None:
            return rule
        hint = (different and meant(given, [*different, *names])) or right_spelling(given, self.kinds)
        return f"{rule}, got {repr(given) if different else given}{hint}"

    def _argument(self) -> str:
        return next((part.strip("`") for part in reversed(self.place) if part.startswith("`")), "")


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith(("?", ".", "...")) else f"{sentence}."


def _plain(line: str) -> str:
    """Say in plain words what is left of a line."""
    line = re.sub(r"[Tt]he following arguments are required: (.*)", r"It needs a value for \1", line)
    return re.sub(r"(?<=File does not exist: )'(.*)'", lambda path: path[0] + near_file(path[1]), line)
