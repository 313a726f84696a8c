"""What runs on a GPU or, to try it, on the CPU: clocks, peak memory, precision, and what the device is."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.harness.memory import peak_extra
from benchmarks.harness.report import cpu_model
from benchmarks.harness.runner import Alternative, Clocks, Sample, calls_to_fill, read_clocks, timed


def clocks_of(device: torch.device) -> Clocks:
    """Return clocks that let the device finish what it has to do before they are read."""
    return read_clocks if device.type == "cpu" else _settled_clocks


def _settled_clocks() -> Sample:
    torch.cuda.synchronize()
    return read_clocks()


def timed_on(device: torch.device, function: Callable[[], Any], seconds: float) -> Alternative:
    """Return an alternative of as many calls as take about so many seconds of wall clock.

    On a GPU by its events: what lies between them in its queue, gaps in which it waits for Python included.
    """
    calls = calls_to_fill(seconds, function, clocks_of(device))
    return timed(function, calls) if device.type == "cpu" else by_events(function, calls)


def by_events(function: Callable[[], Any], calls: int = 1) -> Alternative:
    """Return an alternative for CUDA; its CPU time is that of putting the calls into the queue."""

    def alternative() -> Sample:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        before = time.process_time()
        start.record()
        for _ in range(calls):
            function()
        end.record()
        queued = time.process_time() - before
        end.synchronize()
        return Sample(start.elapsed_time(end) / 1e3, queued).per(calls)

    return alternative


def peak_on(device: torch.device, turn: Callable[[], Any]) -> int | None:
    """Return the bytes that a turn needs at most above what was held before; None where nobody knows."""
    if device.type == "cpu":
        return peak_extra(turn)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    turn()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated(device) - before


@contextlib.contextmanager
def tf32(allowed: bool = True) -> Iterator[None]:
    """Let products of float32 matrices and convolutions be made in TF32, or not."""
    precision, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions


def cache_of(device: torch.device) -> int:
    """Return the bytes of the GPU's last cache; for the CPU, where nothing is measured, next to none."""
    return 2**10 if device.type == "cpu" else int(torch.cuda.get_device_properties(device).L2_cache_size)


def describe(device: torch.device) -> dict[str, str]:
    """Return what figures depend on."""
    about = {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d %H:%M:%S"), "CPU": cpu_model()}
    if device.type == "cpu":
        return {"card": "none: this is a smoke run on the CPU", "driver": "none", **about}
    found = torch.cuda.get_device_properties(device)
    size = f"{found.total_memory / 2**30:.0f} GiB, {found.multi_processor_count} multiprocessors"
    cuda = f"driver {driver_version()}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return {"card": f"{found.name}, {size}", "driver": cuda, **about}


def driver_version() -> str:
    """Return the version of NVIDIA's driver, as its own tool tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.splitlines()[0].strip() if answer.stdout.strip() else "unknown"
