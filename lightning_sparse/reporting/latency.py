"""How long nets take for an input on this machine, side by side: measured."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter, thread_time
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

__all__ = ["Latency", "measure_latency"]

ROUNDS, SECONDS, LEAST = 15, 4.0, 0.002


@dataclass(frozen=True)
class Latency:
    """What one net took.

    Attributes:
        name: The net.
        milliseconds: Median of one forward pass, CPU time of one thread.
        low: A quarter of the rounds took less.
        high: A quarter took more.
        ratio: Median over that of the last net of the comparison, the dense one.
        rounds: Number of rounds; each net ran in each of them.
    """

    name: str
    milliseconds: float
    low: float
    high: float
    ratio: float
    rounds: int


def measure_latency(
    nets: Mapping[str, Callable[..., Any]],
    inputs: Any,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
) -> list[Latency]:
    """Measure one forward pass of several nets, interleaved, in one thread of the CPU.

    Every round runs each net, so whatever else the machine does meets all of them alike. Nets are called as
    they are: put modules into eval mode first, and give each the memory layout that it will have in use.

    Args:
        nets: What to call, by name; the last one is what the others are compared with. Modules of
            PyTorch, or any function, such as one that runs an exported net.
        inputs: A tensor, a tuple of arguments or a dict of them, on the CPU.
        rounds: So many at most, three at least.
        seconds: No new round is begun after so long.

    Examples:
        >>> small, large = torch.nn.Linear(10, 10), torch.nn.Linear(1000, 1000)
        >>> first, _ = measure_latency({"small": lambda _: small(torch.ones(10)), "large": large},
        ...                            torch.ones(1000), rounds=3)
        >>> first.ratio < 1
        True
    """
    given = tree_map_only(torch.Tensor, lambda tensor: tensor.detach().cpu(), inputs)
    calls = {name: _call(net, given) for name, net in nets.items()}
    with _one_thread(), torch.inference_mode():
        often = {name: _repeats(call) for name, call in calls.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        begin = perf_counter()
        for done in range(max(3, rounds)):
            if done >= 3 and perf_counter() - begin > seconds:
                break
            for name, call in calls.items():
                times[name].append(_time(call, often[name]))
    middle = {name: median(values) for name, values in times.items()}
    dense = list(middle.values())[-1] if middle else 1.0
    return [
        Latency(name, middle[name], *_quarters(values), middle[name] / (dense or 1.0), len(values))
        for name, values in times.items()
    ]


def _call(net: Callable[..., Any], given: Any) -> Callable[[], Any]:
    if isinstance(given, dict):
        return lambda: net(**given)
    if isinstance(given, tuple | list):
        return lambda: net(*given)
    return lambda: net(given)


def _repeats(call: Callable[[], Any]) -> int:
    """Warm up, and return how many calls in a row are long enough for the clock."""
    for _ in range(3):
        begin = thread_time()
        call()
        once = thread_time() - begin
    return max(1, min(1000, int(LEAST / max(once, 1e-6))))


def _time(call: Callable[[], Any], often: int) -> float:
    """Return the milliseconds of one call."""
    begin = thread_time()
    for _ in range(often):
        call()
    return 1000 * (thread_time() - begin) / often


def _quarters(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
