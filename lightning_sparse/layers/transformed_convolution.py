"""Products of convolutions by a fast transform and a sparse kernel."""

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_sparse.layers.bags import Bags, WeightedBags, transposed
from lightning_sparse.layers.correlation import Correlation
from lightning_sparse.layers.geometry import Convolution
from lightning_sparse.layers.transformed import Transformed, plus_scaled

__all__ = ["TransformedConvolution", "TransformedPointwise"]


class _Phase(NamedTuple):
    """Every so many pixels of an input, which meet the same places of a kernel.

    Args:
        pixels: Which they are, in each dimension.
        entries: Numbers of the values that they meet; ``None`` for all.
        correlation: What makes their gradient of that of the output.
    """

    pixels: tuple[slice, ...]
    entries: Tensor | None
    correlation: Correlation


class TransformedConvolution(Transformed):
    """Transforms for ``(batch, channels, *sides)``: S correlates channels row by row, the batch innermost.

    The adjoint of a stride meets every so many pixels of the input by the same places of the kernel: such
    pixels are a phase, an image of its own.
    """

    floats_at_a_time = 2**19

    def _floats_per_item(self, x: Tensor) -> int:
        pixels = math.prod(self._geometry.output_size(x.shape, self.shape))
        return max(1, x[0].numel() if len(x) else 0, self.shape[0] * pixels)

    @cached_property
    def _correlation(self) -> Correlation:
        outputs, channels, at = self._entries()
        return Correlation(outputs, channels, at, self._sizes, self._geometry.stride)

    @cached_property
    def _phases(self) -> list[_Phase]:
        """Those that meet any value."""
        (outputs, channels, at), strides = self._entries(), self._geometry.stride
        step, phases = torch.tensor(strides, device=at.device), []
        for start in product(*map(range, strides)):
            far = torch.tensor(start, device=at.device) - at
            meets = (far % step == 0).all(1).nonzero().flatten()
            if len(meets):
                entries = channels[meets], outputs[meets], far[meets] // step
                backwards = Correlation(*entries, self._sizes[::-1], (1,) * len(strides))
                pixels = tuple(slice(first, None, by) for first, by in zip(start, strides, strict=True))
                phases.append(_Phase(pixels, None if len(meets) == len(at) else meets.int(), backwards))
        return phases

    def _entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return output and input channel of each value, and its place as seen from an output's pixel."""
        g, flat = self._geometry, self.indices.long()
        coordinates = []
        for size in reversed(self.shape[1:]):
            coordinates.append(flat % size)
            flat = flat // size
        channel, *place = reversed(coordinates)
        at = [p * gap - pad for p, gap, pad in zip(place, g.dilation, g.padding, strict=True)]
        return flat, channel + flat // (self.shape[0] // g.groups) * self.shape[1], torch.stack(at, 1)

    @property
    def _sizes(self) -> tuple[int, int]:
        """Channels of output and input."""
        return self.shape[0], self.shape[1] * self._geometry.groups

    def _ready(self, values: Tensor) -> WeightedBags:
        return self._correlation.bags.weighted(values)

    def _ready_adjoint(self, values: Tensor) -> list[WeightedBags]:
        return [
            p.correlation.bags.weighted(values if p.entries is None else values.index_select(0, p.entries))
            for p in self._phases
        ]

    def _plus_sparse(
        self, offset: Tensor | None, alpha: Tensor | None, ready: WeightedBags, x: Tensor
    ) -> Tensor:
        size = self._geometry.output_size(x.shape, self.shape)
        return plus_scaled(_images(self._correlation.apply(ready, _planes(x), size)), offset, alpha)

    def _lay_out(self, grad: Tensor) -> Tensor:
        return _planes(grad)

    def _plus_sparse_adjoint(
        self,
        offset: Tensor | None,
        alpha: Tensor | None,
        ready: list[WeightedBags],
        laid_out: Tensor,
        input_size: torch.Size,
    ) -> Tensor:
        batch, channels, *sides = input_size
        if len(self._phases) == math.prod(self._geometry.stride) == 1:
            planes = self._phases[0].correlation.apply(ready[0], laid_out, sides)
        else:
            planes = laid_out.new_zeros(channels, *sides, batch)
            for phase, weighted in zip(self._phases, ready, strict=True):
                where = (slice(None), *phase.pixels)
                pixels = planes[where]
                if pixels.numel():
                    pixels.copy_(phase.correlation.apply(weighted, laid_out, pixels.shape[1:-1]))
        return plus_scaled(_images(planes), offset, alpha)

    def _sample(self, laid_out: Tensor, x: Tensor) -> Tensor:
        return self._correlation.sample(laid_out, _planes(x))

    @property
    def _geometry(self) -> Convolution:
        assert self.geometry is not None
        return self.geometry


class TransformedPointwise(Transformed):
    """Transforms for kernels of one place that pads nothing: S acts on the channels of every pixel.

    An image of many pixels is a table as it is; the pixels of small ones are put side by side.
    """

    floats_at_a_time = 2**19

    def _floats_per_item(self, x: Tensor) -> int:
        return max(1, max(self.shape[0], x.shape[1]) * math.prod(x.shape[2:]))

    @cached_property
    def _bags(self) -> Bags:
        outputs, inputs, sizes = self._entries()
        return Bags(outputs, inputs, sizes)

    @cached_property
    def _bags_of_inputs(self) -> Bags:
        outputs, inputs, sizes = self._entries()
        return Bags(inputs, outputs, sizes[::-1])

    def _entries(self) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Return output and input channel of each value, and how many there are."""
        assert self.geometry is not None
        (outputs, inputs), groups = self.shape[:2], self.geometry.groups
        flat = self.indices.long()
        first = flat // inputs // (outputs // groups) * inputs  # of the group
        return flat // inputs, flat % inputs + first, (outputs, inputs * groups)

    def _ready(self, values: Tensor) -> WeightedBags:
        return self._bags.weighted(values)

    def _ready_adjoint(self, values: Tensor) -> WeightedBags:
        return self._bags_of_inputs.weighted(values)

    def _plus_sparse(
        self, offset: Tensor | None, alpha: Tensor | None, ready: WeightedBags, x: Tensor
    ) -> Tensor:
        met = self._met(x)
        return plus_scaled(_from_tables(ready, _tables(met), met.shape), offset, alpha)

    def _lay_out(self, grad: Tensor) -> Tensor:
        return grad

    def _plus_sparse_adjoint(
        self,
        offset: Tensor | None,
        alpha: Tensor | None,
        ready: WeightedBags,
        laid_out: Tensor,
        input_size: torch.Size,
    ) -> Tensor:
        d_met = _from_tables(ready, _tables(laid_out), laid_out.shape)
        if d_met.shape == input_size:
            return plus_scaled(d_met, offset, alpha)
        d_x = laid_out.new_zeros(input_size)
        self._met(d_x).copy_(d_met)
        return plus_scaled(d_x, offset, alpha)

    def _sample(self, laid_out: Tensor, x: Tensor) -> Tensor:
        total = None
        for grad, table in zip(_tables(laid_out), _tables(self._met(x)), strict=True):
            total = self._bags.sample(grad, table, total)
        assert total is not None
        return total

    def _met(self, x: Tensor) -> Tensor:
        """Return the pixels that the stride meets."""
        assert self.geometry is not None
        return self.geometry.met_pixels(x)


_PIXELS = 64  # from which on an image is a table by itself


def _tables(images: Tensor) -> Sequence[Tensor]:
    """Return tables of channels by pixels."""
    if len(images) and math.prod(images.shape[2:]) >= _PIXELS:
        return images.flatten(2).contiguous().unbind()
    return (_planes(images).flatten(1),)


def _from_tables(ready: WeightedBags, tables: Sequence[Tensor], size: torch.Size) -> Tensor:
    """Return images of their sums: ``(batch, outputs, *sides)``, with the batch and the sides of ``size``."""
    sums = [ready.sum(table) for table in tables]
    if size[0] and math.prod(size[2:]) >= _PIXELS:
        return torch.stack(sums).view(size[0], len(sums[0]), *size[2:])
    return _images(sums[0].view(len(sums[0]), *size[2:], size[0]))


def _planes(images: Tensor) -> Tensor:
    """Return ``(channels, *sides, batch)`` for ``(batch, channels, *sides)``."""
    return transposed(images.flatten(1)).view(*images.shape[1:], len(images))


def _images(planes: Tensor) -> Tensor:
    """Return ``(batch, channels, *sides)`` for ``(channels, *sides, batch)``."""
    return transposed(planes.flatten(0, -2)).view(planes.shape[-1], *planes.shape[:-1])
