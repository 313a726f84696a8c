"""Times both backends of Dense-plus-Sparse layers over shapes and batches, and fits the rule's constants.

    python -m benchmarks.speed.backend_rule --threads 1

Prints the constants of ``lightning_sparse/layers/backends/``, and of the DCT's part, which are in
``layers/offsets/dct.py`` there: microseconds, by non-negative least squares of the relative errors.
Says how far from the better backend the rule is, with the constants as they are in the package. Some minutes
on one thread, by CPU time.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls

from benchmarks.harness.runner import parse
from benchmarks.speed.dctps_forms import (
    Case,
    ForwardBackward,
    compact_form,
    conv_case,
    linear_case,
    take_turns,
)
from lightning_sparse.layers.backends import choose_backend
from lightning_sparse.layers.support import INDEX_ADD_UP_TO

LINEAR = ((784, 300), (300, 100), (256, 256), (512, 512), (1024, 1024), (2048, 2048), (4096, 1000))
CONV = (
    *(
        (512, 512, 3, 4),
        (256, 256, 3, 8),
        (128, 128, 3, 16),
        (64, 64, 3, 32),
        (256, 512, 3, 8),
        (16, 120, 5, 6),
    ),
    *((256, 64, 1, 32), (512, 2048, 1, 4), (1024, 512, 1, 4), (256, 256, 1, 8), (256, 512, 1, 8)),
)
DENSITIES = (0.05, 0.01, 0.001)
LARGEST = 6e9  # products per pass
Features = Callable[["Timing"], Sequence[float]]


class Timing(NamedTuple):
    """Microseconds of a forward and backward pass by each backend."""

    shape: torch.Size
    nnz: int
    rows: int
    microseconds: dict[str, float]

    @property
    def channels(self) -> int:
        """Return the channels or features of input and output together."""
        return self.shape[0] + self.shape[1]

    @property
    def places(self) -> int:
        """Return the places in the kernel; 1 for linear layers."""
        return math.prod(self.shape[2:])


def main(argv: Sequence[str] | None = None) -> None:
    """Time, fit and compare."""
    options = parse(__doc__, argv, rounds=5)
    if options.threads != 1:
        raise SystemExit(f"`--threads` must be 1, since CPU time counts, got {options.threads}.")
    timings = [timing for case in cases(options.smoke) for timing in time_of(case, options)]
    kinds = {
        "linear": ([t for t in timings if len(t.shape) == 2], linear_features),
        "pointwise": ([t for t in timings if len(t.shape) > 2 and t.places == 1], pointwise_features),
        "spatial": ([t for t in timings if t.places > 1], spatial_features),
    }
    fit("materialize", timings, materialize_features, "materialize")
    for name, (some, features) in kinds.items():
        if some:
            fit(name, some, features, "transform")
    worst = sorted(timings, key=regret, reverse=True)
    print(f"{len(timings)} timings; what the rule chooses over the better backend, at worst:")
    for timing in worst[:5]:
        what = f"{tuple(timing.shape)}, k={timing.nnz}, {timing.rows} rows"
        print(f"  {regret(timing):.2f}  {what}")


def cases(smoke: bool) -> Iterator[Case]:
    """Yield layers with batches of several sizes."""
    if smoke:
        yield from (linear_case(64, 64, rows=2), conv_case(16, 16, 3, 4), conv_case(64, 64, 1, 4))
        return
    for inputs, outputs in LINEAR:
        yield from (linear_case(inputs, outputs, rows=rows) for rows in (1, 8, 32, 128, 512, 1024))
    for layer in CONV:
        case = conv_case(*layer)
        yield from (replace(case, input_size=(images, *case.input_size[1:])) for images in (4, 32, 128))


def time_of(case: Case, options: argparse.Namespace) -> Iterator[Timing]:
    """Yield the timings of a layer at all densities."""
    x = torch.randn(case.input_size)
    for density in DENSITIES:
        layers = {name: compact_form(case.make, density, name) for name in ("materialize", "transform")}
        layer = layers["materialize"]
        rows = math.prod(layer.output_size(x)) // layer.shape[0]
        if rows * math.prod(layer.shape) > LARGEST:
            return
        samples = take_turns({name: ForwardBackward(layer, x) for name, layer in layers.items()}, options)
        times = {name: 1e6 * median(sample.cpu for sample in taken) for name, taken in samples.items()}
        yield Timing(layer.shape, layer.nnz, rows, times)


def materialize_features(t: Timing) -> Sequence[float]:
    """PER_CALL, PER_ENTRY, PER_PRODUCT."""
    entries = math.prod(t.shape)
    return 1, entries, t.rows * entries


def linear_features(t: Timing) -> Sequence[float]:
    """LINEAR_: PER_CALL (DCT), PER_CALL_IN_BAGS, PER_FEATURE (DCT), PER_FEATURE_IN_BAGS, PER_VALUE."""
    in_bags = t.nnz > INDEX_ADD_UP_TO * max(t.shape)
    return 1, in_bags, t.rows * max(t.shape), t.rows * t.channels * in_bags, t.rows * t.nnz


def pointwise_features(t: Timing) -> Sequence[float]:
    """POINTWISE_: PER_CALL (DCT), PER_FEATURE (DCT), PER_CHANNEL, PER_VALUE."""
    return 1, t.rows * max(t.shape[:2]), t.rows * t.channels, t.rows * t.nnz


def spatial_features(t: Timing) -> Sequence[float]:
    """SPATIAL_: PER_PLACE, PER_PRODUCT (DCT), PER_CHANNEL, PER_PLANE, PER_VALUE."""
    planes = min(t.places * t.channels, 2 * t.nnz)
    per_row = (t.shape[0] * t.shape[1], t.channels, planes, t.nnz)
    return t.places, *(t.rows * feature for feature in per_row)


def fit(name: str, timings: Sequence[Timing], features: Features, backend: str) -> None:
    """Print the constants that fit best, and how well."""
    times = np.array([timing.microseconds[backend] for timing in timings])
    table = np.array([features(timing) for timing in timings], dtype=float)
    constants, _ = nnls(table / times[:, None], np.ones(len(times)))
    errors = np.abs(table @ constants / times - 1)
    figures = ", ".join(f"{constant:.3g}" for constant in constants)
    print(f"{name}: {figures}; off by {np.median(errors):.0%}, at most {errors.max():.0%}")


def regret(timing: Timing) -> float:
    """Return how much longer what the rule chooses takes than the better backend."""
    choice = choose_backend(timing.shape, timing.nnz, timing.rows, torch.device("cpu"), threads=1)
    return timing.microseconds[choice] / min(timing.microseconds.values())


if __name__ == "__main__":
    main()
