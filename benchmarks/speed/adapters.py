"""Bytes of an adapter file for each trained number, and how long writing and reading one takes.

    python -m benchmarks.speed.adapters

One linear layer, in float32, without a bias. Files with a support that was drawn, of which a seed is stored,
and with one that has moved, of which positions are; "bits per position" is what those take, next to the least
that k positions drawn at random can take on average, ``log2 C(N, k)``. Where peft is installed, its files of
SHiRA and LoRA are written for the same layer, of the rank that gives about as many numbers.

Writing includes a checksum of the frozen weight; reading into a net compares it.
"""

import argparse
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from benchmarks.harness.report import Report
from benchmarks.harness.runner import interleave, parse, timed
from lightning_sparse import convert_, load_adapter, save_adapter
from lightning_sparse.functional.positions import pack_positions
from lightning_sparse.layers.support import draw_support

BYTES_AT_MOST, BAR_HOLDS_FOR = 5.2, 0.004
DENSITIES = (0.1, 0.01, 0.004, 0.001)
HEADER = 21  # bytes of counts and checksum before packed positions


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(__doc__, argv, rounds=5)
    report = Report("adapters", options)
    size = 64 if options.smoke else 4096
    with TemporaryDirectory() as folder:
        for density in (0.1, 0.004) if options.smoke else DENSITIES:
            measure(report, options, size, density, Path(folder))
    report.finish()


def measure(report: Report, options: argparse.Namespace, size: int, density: float, folder: Path) -> None:
    """Add the figures of one layer."""
    case = f"{size} squared, {density:g}"
    path, module = folder / "adapter.safetensors", tuned(size, density)
    layer = module[0]
    save_adapter(module, path)
    report.add_value(case, "bytes per number, drawn", path.stat().st_size / layer.nnz)
    layer.move_(draw_support(size**2, layer.nnz, torch.Generator().manual_seed(1)))
    save_adapter(module, path)
    bar = BYTES_AT_MOST if density == BAR_HOLDS_FOR and not options.smoke else None
    report.add_value(case, "bytes per number, moved", path.stat().st_size / layer.nnz, bar)
    bits = 8 * (len(pack_positions(layer.indices, size**2)) - HEADER)
    report.add_value(case, "bits per position", bits / layer.nnz)
    report.add_value(case, "the least of them", least_bits(size**2, layer.nnz) / layer.nnz)
    for name, file in peft_files(size, density, folder).items():
        report.add_value(case, f"bytes per number, peft's {name}", file)
    ways = {"write": lambda: save_adapter(module, path), "read": lambda: load_adapter(module, path)}
    samples = interleave({name: timed(way) for name, way in ways.items()}, options.rounds)
    report.add(case, samples, [])


def tuned(size: int, density: float) -> nn.Sequential:
    """Return a net of one layer that trains a sparse change."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(size, size, bias=False)).requires_grad_(False)
    convert_(module, density, offset="pretrained", include=["0.weight"])
    nn.init.normal_(module[0].values)
    return module


def least_bits(size: int, count: int) -> float:
    """Return ``log2 C(size, count)``."""
    return (math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)) / math.log(2)


def peft_files(size: int, density: float, folder: Path) -> dict[str, float]:
    """Return the bytes for each trained number in files of peft, by method; empty without peft."""
    if importlib.util.find_spec("peft") is None:
        return {}
    from peft import LoraConfig, ShiraConfig, get_peft_model

    rank = max(1, round(density * size / 2))
    makers: dict[str, Callable[..., object]] = {"SHiRA": ShiraConfig, "LoRA": LoraConfig}
    found = {}
    for name, make in makers.items():
        model = get_peft_model(
            nn.Sequential(nn.Linear(size, size, bias=False)), make(r=rank, target_modules=["0"])
        )
        model.save_pretrained(folder / name)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        found[name] = (folder / name / "adapter_model.safetensors").stat().st_size / trained
    return found


if __name__ == "__main__":
    main()
