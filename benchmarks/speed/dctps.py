"""Dense-plus-Sparse layers against dense ones and the authors' form: layers, batches, whole steps, growth.

    python -m benchmarks.speed.dctps                      # all sections
    python -m benchmarks.speed.dctps linear conv    # some: linear, conv, batches, no_offset, steps, growth
    python -m benchmarks.speed.dctps growth --plot growth.png
    python -m benchmarks.speed.dctps linear --largest 1024

A call is one forward and backward pass in float32, the gradient of the input included, with gradients set to
``None`` before; in ``steps`` it is a whole training step. A sample is the mean of as many as fill 20 ms.

The authors' form is two dense products per layer, ``alpha F(x, C) + F(x, S * mask)``, with C stored. "auto"
has to be fast everywhere: where a table has no bar of its own it may take 1.10 of the dense time, and in
``batches`` 1.10 of that of the better backend too. ``no_offset`` are plain sparse layers. Nets are converted
with the default allocation.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from benchmarks.experiments.dctps_growth import growth
from benchmarks.harness.nets import cifar_resnet18
from benchmarks.harness.report import Bar, Report
from benchmarks.harness.runner import add_sections, parse
from benchmarks.harness.tables import table
from benchmarks.speed.dctps_forms import (
    AUTHORS,
    Case,
    ForwardBackward,
    choice_of,
    conv_case,
    forms_of,
    linear_case,
    net_forms,
    take_turns,
)
from lightning_sparse.layers import NoOffset
from lightning_sparse.models import LeNet300100

AUTO_AT_MOST, STEP_AT_MOST = 1.10, 1.0
STEP_DENSITY = 0.01
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "fused Adam": partial(Adam, lr=1e-4, fused=True),
    "Adam": partial(Adam, lr=1e-4),
}


class Tables(NamedTuple):
    """What is measured: layers, their densities, those of ``batches`` and ``no_offset``, rows, nets."""

    linear: Sequence[Case]
    conv: Sequence[Case]
    no_offset: Sequence[Case]
    densities: Sequence[float]
    fewer_densities: Sequence[float]
    rows: Sequence[int]
    nets: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]


LINEAR = (
    linear_case(784, 300, {0.01: 0.70}),
    linear_case(512, 512),
    linear_case(1024, 1024, {0.01: 0.28, 0.001: 0.18}),
    linear_case(2048, 2048),
    linear_case(4096, 1000),
    linear_case(4096, 4096, {0.01: 0.11, 0.001: 0.09}),
    linear_case(8192, 8192, {0.001: 0.045}),
)
CONV = (
    conv_case(64, 64, 3, 32),
    conv_case(128, 128, 3, 16),
    conv_case(256, 256, 3, 8, {0.01: 0.85}),
    conv_case(512, 512, 3, 4, {0.01: 0.58}),
    conv_case(256, 64, 1, 32),
    conv_case(512, 2048, 1, 4),
)
FULL = Tables(
    linear=LINEAR,
    conv=CONV,
    no_offset=(LINEAR[0], LINEAR[2], LINEAR[5], CONV[2]),
    densities=(0.05, 0.01, 0.001, 0.0001),
    fewer_densities=(0.01, 0.001),
    rows=(1, 8, 32, 128, 512, 1024),
    nets={
        "ResNet-18, batch 32": (cifar_resnet18, (32, 3, 32, 32)),
        "LeNet-300-100, batch 128": (LeNet300100, (128, 1, 28, 28)),
    },
)
SMOKE = Tables(
    linear=(linear_case(24, 16), linear_case(256, 256)),
    conv=(conv_case(4, 4, 3, 4),),
    no_offset=(linear_case(24, 16), conv_case(4, 4, 3, 4)),
    densities=(0.1,),
    fewer_densities=(0.1,),
    rows=(1, 8),
    nets={"tiny LeNet, batch 4": (partial(LeNet300100, 16), (4, 1, 4, 4))},
)
SWEPT_UP_TO = 4096  # features: 1024 rows of 8192 take seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(__doc__, argv, rounds=9, add_own=add_options)
    report = Report("dctps", options)
    clock = "CPU time" if report.clock == "cpu" else "wall clock"
    for name in options.sections:
        torch.manual_seed(0)
        print(f"{name}, by {clock}:\n{SECTIONS[name](report, options)}\n", flush=True)
    report.finish()


def linear(report: Report, options: argparse.Namespace) -> str:
    """Compare linear layers."""
    return layers(report, options, small_enough(tables(options).linear, options.largest))


def conv(report: Report, options: argparse.Namespace) -> str:
    """Compare convolutions."""
    return layers(report, options, tables(options).conv)


def layers(report: Report, options: argparse.Namespace, cases: Sequence[Case]) -> str:
    """Compare the forms of layers at all densities."""
    names = []
    for case in cases:
        for density in tables(options).densities:
            bar = Bar("auto", "dense", case.bars.get(density, AUTO_AT_MOST))
            bars = [*(Bar(form, "dense") for form in (AUTHORS, "materialize", "transform")), bar]
            names.append(f"{case.name}, {density:g}")
            forms = forms_of(case.make, density)
            compare(report, options, names[-1], forms, torch.randn(case.input_size), bars)
    return report.overview(names, "dense")


def no_offset(report: Report, options: argparse.Namespace) -> str:
    """Compare plain sparse layers with dense ones."""
    names, bars = [], [Bar(form, "dense") for form in ("materialize", "transform", "auto")]
    for case in small_enough(tables(options).no_offset, options.largest):
        for density in tables(options).fewer_densities:
            names.append(f"no offset, {case.name}, {density:g}")
            forms = forms_of(case.make, density, NoOffset())
            compare(report, options, names[-1], forms, torch.randn(case.input_size), bars)
    return report.overview(names, "dense")


def batches(report: Report, options: argparse.Namespace) -> str:
    """Compare ``auto`` with the better backend, and with the dense layer, over numbers of rows."""
    numbers = tables(options).rows
    lines = [("auto / dense, auto / better backend, choice", *(f"{number} rows" for number in numbers))]
    for case in small_enough(tables(options).linear, min(SWEPT_UP_TO, options.largest)):
        for density in tables(options).fewer_densities:
            name, forms = f"{case.name}, {density:g}", forms_of(case.make, density)
            del forms[AUTHORS]
            inputs = {f"{name}, {number} rows": torch.randn(number, case.input_size[1]) for number in numbers}
            lines.append((name, *(at(report, options, cell, forms, x) for cell, x in inputs.items())))
    return "\n".join([*table(lines), f"m: materialize, t: transform, !: above {AUTO_AT_MOST}"])


def at(
    report: Report, options: argparse.Namespace, name: str, forms: Mapping[str, nn.Module], x: Tensor
) -> str:
    """Compare at one number of rows; return the ratios to the dense layer and to the better backend."""
    bars = [Bar("materialize", "dense"), Bar("transform", "dense"), Bar("auto", "dense", AUTO_AT_MOST)]
    compare(report, options, name, forms, x, bars)
    better = min(("materialize", "transform"), key=partial(report.seconds, name))
    report.add(name, report.samples[name], [Bar("auto", better, AUTO_AT_MOST)])
    ratios = [report.ratio(name, "auto", against) for against in ("dense", better)]
    shown = [f"{ratio:.2f}{'!' if ratio > AUTO_AT_MOST else ''}" for ratio in ratios]
    return " ".join([*shown, report.notes[name][0]])


def compare(
    report: Report,
    options: argparse.Namespace,
    name: str,
    forms: Mapping[str, nn.Module],
    x: Tensor,
    bars: Sequence[Bar],
) -> None:
    """Time the forms of a layer in turn, and note which backend ``auto`` takes."""
    turns = {form: ForwardBackward(layer, x) for form, layer in forms.items()}
    report.add(name, take_turns(turns, options), bars)
    report.notes[name] = choice_of(forms["auto"], x)


def steps(report: Report, options: argparse.Namespace) -> str:
    """Compare training steps of whole nets."""
    names = []
    bars = [Bar("dense again", "dense"), Bar(AUTHORS, "dense"), Bar("auto", "dense", STEP_AT_MOST)]
    for net, (make, size) in tables(options).nets.items():
        batch = torch.randn(size), torch.randint(10, size[:1])
        for optimizer, optimize in OPTIMIZERS.items():
            forms = net_forms(make, STEP_DENSITY)
            turns = {name: step(form, optimize(form.parameters()), batch) for name, form in forms.items()}
            names.append(f"{net}, {optimizer}")
            report.add(names[-1], take_turns(turns, options), bars)
    return report.overview(names, "dense")


def step(net: nn.Module, optimizer: Optimizer, batch: tuple[Tensor, Tensor]) -> Callable[[], None]:
    """Return what trains a net by one step."""
    images, labels = batch

    def turn() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()

    return turn


def tables(options: argparse.Namespace) -> Tables:
    """Return what is to be measured."""
    return SMOKE if options.smoke else FULL


def small_enough(cases: Sequence[Case], features: int) -> list[Case]:
    """Return the convolutions and the linear layers with so many features at most."""
    return [case for case in cases if case.features <= features]


SECTIONS: dict[str, Callable[[Report, argparse.Namespace], str]] = {
    section.__name__: section for section in (linear, conv, batches, no_offset, steps, growth)
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_sections(parser, list(SECTIONS))
    parser.add_argument("--largest", type=int, default=16384, help="features of the largest linear layers")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where to draw growth")


if __name__ == "__main__":
    main()
