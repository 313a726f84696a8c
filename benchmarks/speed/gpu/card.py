"""What the card reaches: bytes copied and matrix products a second, to hold the other figures against."""

import statistics
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.harness.device import tf32
from benchmarks.speed.gpu.rows import Bench, Row, value_row


def measure(bench: Bench) -> Iterator[Row]:
    """Yield the rate of a large copy, and of a large product in each precision."""
    floats, side = (2**10, 16) if bench.smoke else (2**29, 8192)
    source = torch.randn(floats, device=bench.device)
    seconds = seconds_of(bench, partial(torch.empty_like(source).copy_, source))
    yield value_row("copy, read and written", 2 * source.nbytes / seconds / 1e12, "TB/s")
    del source
    for name, dtype in {"fp32": torch.float32, "TF32": torch.float32, "bf16": torch.bfloat16}.items():
        one, other = (torch.randn(side, side, device=bench.device).to(dtype) for _ in range(2))
        with tf32(name == "TF32"):
            seconds = seconds_of(bench, partial(torch.mm, one, other))
        yield value_row(f"matrix product {side}^3, {name}", 2 * side**3 / seconds / 1e12, "TFLOP/s")


def seconds_of(bench: Bench, turn: partial[torch.Tensor]) -> float:
    """Return the median time of a call."""
    (samples,) = bench.in_turn({"it": turn}).values()
    return statistics.median(sample.wall for sample in samples)
