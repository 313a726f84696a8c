"""How the package is built: who imports whom, who inherits from whom, and how long a file is.

``python tests/test_architecture.py`` prints what each rule finds.
"""

import ast
import importlib
import inspect
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol, is_typeddict

import pytest

import lightning_sparse

NAME = lightning_sparse.__name__
PACKAGE = Path(lightning_sparse.__file__).parent
FILES = {
    ".".join((NAME, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
LINES = 300
OVERRIDDEN_METHODS = 25
COMPACT_FLOORS = ("weights", "layers", "files")
LIGHTNINGS = f"{NAME}.trainer.packages"  # its classes are those of Lightning, either package's


# Imports.


def imports_of(module, tree, modules):
    """Return which of these modules a module imports, wherever in the file the import stands.

    ``from package import name`` is an import of the module ``package.name`` if there is one, and of the
    package itself if there is none: then the name is made in the package's ``__init__``.
    """
    package = module if modules[module] else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *filter(None, [node.module])])
            names = {f"{origin}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else origin for name in names}
    return (found & set(modules)) - {module}


def cycles(graph):
    """Return the groups of modules that reach each other by imports (strongly connected), largest first."""
    reached = {}
    for start in graph:
        seen, left = set(), list(graph[start])
        while left:
            module = left.pop()
            if module not in seen:
                seen.add(module)
                left += graph[module]
        reached[start] = seen
    groups = {
        frozenset(other for other in graph if other in reached[start] and start in reached[other])
        for start in graph
    }
    return sorted((sorted(group) for group in groups if group), key=len, reverse=True)


def import_graph():
    """Return what every module of the package imports of it."""
    modules = {name: path.name == "__init__.py" for name, path in FILES.items()}
    trees = {name: ast.parse(path.read_text()) for name, path in FILES.items()}
    return {name: imports_of(name, tree, modules) for name, tree in trees.items()}


def import_cycles():
    graph = import_graph()
    return [
        "; ".join(f"{module} -> {', '.join(sorted(graph[module] & set(group)))}" for module in group)
        for group in cycles(graph)
    ]


def test_no_two_modules_import_each_other():
    assert not import_cycles(), "\n".join(import_cycles())


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"p.a": "import p.b", "p.b": ""}, []),
        ({"p.a": "import p.b", "p.b": "import p.a"}, [["p.a", "p.b"]]),
        (
            {"p.a": "from p import b", "p.b": "from p.c import x", "p.c": "from .a import y"},
            [["p.a", "p.b", "p.c"]],
        ),
        (
            {"p.a": "if TYPE_CHECKING:\n    from p.b import B", "p.b": "def f():\n    import p.a"},
            [["p.a", "p.b"]],
        ),
    ],
)
def test_cycles_are_found(sources, expected):
    modules = dict.fromkeys(sources, False)
    graph = {name: imports_of(name, ast.parse(source), modules) for name, source in sources.items()}
    assert cycles(graph) == expected


# Classes.


def classes():
    """Return all classes that modules of the package define."""
    modules = [importlib.import_module(name) for name in FILES if name != LIGHTNINGS]
    own = (
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    )
    return list(dict.fromkeys(own))


def is_abstract(cls):
    return inspect.isabstract(cls) or is_typeddict(cls) or bool({ABC, Protocol} & set(cls.__bases__))


def concrete_bases(found):
    """Return each pair of a class and a base of it among these classes that is not abstract."""
    return [
        f"{cls.__module__}.{cls.__qualname__} inherits from {base.__qualname__}"
        for cls in found
        for base in cls.__bases__
        if base in found and not is_abstract(base)
    ]


def counted(name, value):
    """Say whether an attribute of a class is a method that may override another."""
    special = name.startswith("__") and name.endswith("__") and name not in ("__getstate__", "__setstate__")
    return not special and isinstance(value, property | classmethod | staticmethod | type(counted))


def overridden_methods(found):
    """Return each method among these classes that takes the place of one that is not abstract."""
    lines = []
    for cls in found:
        for name, value in vars(cls).items():
            owners = (base for base in cls.__mro__[1:] if base in found and name in vars(base))
            owner = next(owners, None)
            if owner is None or not counted(name, value) or Protocol in owner.__bases__:
                continue
            if counted(name, vars(owner)[name]) and name not in getattr(owner, "__abstractmethods__", ()):
                lines.append(f"{cls.__module__}.{cls.__qualname__}.{name} overrides {owner.__qualname__}'s")
    return lines


def test_only_abstract_classes_are_inherited_from():
    assert not concrete_bases(classes()), "\n".join(concrete_bases(classes()))


def test_few_concrete_methods_are_overridden():
    found = overridden_methods(classes())
    assert len(found) <= OVERRIDDEN_METHODS, "\n".join([f"{len(found)} overridden methods:", *found])


class Base(ABC):
    def __init__(self):
        self.number = 1

    def __repr__(self):
        return "Base()"

    def __getstate__(self):
        return {}

    @property
    def size(self):
        return 1

    @staticmethod
    def go():
        return 1

    @abstractmethod
    def come(self):
        """Is for children to say."""


class Child(Base):
    unit = "step"

    def __init__(self):
        self.number = 2

    def __repr__(self):
        return "Child()"

    def __getstate__(self):
        return {"number": self.number}

    @property
    def size(self):
        return 2

    def come(self):
        return 2


class Grandchild(Child):
    @staticmethod
    def go():
        return 3


def test_inheritance_and_overrides_are_found():
    found = [Base, Child, Grandchild]
    assert [line.split(" ")[0].rsplit(".", 2)[1:] for line in overridden_methods(found)] == [
        ["Child", "__getstate__"],
        ["Child", "size"],
        ["Grandchild", "go"],
    ]
    assert [line.rsplit(".", 1)[1] for line in concrete_bases(found)] == ["Grandchild inherits from Child"]


# Words and lengths.


def compact_branches():
    """Return where `compact_layers` stands outside the rooms that know how a weight is held."""
    return [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in FILES.values()
        if path.relative_to(PACKAGE).parts[0] not in COMPACT_FLOORS
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Name) and node.id == "compact_layers")
        or (isinstance(node, ast.Attribute) and node.attr == "compact_layers")
        or (isinstance(node, ast.ImportFrom) and "compact_layers" in [alias.name for alias in node.names])
    ]


def long_files():
    lengths = {path.relative_to(PACKAGE): len(path.read_text().splitlines()) for path in FILES.values()}
    return [f"{path}: {lines} lines" for path, lines in lengths.items() if lines > LINES]


def test_only_what_holds_weights_knows_compact_layers():
    assert not compact_branches(), "\n".join(compact_branches())


def test_no_file_is_long():
    assert not long_files(), "\n".join(long_files())


def test_the_docs_can_tell_doctests_from_text():
    """They show as code what stands under `Examples:`; under `Example:` brackets become links."""
    found = {path.relative_to(PACKAGE) for path in FILES.values() if "    Example:\n" in path.read_text()}
    assert not found, sorted(map(str, found))


if __name__ == "__main__":
    found = classes()
    for title, lines in {
        "Import cycles": import_cycles(),
        "Inherited from, but not abstract": concrete_bases(found),
        "Overridden concrete methods": overridden_methods(found),
        "`compact_layers` outside " + ", ".join(COMPACT_FLOORS): compact_branches(),
        f"Files over {LINES} lines": long_files(),
    }.items():
        print(f"{title}: {len(lines)}", *lines, sep="\n  ")
