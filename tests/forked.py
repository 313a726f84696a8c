"""Runs scripts in processes of their own, without importing PyTorch and Lightning in each of them.

A process with one thread, the fork server of ``multiprocessing``, imports them once for all tests of a pytest
worker, and every run is a fork of it. A run has a process group, an environment, arguments and an output file
of its own, as if it had been started from a shell; ``cold`` runs start a new interpreter.
"""

import contextlib
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import lightning_sparse

OF_A_GROUP = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
PRELOADED = ["pytorch_lightning.cli", "lightning_sparse.models", "torchdata.stateful_dataloader"]
TESTS = Path(__file__).parent


class Started(NamedTuple):
    """The processes of a run, rank 0 first, and the file with what they say."""

    processes: list[BaseProcess]
    output: Path


def start(script: Path, *arguments: Any, output: Path, ranks: int = 1, cold: bool = False) -> Started:
    """Start a script in as many processes as there are ranks; cold, Lightning starts all but the first."""
    command = [str(script), *map(str, arguments)]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    variables = [{**group, "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    variables = [{}] if cold or ranks == 1 else variables
    output.unlink(missing_ok=True)
    with server() as context:
        processes = [context.Process(target=become, args=(command, own, output, cold)) for own in variables]
        for process in processes:
            process.start()
    return Started(processes, output)


def finish(started: Started) -> tuple[int, str]:
    """Wait for rank 0, then for the others; not for long if it failed: they may wait for it for ever."""
    first = started.processes[0]
    try:
        first.join(240)
        end = time.monotonic() + (60 if first.exitcode == 0 else 5)
        while any(signalled(process, 0) for process in started.processes) and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        for process in started.processes:
            signalled(process, signal.SIGKILL)
    assert first.exitcode is not None, f"still running\n{started.output.read_text()}"
    return first.exitcode, started.output.read_text()


def run(script: Path, *arguments: Any, output: Path, **how: Any) -> str:
    """Run a script to its good end, and return what it says."""
    code, said = finish(start(script, *arguments, output=output, **how))
    assert code == 0, said[-3000:]
    return said


def signalled(process: BaseProcess, number: int) -> bool:
    """Send a signal to all processes of a run's group, and tell whether there are any."""
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
        return True
    return False


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def server() -> Iterator[Any]:
    """Give the context whose processes are forks; the first use starts the server, with this environment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    before = dict(os.environ)
    for name in OF_A_GROUP:  # fits in this process leave what describes its own group of processes
        os.environ.pop(name, None)
    paths = [str(Path(lightning_sparse.__file__).parents[1]), before.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.environ.update(OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1")
    try:
        yield context
    finally:
        os.environ.clear()
        os.environ.update(before)


def become(command: list[str], variables: dict[str, str], output: Path, cold: bool) -> None:
    """Turn a fork into the process that a command would have started."""
    os.setsid()
    os.chdir(output.parent)
    os.environ.update(variables)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    if cold:
        os.execv(sys.executable, [sys.executable, *command])
    assert set(PRELOADED) <= set(sys.modules), "the fork server has not imported what it should"
    from lightning_utilities.core.rank_zero import rank_zero_only

    rank_zero_only.rank = int(variables.get("LOCAL_RANK", 0))  # it was read when Lightning was imported
    multiprocessing.set_start_method(None, force=True)  # for workers of data loaders: it is the server's here
    sys.argv = command
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    runpy.run_path(command[0], run_name="__main__")
