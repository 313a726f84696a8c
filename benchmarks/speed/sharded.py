"""What masks on sharded weights cost: bytes that a process keeps, and hands to others at an update of RigL.

``python -m benchmarks.speed.sharded`` starts two processes of the CPU over gloo. Bytes are measured: all that
this package gives to collectives is counted where it does so. Times are the processor's, of one process.
"""

import argparse
import os
import statistics
import time
import warnings

import torch
from torch import nn, optim
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lightning_sparse import keep_sparse_, sparsify_
from lightning_sparse.functional.growth import ActiveWeights, RigL, move_together
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.shards import here
from lightning_sparse.weights.state import state_of

__all__ = ["Counted", "main", "measure"]


class Counted:
    """Bytes and calls of the collectives that this package starts, while it is open."""

    def __enter__(self) -> "Counted":
        self.reduced = self.gathered = self.calls = 0
        self._reduce, self._gather = torch.distributed.all_reduce, DTensor.full_tensor

        def all_reduce(tensor, *arguments, **options):
            self.reduced, self.calls = self.reduced + tensor.nbytes, self.calls + 1
            return self._reduce(tensor, *arguments, **options)

        def full_tensor(tensor, *arguments, **options):
            self.gathered, self.calls = self.gathered + here(tensor).nbytes, self.calls + 1
            return self._gather(tensor, *arguments, **options)

        torch.distributed.all_reduce, DTensor.full_tensor = all_reduce, full_tensor
        return self

    def __exit__(self, *_: object) -> None:
        torch.distributed.all_reduce, DTensor.full_tensor = self._reduce, self._gather


def measure(width: int, density: float, repeats: int) -> dict[str, float]:
    """Train a net of two layers a little, moving connections before every step."""
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    fully_shard(net, mesh=mesh)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    with Counted() as drawn:
        sparsify_(net, "erk", density, seed=0)
    keep_sparse_(net, optimizer)
    state, seconds = state_of(net), []
    for _ in range(repeats):
        optimizer.zero_grad()
        net(torch.randn(32, width)).square().mean().backward()
        weights = list(sparse_weights(net).values())
        before = time.process_time()
        with Counted() as moved:
            active = [
                ActiveWeights(
                    w.active, w.positions, w.shape, torch.Generator(), lambda w=w: here(w.parameter.grad)
                )
                for w in weights
            ]
            names, shards = [w.name for w in weights], state.shards
            found = move_together(RigL(), active, 0.3, names, shards=shards)
            with state.together([optimizer]):
                for weight, positions in zip(weights, found, strict=True):
                    weight.move_(positions, [optimizer])
        seconds.append(time.process_time() - before)
        with Counted() as looked:
            for weight in weights:
                weight.explored(None)
                weight.digest()
        optimizer.step()
    weights = list(sparse_weights(net).values())
    held = sum(here(w.parameter).nbytes for w in weights)
    return {
        "weights": sum(w.shape.numel() for w in weights),
        "bytes of weights per process": held,
        "bytes of masks per process": sum(w.stored for w in weights) - held,
        "bytes summed when masks are drawn": drawn.reduced,
        "bytes summed at an update": moved.reduced,
        "collectives of an update": moved.calls,
        "bytes gathered for the history and checksums": looked.gathered + looked.reduced,
        "milliseconds of an update": 1000 * statistics.median(seconds),
    }


def _run(rank: int, processes: int, port: int, options: argparse.Namespace) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=processes)
    for width in options.width:
        found = measure(width, options.density, options.repeats)
        if rank == 0:
            print("\n".join(f"{name:<46}{value:>14,.0f}" for name, value in found.items()), flush=True)
            print(flush=True)
    torch.distributed.destroy_process_group()


def main() -> None:
    """Print what is measured, for nets of several widths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--width", type=int, nargs="+", default=[256, 1024, 2048])
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--port", type=int, default=29533)
    options = parser.parse_args()
    arguments = (options.processes, options.port, options)
    torch.multiprocessing.spawn(_run, arguments, nprocs=options.processes)


if __name__ == "__main__":
    main()
