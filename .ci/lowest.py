"""Prints the lowest version of all that pyproject.toml names and the tests need, a requirement a line."""

import sys
from collections.abc import Iterator
from pathlib import Path

import tomllib
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
WITHOUT = ("bolts", "dev", "transformers")
"""Extras with environments of their own."""
TOOLS = (
    "import-linter",
    "lightning",
    "mkdocs-material",
    "mkdocstrings",
    "mypy",
    "pre-commit",
    "ruff",
    "types-PyYAML",
)
"""Of "dev", what no test imports; and the twin of pytorch-lightning, as one of both is enough."""


def needed() -> Iterator[Requirement]:
    """Yield what is installed: requirements of the package itself, of its extras, and of its tests."""
    extras = [line for name, lines in EXTRAS.items() if name not in WITHOUT for line in lines]
    for found in map(Requirement, [*PROJECT["dependencies"], *extras, *EXTRAS["dev"]]):
        if found.name != PROJECT["name"] and found.name not in TOOLS:
            yield found


def lowest(found: Requirement) -> str:
    """Return a requirement of the very version that its lower bound names."""
    bounds = [one.version for one in found.specifier if one.operator in (">=", "==")]
    if len(bounds) != 1:
        sys.exit(
            f"pyproject.toml: {found} must have one lower bound, got {len(bounds)}. Try which version works."
        )
    extras = f"[{','.join(sorted(found.extras))}]" if found.extras else ""
    return f"{found.name}{extras}=={bounds[0]}"


print(*dict.fromkeys(map(lowest, needed())), sep="\n")
