"""Runs on two hosts, started by torchrun: ended, resumed, and cut off from each other for a while."""

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

pytestmark = pytest.mark.hosts

SCRIPT, ON_HOST = (Path(__file__).parent / "scripts" / name for name in ("train.py", "on_host.py"))
COMMON = ["--processes", 2, "--row", "rigl-kept", "--dropout", 0.5, "--shuffle", "--epochs", 4]


@pytest.fixture(autouse=True, scope="module")
def hosts_are_permitted():
    if reason := why_not():
        pytest.skip(reason)


def start(hosts, folder, *arguments):
    """Start torchrun on both hosts; each writes what it says into a file of its own."""
    folder.mkdir(exist_ok=True)
    group = ["--nnodes", 2, "--nproc-per-node", 1, "--master-addr", hosts[0].address, "--master-port", 29500]
    return [
        forked.start(
            ON_HOST,
            *(host.pid, *group, "--node-rank", number, "--local-addr", host.address),
            *(SCRIPT, folder, "--hosts", 2, *COMMON, *arguments),
            output=folder / f"host{number}.txt",
        )
        for number, host in enumerate(hosts)
    ]


def said(folder):
    return "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("host*.txt")))


def ends(started, seconds=90):
    """Wait for both hosts, and return how they ended."""
    (first,), (second,) = (one.processes for one in started)
    first.join(seconds)
    second.join(seconds)
    return first.exitcode, second.exitcode


def test_killed_and_resumed_on_two_hosts_is_undisturbed(tmp_path):
    """A rank that is killed ends the run on both; the resumed one has no network for seconds in between."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    one = forked.start(SCRIPT, whole, *COMMON, output=whole / "output.txt", ranks=2)
    with two_hosts() as hosts:
        killed = start(hosts, parts, "--kill-at", 11, 1)
        codes = ends(killed)
        assert None not in codes, said(parts)
        assert 0 not in codes, said(parts)
        assert "Signal 9 (SIGKILL)" in (parts / "host1.txt").read_text()
        assert torch.load(parts / "last.ckpt", weights_only=True)["global_step"] == 8

        resumed = start(hosts, parts, "--resume", parts / "last.ckpt", "--wait-at", 10, 0)
        while "waiting" not in said(parts):
            assert all(process.exitcode is None for (process,), _ in resumed), said(parts)
            time.sleep(0.02)
        hosts[1].plug(False)
        time.sleep(3)
        assert not (parts / "rank0.pt").exists()  # they wait
        hosts[1].plug(True)
        assert ends(resumed) == (0, 0), said(parts)
    assert forked.finish(one)[0] == 0
    assert_same(whole, parts, 2)


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
