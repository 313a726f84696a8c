"""Which layers a conversion takes, where some parameters are to be trained in full and the others frozen."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from lightning_sparse.layers.convertible import (
    Convertible,
    convertible_layers,
    copies_of,
    frozen_too,
    unconverted_layers,
)
from lightning_sparse.layers.freezing import freeze_but_, weights_named
from lightning_sparse.selection import parameters_by_name

__all__ = ["LayerChoice"]


@dataclass(frozen=True)
class LayerChoice:
    """Layers by patterns on their weights.

    Args:
        include: Patterns of weights to take, as callbacks have them.
        exclude: Patterns of weights to leave alone.
        train: Patterns of what is trained in full: layers whose weight is named are left alone, and others
            are taken whether they are frozen or not, as all will be. ``None``: nothing is frozen or thawed.
    """

    include: Sequence[str] | None
    exclude: Sequence[str]
    train: Sequence[str] | None

    def all_excluded(self, module: nn.Module) -> list[str]:
        """Return patterns of all weights to leave alone.

        Raises:
            SparsityError: If a pattern of ``train`` matches nothing.
        """
        return [*self.exclude, *weights_named(module, self.train or ())]

    @contextmanager
    def open(self, module: nn.Module) -> Iterator[list[str]]:
        """Yield patterns of all weights to leave alone, to choose by while frozen ones count as others do."""
        exclude = self.all_excluded(module)
        if self.train is None:
            yield exclude
            return
        with frozen_too(module, self.include, exclude):
            yield exclude

    def layers(self, module: nn.Module) -> tuple[dict[str, Convertible], list[tuple[Convertible, str]]]:
        """Return the layers to convert by the name of their weight, and their frozen copies.

        Raises:
            SparsityError: As from `convertible_layers`.
        """
        with self.open(module) as exclude:
            layers = convertible_layers(module, self.include, exclude)
            return layers, copies_of(module, layers, self.include, exclude)

    def unconverted(self, module: nn.Module) -> list[str]:
        """Return the paths of layers that could be converted and are not; there may be none."""
        with self.open(module) as exclude:
            return unconverted_layers(module, self.include, exclude)

    def weights(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Return the weights of these layers by name."""
        parameters = parameters_by_name(module)
        names = [f"{path}.weight" for path in self.unconverted(module)]
        return {name: parameters[name] for name in names if name in parameters}

    def late(self, module: nn.Module) -> list[str]:
        """Return the paths of layers that were made after the conversion, and would have been converted."""
        return unconverted_layers(module, self.include, self.all_excluded(module))

    def freeze_(self, module: nn.Module) -> None:
        """Freeze what is not to be trained, if anything is."""
        if self.train is not None:
            freeze_but_(module, self.train)
