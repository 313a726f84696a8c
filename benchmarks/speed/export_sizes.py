"""Bytes of exported files, and how fast nets with CSR weights are.

    python -m benchmarks.speed.export_sizes --threads 1                 # all sections
    python -m benchmarks.speed.export_sizes --threads 1 codes layers    # some: sizes, codes, layers

``sizes`` trains LeNet-300-100 and ResNet-18 on scikit-learn's digits, a few epochs at each density, and
exports them. "gzip" is the dense file, packed as well as gzip can. "least" are the bytes that values and
random positions take by entropy.

``codes`` compares ways to write down positions: bits for each, and what reading them back takes.

``layers`` times a linear layer by itself, forward only: as dense, with a CSR weight as the format ``csr`` has
it, and as a compact layer of this package.
"""

import argparse
import copy
import gzip
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from tempfile import TemporaryDirectory

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from benchmarks.harness.report import Bar, Report
from benchmarks.harness.runner import add_sections, interleave, parse, timed_at_length
from benchmarks.harness.tables import table
from benchmarks.harness.training import silence_lightning
from lightning_sparse import DCTpSConversion, PruneAtInit
from lightning_sparse.data import DigitsDataModule
from lightning_sparse.export import export
from lightning_sparse.export.sparse_tensors import SparseTensors
from lightning_sparse.functional.packing import pack_bits
from lightning_sparse.functional.positions import pack_positions, unpack_positions
from lightning_sparse.functional.skips import pack_skips, unpack_skips
from lightning_sparse.layers.compaction import store_compactly_
from lightning_sparse.models import ImageClassifier, LeNet300100, ResNet18

DENSITIES = (0.1, 0.01, 0.001)

NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "LeNet-300-100": (lambda: LeNet300100(in_features=64), 30),
    "ResNet-18": (lambda: ResNet18(in_channels=1), 2),
}
LAYERS = ((784, 300), (1024, 1024), (4096, 4096))
ROWS = (1, 8, 128)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(__doc__, argv, rounds=7, add_own=partial(add_sections, names=list(SECTIONS)))
    report = Report("export_sizes", options)
    silence_lightning()
    warnings.filterwarnings("ignore")
    for name in options.sections:
        print(f"{name}:\n{SECTIONS[name](report, options)}\n", flush=True)
    report.finish()


def sizes(report: Report, options: argparse.Namespace) -> str:
    """Train nets, export them, and compare the files."""
    header = ("net", "kept", "dense", "gzip", "safetensors", "of dense", "over the least", "csr, 64 images")
    rows = [header]
    nets = {"LeNet-300-100": NETS["LeNet-300-100"]} if options.smoke else NETS
    for name, (make, epochs) in nets.items():
        for density in DENSITIES[:1] if options.smoke else DENSITIES:
            net = trained(make(), PruneAtInit("erk", density), 1 if options.smoke else epochs)
            rows.append((name, f"{density:.1%}", *cells(report, f"{name}, {density:g}", net)))
        net = trained(make(), DCTpSConversion(0.01), 1)
        with TemporaryDirectory() as folder:
            dense = export(net, f"{folder}/dense").stat().st_size
            small = export(net, f"{folder}/small", SparseTensors(offsets="small")).stat().st_size
        report.add_value(f"{name}, DCTpS, 0.01", "small / dense", small / dense)
        rows.append((name, "DCTpS, 1.0%", f"{dense:,}", "", f"{small:,}", f"{small / dense:.2%}", "", ""))
    return "\n".join(table(rows))


def cells(report: Report, case: str, net: nn.Module) -> tuple[str, ...]:
    """Return the sizes of the files of one net."""
    example = torch.zeros(64, 1, 8, 8)
    with TemporaryDirectory() as folder:
        dense = export(net, f"{folder}/dense")
        packed = len(gzip.compress(dense.read_bytes(), 9))
        small = export(net, f"{folder}/small", "safetensors").stat().st_size
        csr = export(net, f"{folder}/csr", "csr", example_input=example).stat().st_size
        size = dense.stat().st_size
    least = sum(map(least_bytes, net.state_dict().values()))
    report.add_value(case, "safetensors / dense", small / size)
    report.add_value(case, "gzip / dense", packed / size)
    report.add_value(case, "safetensors / least", small / least)
    words = (size, packed, small)
    return *(f"{one:,}" for one in words), f"{small / size:.2%}", f"{small / least - 1:+.1%}", f"{csr:,}"


def trained(net: nn.Module, callback: pl.Callback, epochs: int) -> nn.Module:
    """Return a net that was trained on digits."""
    pl.seed_everything(0, verbose=False)
    module = ImageClassifier(net, optimizer=partial(torch.optim.Adam, lr=0.002))
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    pl.Trainer(
        max_epochs=epochs,
        callbacks=[callback],
        accelerator="cpu",
        devices=1,
        enable_model_summary=False,
        **options,
    ).fit(module, DigitsDataModule(batch_size=32))
    return module.eval()


def least_bytes(tensor: Tensor) -> float:
    """Return the bytes of a tensor's values that are not zero, and of their positions by entropy."""
    total, kept = tensor.numel(), int(tensor.count_nonzero())
    if tensor.dim() < 2 or not 0 < kept < total:
        return float(tensor.nbytes)
    bits = -sum(p * math.log2(p) for p in (kept / total, 1 - kept / total)) * total
    return min(tensor.nbytes, kept * tensor.itemsize + bits / 8)


def codes(report: Report, options: argparse.Namespace) -> str:
    """Compare codes of random positions."""
    size = 2**12 if options.smoke else 2**22
    rows = [
        (
            "density",
            "entropy",
            "steps",
            "Golomb",
            "16 bits",
            "32 bits",
            "mask",
            "read steps, ms",
            "Golomb, ms",
        )
    ]
    for density in DENSITIES:
        mask = torch.rand(size, generator=torch.Generator().manual_seed(0)) < density
        positions = mask.nonzero()[:, 0]
        steps, golomb = pack_skips(positions, size), pack_positions(positions, size)
        gaps = positions.diff(prepend=positions.new_tensor([-1]))
        share = len(positions) / size
        entropy = -sum(p * math.log2(p) for p in (share, 1 - share)) / share
        bits = {
            "entropy": entropy,
            "steps": 8 * steps.numel() / len(positions),
            "Golomb": 8 * golomb.numel() / len(positions),
            "16 bits": 16 * float((gaps / (2**16 - 1)).ceil().sum()) / len(positions),
            "32 bits": 32.0,
            "mask": 8 * pack_bits(mask).numel() / len(positions),
        }
        for name, value in bits.items():
            report.add_value(f"{density:g}", f"bits per position, {name}", value)
        ways = {
            "steps": timed_at_length(partial(unpack_skips, steps, size)),
            "Golomb": timed_at_length(partial(unpack_positions, golomb, size)),
        }
        report.add(f"codes, {density:g}", interleave(ways, options.rounds), [Bar("steps", "Golomb")])
        times = (f"{report.seconds(f'codes, {density:g}', name) * 1e3:.1f}" for name in ways)
        rows.append((f"{density:g}", *(f"{value:.2f}" for value in bits.values()), *times))
    return "\n".join(table(rows))


def layers(report: Report, options: argparse.Namespace) -> str:
    """Time linear layers that are dense, CSR, and compact, forward only."""
    names = []
    for inputs, outputs in LAYERS[:1] if options.smoke else LAYERS:
        for rows in ROWS[:1] if options.smoke else ROWS:
            for density in DENSITIES:
                case = f"{inputs} to {outputs}, {rows} rows, {density:g}"
                names.append(case)
                forms, x = layer_forms(inputs, outputs, density), torch.randn(rows, inputs)
                with torch.no_grad():
                    ways = {name: timed_at_length(partial(form, x)) for name, form in forms.items()}
                    samples = interleave(ways, options.rounds)
                report.add(case, samples, [Bar("csr", "dense"), Bar("compact", "dense")])
    return report.overview(names, "dense")


def layer_forms(inputs: int, outputs: int, density: float) -> Mapping[str, nn.Module]:
    """Return the same layer as dense, with a CSR weight, and compact."""
    torch.manual_seed(0)
    dense = nn.Linear(inputs, outputs).requires_grad_(False)
    mask = torch.rand(outputs, inputs) < density
    dense.weight.mul_(mask)
    csr, compact = copy.deepcopy(dense), nn.Sequential(copy.deepcopy(dense))
    weight = dense.weight.to_sparse_csr()
    rows, columns = weight.crow_indices().int(), weight.col_indices().int()
    sparse = torch.sparse_csr_tensor(rows, columns, weight.values(), weight.shape)
    csr.weight = nn.Parameter(sparse, requires_grad=False)
    support = {"0.weight": mask.reshape(-1).nonzero()[:, 0]}
    store_compactly_(compact, {"0.weight": compact[0]}, support, torch.Generator())
    return {"dense": dense, "csr": csr, "compact": compact}


SECTIONS: dict[str, Callable[[Report, argparse.Namespace], str]] = {
    "sizes": sizes,
    "codes": codes,
    "layers": layers,
}


if __name__ == "__main__":
    main()
