"""Command lines of README and docs: where they stand, and what is checked of them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks" / "README.md"]
PROGRAMS = (
    "lightning-sparse",
    "python",
    "pip",
    "bash",
    "pytest",
    "pre-commit",
    "mike",
    "mkdocs",
    "srun",
    "torchrun",
)
SHELLS = ("", "bash", "console", "shell", "sh")
PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b(?!_)")


class Line(NamedTuple):
    """A command as a page has it, in one line; a mention within a sentence may leave arguments out."""

    page: str
    text: str
    is_mention: bool

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)


def lines() -> list[Line]:
    """Return every command once, with the first page it stands on."""
    found: dict[str, Line] = {}
    for page in PAGES:
        for text, is_mention in _of_page(page.read_text()):
            found.setdefault(text, Line(str(page.relative_to(ROOT)), text, is_mention))
    return list(found.values())


def _of_page(page: str) -> Iterator[tuple[str, bool]]:
    """Yield what stands in blocks without a language or with a shell's, and mentions within sentences."""
    for language, block in re.findall(r"^ *```(\S*)\n(.*?)^ *```$", page, flags=re.DOTALL | re.MULTILINE):
        if language not in SHELLS:
            continue
        for line in block.replace("\\\n", " ").split("\n"):
            for part in re.split(r" && |; ", line.split(" # ")[0]):
                text = re.sub(r"^(\$ |time |do )+", "", " ".join(part.split()))
                text = text.replace("python -m lightning_sparse ", "lightning-sparse ")
                if text.startswith(tuple(f"{program} " for program in PROGRAMS)):
                    yield text, False
    for text in re.findall(r"`(lightning-sparse [^`\n]+)`", page):
        if not PLACEHOLDER.search(text) and not re.search(r" --[\w-]+$", text.removesuffix(" --help")):
            yield text, True
