"""Processes that hold rows of the same weights, as threads of one process."""

import threading
from concurrent.futures import ThreadPoolExecutor

from lightning_sparse.functional.shards.layout import Shards


class Counter:
    """Adds up the numbers of so many threads, and counts the bytes that each of them gives away."""

    def __init__(self, count):
        self.count, self.bytes, self.sums = count, 0, 0
        self._given, self._barrier = [None] * count, threading.Barrier(count, timeout=20)

    def sum(self, number, tensor):
        self._given[number] = tensor.clone()
        if number == 0:
            self.bytes += tensor.numel() * tensor.element_size()
            self.sums += 1
        self._barrier.wait()
        total = sum(self._given)
        self._barrier.wait()
        return total

    def shards(self, number):
        return Shards(number, self.count, lambda tensor: self.sum(number, tensor))


def on_each(count, act):
    """Call a function with the shards of each of so many processes; return results, and what was counted."""
    counter = Counter(count)
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(act, counter.shards(number)) for number in range(count)]
        return [future.result() for future in futures], counter
