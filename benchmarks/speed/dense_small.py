"""What is left of sparse nets when their dead units are cut out: units, parameters, bytes, latency.

    python -m benchmarks.speed.dense_small --threads 1                     # masks at initialisation
    python -m benchmarks.speed.dense_small --threads 1 trained --data DIR  # and nets searched by ASNI
    python -m benchmarks.speed.dense_small --threads 1 large               # torchvision's nets, no latency
    python -m benchmarks.speed.dense_small --smoke masks

"units" is the share of neurons and channels that is cut, of all layers but the last; "parameters" the share
that is left; "bytes" is what the files of the formats "dense" and "dense-small" take; "1" and "128" are the
latency of the smaller net at this batch, as a share of the dense one's, in CPU time: median of paired rounds.
A net that gives the same output for every image is marked "constant": its masks let nothing through, or too
little for single precision. Its latency would mean nothing.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.harness.runner import add_sections, interleave, paired_ratio, parse, timed
from benchmarks.speed.trained_by_asni import SEARCHES, trained
from lightning_sparse import Magnitude, PruningMethod, Random, SynFlow, sparsify_
from lightning_sparse.export import SmallerNet, export, smaller
from lightning_sparse.models import VGG11, Conv2, Conv4, Conv6, LeNet5, LeNet300100

CIFAR, MNIST = (3, 32, 32), (1, 28, 28)
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LeNet-300-100": (LeNet300100, MNIST),
    "LeNet-5": (LeNet5, CIFAR),
    "Conv-2": (Conv2, CIFAR),
    "Conv-4": (Conv4, CIFAR),
    "Conv-6": (Conv6, CIFAR),
    "VGG-11": (VGG11, CIFAR),
}
METHODS: dict[str, Callable[[], PruningMethod]] = {
    "magnitude": Magnitude,
    "erk": partial(Random, allocation="erk"),
    "synflow": SynFlow,
}
DENSITIES = (0.03, 0.02, 0.01, 0.005)
FIGURES = ("units", "parameters", "bytes, dense", "bytes, small", "1", "128", "difference")
HEADING = ("net", "masks", "sparse", *FIGURES)


class Case(NamedTuple):
    """A sparse net, how it came to be, and the shape of an image."""

    name: str
    masks: str
    density: float
    net: nn.Module
    shape: tuple[int, ...]


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for every case, as soon as it is measured."""
    options = parse(__doc__, argv, rounds=5, add_own=add_options)
    print("| " + " | ".join(HEADING) + " |")
    print("|---|---|" + "---:|" * (len(HEADING) - 2))
    for section in options.sections:
        for case in SECTIONS[section](options):
            print("| " + " | ".join(row(case, options, with_latency=section != "large")) + " |", flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_sections(parser, list(SECTIONS))
    parser.set_defaults(sections=["masks"])
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS), help="of masks")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where MNIST lies (default: data)")


def masks(options: argparse.Namespace) -> Iterator[Case]:
    """Yield nets that are masked at initialisation."""
    for name in options.nets[: 1 if options.smoke else None]:
        make, shape = NETS[name]
        for method, made in METHODS.items():
            for density in DENSITIES:
                torch.manual_seed(0)
                net = make().eval()
                sparsify_(net, made(), density, batches=[torch.ones(1, *shape)], seed=0)
                yield Case(name, method, density, net, shape)


def searched(options: argparse.Namespace) -> Iterator[Case]:
    """Yield nets that were searched by ASNI; those that are not there yet are searched first."""
    for name, search in SEARCHES.items():
        for density in DENSITIES[:3]:
            net, accuracy = trained(name, density, options.results / "asni-nets", options.data)
            yield Case(name, f"ASNI, {accuracy:.1%} right", density, net, search.shape)


def large(_: argparse.Namespace) -> Iterator[Case]:
    """Yield nets of torchvision, masked by magnitude, all layers together."""
    from torchvision import models

    for name in ("resnet18", "resnet50", "vgg11", "mobilenet_v2"):
        torch.manual_seed(0)
        net = getattr(models, name)().eval()
        sparsify_(net, Magnitude(), 0.01, seed=0)
        yield Case(name, "magnitude", 0.01, net, (3, 64, 64))


SECTIONS: dict[str, Callable[[argparse.Namespace], Iterator[Case]]] = {
    "masks": masks,
    "trained": searched,
    "large": large,
}


def row(case: Case, options: argparse.Namespace, with_latency: bool) -> list[str]:
    """Return the cells of a row."""
    small = smaller(case.net, input_size=(1, *case.shape))
    through = passes_through(case.net, case.shape)
    dense, bytes_small = (file_size(net) for net in (case.net, small.module))
    times = ["", ""]
    if with_latency and through:
        times = [latency(case, small, batch, options.rounds) for batch in (1, 128)]
    hidden = small.layers[:-1]
    gone = 1 - sum(layer.units for layer in hidden) / sum(layer.units_before for layer in hidden)
    return [
        case.name,
        case.masks + ("" if through else ", constant"),
        f"{1 - case.density:.1%}",
        f"{gone:.1%}",
        f"{small.parameters / small.parameters_before:.2%}",
        f"{dense:,}",
        f"{bytes_small:,}",
        *times,
        f"{small.difference:.0e}",
    ]


def passes_through(net: nn.Module, shape: tuple[int, ...]) -> bool:
    """Tell whether outputs depend on the image."""
    with torch.no_grad():
        out = net(torch.randn(4, *shape))
    return bool((out - out[0]).abs().max() > 0)


def file_size(net: nn.Module) -> int:
    """Return how many bytes a net's state dict takes on disk, as "dense" and "dense-small" write it."""
    with tempfile.TemporaryDirectory() as folder:
        return export(net, Path(folder) / "net").stat().st_size


def latency(case: Case, small: SmallerNet, batch: int, rounds: int) -> str:
    """Return the CPU time of the smaller net as a share of the dense one's."""
    images, calls = torch.randn(batch, *case.shape), 10 if batch == 1 else 1
    with torch.inference_mode():
        nets = {"dense": case.net, "small": small.module}
        samples = interleave({name: timed(partial(net, images), calls) for name, net in nets.items()}, rounds)
    cpu = {name: [sample.cpu for sample in taken] for name, taken in samples.items()}
    return f"{paired_ratio(cpu['small'], cpu['dense']).median:.2f}"


if __name__ == "__main__":
    main()
