"""Runs on two hosts, started by torchrun: ended, resumed, and cut off from each other for a while."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
import torch
from test_processes import assert_same

from benchmarks.harness.hosts import two_hosts, why_not

REASON = why_not()
pytestmark = [pytest.mark.hosts, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

SCRIPT = Path(__file__).parent / "scripts" / "train.py"
COMMON = ["--processes", 2, "--row", "rigl-kept", "--dropout", 0.5, "--shuffle", "--epochs", 4]


def start(hosts, folder, *arguments):
    """Start torchrun on both hosts; each writes what it says into a file of its own."""
    folder.mkdir(exist_ok=True)
    group = ["--nnodes", 2, "--nproc-per-node", 1, "--master-addr", hosts[0].address, "--master-port", 29500]
    paths = os.pathsep.join([str(Path(forked.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return [
        host.start(
            *(sys.executable, "-m", "torch.distributed.run", *group, "--node-rank", number),
            *("--local-addr", host.address, SCRIPT, folder, "--hosts", 2, *COMMON, *arguments),
            output=folder / f"host{number}.txt",
            PYTHONPATH=paths,
            PYTHONUNBUFFERED=1,
            OMP_NUM_THREADS=1,
        )
        for number, host in enumerate(hosts)
    ]


def said(folder):
    return "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("host*.txt")))


def finish(processes, folder, seconds=120):
    """Wait for both hosts; return how they ended, and after how many seconds."""
    begun = time.monotonic()
    try:
        return [process.wait(seconds) for process in processes], time.monotonic() - begun
    except subprocess.TimeoutExpired:
        raise AssertionError(f"still running\n{said(folder)}") from None


def wait_for(words, folder, processes):
    file = folder / "host0.txt"
    while words not in file.read_text():
        assert all(process.poll() is None for process in processes), said(folder)
        time.sleep(0.02)


def test_killed_and_resumed_on_two_hosts_is_undisturbed(tmp_path):
    """Nor does it matter that the other run has been without a network for seconds."""
    cut, killed = tmp_path / "cut", tmp_path / "killed"
    with two_hosts() as hosts, two_hosts() as others:
        first, second = start(hosts, cut, "--wait-at", 5, 0), start(others, killed, "--kill-at", 11, 1)
        wait_for("waiting", cut, first)
        hosts[1].plug(False)
        begun = time.monotonic()
        codes, _ = finish(second, killed)
        assert all(code != 0 for code in codes), codes  # both hosts say that it failed
        time.sleep(max(0, 3 + begun - time.monotonic()))
        assert all(process.poll() is None for process in first), said(cut)  # they wait
        hosts[1].plug(True)
        assert finish(first, cut)[0] == [0, 0], said(cut)
        saved = torch.load(killed / "last.ckpt", weights_only=True)
        assert saved["global_step"] == 8
        third = start(others, killed, "--resume", killed / "last.ckpt")
        assert finish(third, killed)[0] == [0, 0], said(killed)
    assert_same(cut, killed, 2)
    one = tmp_path / "one"
    one.mkdir()
    forked.run(SCRIPT, one, *COMMON, output=one / "output.txt", ranks=2)
    assert_same(one, cut, 2)  # as two processes of one host


def test_hosts_end_with_who_has_made_them():
    code = (
        "import sys, time\nfrom benchmarks.harness.hosts import two_hosts\n"
        "with two_hosts() as hosts:\n"
        "    from subprocess import Popen\n"
        "    Popen(hosts[1].inside('sleep', 'infinity'))\n"
        "    time.sleep(0.2)\n"
        "    print(*(host.pid for host in hosts), flush=True)\n"
        "    time.sleep(60)\n"
    )
    maker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    numbers = maker.stdout.readline().split()
    assert len(numbers) == 2
    networks = {Path(f"/proc/{number}/ns/net").readlink() for number in numbers}
    assert len(networks) == 2
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    maker.stdout.close()
    for _ in range(200):
        if not networks & set(_networks()):
            return
        time.sleep(0.02)
    raise AssertionError("something of the hosts is left")


def _networks():
    for process in Path("/proc").glob("[0-9]*"):
        try:
            yield (process / "ns" / "net").readlink()
        except OSError:
            continue
