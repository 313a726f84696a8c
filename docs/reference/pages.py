"""Writes the reference while the docs are built: a page for every line of objects.yml.

A hook of MkDocs. Pages are named by their objects, `reference/PruneAtInit/`, those of modules by the module.
"""

import functools
import re
from pathlib import Path
from typing import Any

import griffe
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

FIRST = "reference/index.md"
ROOT = Path(__file__).parents[2]
BEHIND_GUIDES = "---\nsearch: {boost: 0.3}\n---\n"
"""Who searches for a word should see first what explains it."""


def groups() -> dict[str, dict[str, list[str]]]:
    """Return the objects of every group by their full names, each with the members that its line names."""
    listed = yaml.safe_load(Path(__file__).with_name("objects.yml").read_text())
    return {
        group: {name: shown for line in lines for name, shown in _of_line(line).items()}
        for group, lines in listed.items()
    }


def _of_line(line: str | dict[str, list[str]]) -> dict[str, list[str]]:
    return {line: []} if isinstance(line, str) else line


def page_of(name: str) -> str:
    """Return the name of an object's page: its own, or a module's below the package."""
    return name.partition(".")[2] if _is_file(name) else name.rpartition(".")[2]


def _is_file(name: str) -> bool:
    """Tell whether a name is that of a module."""
    return (ROOT / name.replace(".", "/")).with_suffix(".py").is_file()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the groups into the navigation, where the first page of the reference stands."""
    config.nav = [_with_groups(entry) for entry in config.nav or []]
    return config


def _with_groups(entry: Any) -> Any:
    if not isinstance(entry, dict) or FIRST not in entry.values():
        return entry
    (title,) = entry
    listed = [{group: [{page_of(name): _path(name)} for name in names]} for group, names in groups().items()]
    return {title: [FIRST, {"Callbacks and their arguments": "reference/callbacks.md"}, *listed]}


def _path(name: str) -> str:
    return f"reference/{page_of(name)}.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for objects in groups().values():
        for name, shown in objects.items():
            files.append(File.generated(config, _path(name), content=_page(name, shown)))
    return files


def _page(name: str, shown: list[str]) -> str:
    found = _found(name)
    options = [f"heading: {name}", f"toc_label: {page_of(name)}"]
    if found.is_class and not _is_abstract(found):
        options.append(f"members: {shown or 'false'}")
    return "\n".join(
        [BEHIND_GUIDES, f"::: {found.path}", "    options:", *(f"      {option}" for option in options), ""]
    )


def _is_abstract(found: Any) -> bool:
    """Tell whether a class is there to inherit from: it, or one it inherits from, leaves methods open."""
    return any(str(base) in ("ABC", "Protocol") for base in found.bases) or any(
        "abstractmethod" in str(mark.value) for item in found.functions.values() for mark in item.decorators
    )


@functools.cache
def _package() -> Any:
    return griffe.load("lightning_sparse", search_paths=[ROOT])


def _found(name: str) -> Any:
    """Return what a name stands for: where a module has the name of its function, the function."""
    found = _package()[name.partition(".")[2]]
    found = found.final_target if found.is_alias else found
    return found if _is_file(name) or not found.is_module else found[name.rpartition(".")[2]]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill the first page of the reference with tables of all objects, and the changelog with its file."""
    if page.file.src_uri == "changelog.md":
        return (ROOT / "CHANGELOG.md").read_text().replace("](docs/", "](")
    return _with_tables(markdown) if page.file.src_uri == FIRST else markdown


def _with_tables(markdown: str) -> str:
    parts = [markdown]
    for group, objects in groups().items():
        rows = [f"| [`{page_of(name)}`]({page_of(name)}.md) | {_summary(name)} |" for name in objects]
        parts.append("\n".join([f"## {group}\n", "| object | purpose |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def _summary(name: str) -> str:
    """Return what a docstring begins with."""
    docstring = _found(name).docstring
    if docstring is None:
        raise ValueError(f"{name} must have a docstring.")
    return docstring.value.partition("\n\n")[0].replace("\n", " ").replace("|", r"\|").replace("``", "`")


class Doctests(griffe.Extension):
    """Shows examples that stand in a docstring without a heading as those that have one."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Give them the heading that the Google style knows."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^>>> .*(\n.+)*",
                lambda example: "Examples:\n    " + example[0].replace("\n", "\n    "),
                obj.docstring.value,
                flags=re.MULTILINE,
            )
