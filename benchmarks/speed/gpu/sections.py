"""The sections by name, the most valuable ones first. A new one joins by a file and a row here.

A section's module has ``measure(bench)``, a generator of rows: each is written down as it comes, so a section
that is stopped, or fails, keeps what it has.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from benchmarks.speed.gpu.rows import Bench, Row


class Section(NamedTuple):
    """Where a section is, and the packages that it cannot do without."""

    module: str
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """Return the packages that are not installed."""
        return [package for package in self.needs if find_spec(package) is None]

    def load(self) -> Callable[[Bench], Iterator[Row]]:
        """Import the section and return what measures it."""
        measure: Callable[[Bench], Iterator[Row]] = import_module(self.module).measure
        return measure


SECTIONS: dict[str, Section] = {
    "card": Section("benchmarks.speed.gpu.card"),
    "numerics": Section("benchmarks.speed.gpu.numerics"),
    "suite": Section("benchmarks.speed.gpu.suite", ("pytest", "hypothesis")),
    "layers": Section("benchmarks.speed.gpu.layers"),
    "kernels": Section("benchmarks.speed.gpu.kernels", ("triton",)),
    "tuning": Section("benchmarks.speed.gpu.tuning"),
    "products": Section("benchmarks.speed.gpu.products"),
    "transforms": Section("benchmarks.speed.gpu.transforms", ("triton",)),
    "memory": Section("benchmarks.speed.gpu.memory"),
    "training": Section("benchmarks.speed.gpu.training", ("torchvision",)),
    "moves": Section("benchmarks.speed.gpu.moves", ("torchvision",)),
    "saliency": Section("benchmarks.speed.gpu.saliency", ("torchvision",)),
}
