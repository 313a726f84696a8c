"""Times both backends of Dense-plus-Sparse layers over shapes and batches, and fits the rule's constants.

    python -m benchmarks.speed.backend_rule --threads 1
    python -m benchmarks.speed.backend_rule --threads 1 --timings FILE     # fits again what was timed before

Prints the constants of ``lightning_sparse/layers/backends/``, and of the offsets' own parts, which are in
``layers/offsets/`` there: microseconds, by non-negative least squares of the relative errors. All offsets
share what products with S take. Says for each offset how far from the better backend the rule is, with the
constants as they are in the package. Writes the timings down, to be fitted again. Half an hour on one thread,
by CPU time.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls

from benchmarks.harness.report import file_of_run
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
from lightning_sparse.layers.backends.materialize import dense_features
from lightning_sparse.layers.backends.transform import CONSTANTS, sparse_features
from lightning_sparse.layers.offsets import offset_from_name

LINEAR = (
    (784, 300),
    (300, 100),
    (256, 256),
    (512, 512),
    (1024, 1024),
    (2048, 2048),
    (4096, 1000),
    (640, 2560),
)
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
ROWS, IMAGES = (1, 8, 32, 128, 512, 1024), (4, 32)
DENSITIES = (0.2, 0.05, 0.01, 0.001)
OFFSETS = ("none", "dct", "pretrained")
BACKENDS = ("materialize", "transform")
LARGEST = 2.5e9  # products per pass
NEAR = 1.10  # of the better backend's time: what counts as as good
Features = Callable[["Timing"], Sequence[float]]


class Timing(NamedTuple):
    """Microseconds of a forward and backward pass by each backend."""

    shape: Sequence[int]
    nnz: int
    rows: int
    offset: str
    microseconds: dict[str, float]


def main(argv: Sequence[str] | None = None) -> None:
    """Time, fit and compare."""
    options = parse(__doc__, argv, rounds=5, add_own=add_options)
    if options.threads != 1:
        raise SystemExit(f"`--threads` must be 1, since CPU time counts, got {options.threads}.")
    timings = read(options.timings) if options.timings else timed(options)
    for way in ("linear", "conv"):
        some = [timing for timing in timings if materialized(timing)[0] == way]
        fit(f"materialize: {way}", some, lambda t: materialized(t)[1], "materialize")
    for ways in (("few", "linear"), ("pointwise",), ("spatial",)):
        some = [timing for timing in timings if transformed(timing)[0] in ways]
        fit(f"transform: {', '.join(ways)}, dct, pretrained", some, partial(parts, ways), "transform")
    for offset in OFFSETS:
        tell([timing for timing in timings if timing.offset == offset], offset)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--timings", type=Path, metavar="FILE", help="what an earlier run has written down")


def timed(options: argparse.Namespace) -> list[Timing]:
    """Return timings of all cases and offsets, and write them down."""
    path = file_of_run("backend_rule", options.results)
    timings: list[Timing] = []
    for case in cases(options.smoke):
        timings += time_of(case, options)
        path.write_text(json.dumps(timings))
    print(f"Written to {path}")
    return timings


def read(path: Path) -> list[Timing]:
    """Return the timings of an earlier run."""
    return [Timing(*timing) for timing in json.loads(path.read_text())]


def cases(smoke: bool) -> Iterator[Case]:
    """Yield layers with batches of several sizes."""
    if smoke:
        yield from (linear_case(64, 64, rows=2), conv_case(16, 16, 3, 4), conv_case(64, 64, 1, 4))
        return
    for inputs, outputs in LINEAR:
        yield from (linear_case(inputs, outputs, rows=rows) for rows in ROWS)
    for layer in CONV:
        case = conv_case(*layer)
        yield from (replace(case, input_size=(images, *case.input_size[1:])) for images in IMAGES)


def time_of(case: Case, options: argparse.Namespace) -> Iterator[Timing]:
    """Yield the timings of a layer at all densities, with all offsets."""
    x = torch.randn(case.input_size)
    for density in DENSITIES:
        forms = {(o, b): compact_form(case.make, density, b, o) for o in OFFSETS for b in BACKENDS}
        layer = forms["none", "transform"]
        rows = math.prod(layer.output_size(x)) // layer.shape[0]
        if rows * math.prod(layer.shape) > LARGEST:
            return
        turns = {" ".join(key): ForwardBackward(form, x) for key, form in forms.items()}
        samples = take_turns(turns, options)
        times = {key: 1e6 * median(sample.cpu for sample in taken) for key, taken in samples.items()}
        for offset in OFFSETS:
            of_backends = {backend: times[f"{offset} {backend}"] for backend in BACKENDS}
            yield Timing(list(layer.shape), layer.nnz, rows, offset, of_backends)


def materialized(t: Timing) -> tuple[str, Sequence[float]]:
    """Return the way, and the features, in the order of the constants in ``backends/materialize.py``."""
    return dense_features(torch.Size(t.shape), t.nnz, t.rows, offset_from_name(t.offset))


def transformed(t: Timing) -> tuple[str, Sequence[float]]:
    """Return the way, and the features, in the order of the constants in ``backends/transform.py``."""
    return sparse_features(torch.Size(t.shape), t.nnz, t.rows)


def parts(ways: Sequence[str], t: Timing) -> Sequence[float]:
    """Return the features of each of these ways, then those of the DCT and of a stored weight."""
    way, features = transformed(t)
    of_ways = [f * (way == each) for each in ways for f in (features if way == each else CONSTANTS[each])]
    per_row = (t.shape[0], t.shape[0] * t.shape[1]) if way == "spatial" else (max(t.shape[:2]),)
    dct, stored = t.offset == "dct", (t.offset == "pretrained") * math.prod(t.shape)
    return *of_ways, dct, *(dct * t.rows * f for f in per_row), stored > 0, stored, stored * t.rows


def fit(name: str, timings: Sequence[Timing], features: Features, backend: str) -> None:
    """Print the constants that fit best, and how well; nothing without timings."""
    if not timings:
        return
    times = np.array([timing.microseconds[backend] for timing in timings])
    table = np.array([features(timing) for timing in timings], dtype=float)
    constants, _ = nnls(table / times[:, None], np.ones(len(times)))
    errors = np.abs(table @ constants / times - 1)
    figures = ", ".join(f"{constant:.3g}" for constant in constants)
    print(f"{name}: {figures}; off by {np.median(errors):.0%}, at most {errors.max():.0%}")


def tell(timings: Sequence[Timing], offset: str) -> None:
    """Print how much longer the choices of the rule take than the better backend."""
    regrets = {number: regret(timing) for number, timing in enumerate(timings)}
    near = sum(value <= NEAR for value in regrets.values()) / max(1, len(timings))
    print(f"{offset}: {len(timings)} timings, {near:.1%} within {NEAR:g} of the better backend; at worst:")
    for number in sorted(regrets, key=regrets.__getitem__, reverse=True)[:5]:
        t = timings[number]
        chosen = "{materialize:.0f} materialized, {transform:.0f} transformed".format(**t.microseconds)
        print(f"  {regrets[number]:.2f}  {tuple(t.shape)}, k={t.nnz}, {t.rows} rows: {chosen} microseconds")


def regret(timing: Timing) -> float:
    """Return how much longer what the rule chooses takes than the better backend."""
    work = torch.Size(timing.shape), timing.nnz, timing.rows, torch.device("cpu")
    choice = choose_backend(*work, threads=1, offset=timing.offset)
    return timing.microseconds[choice] / min(timing.microseconds.values())


if __name__ == "__main__":
    main()
