"""Two hosts on one machine, joined by a cable of known speed: network namespaces and a veth pair.

Each host is a process that sleeps in namespaces of its own, for its network and its processes, and dies with
whoever has made it. Nothing has a name, so there is nothing to tidy up: when that process ends, be it by
SIGKILL, the kernel ends all others of the host and takes its network away.

Linux only, as root. To run something on both hosts, with 0 and 1 in the place of ``{host}``::

    python -m benchmarks.harness.hosts --rate 1gbit torchrun --nnodes 2 --node-rank {host} \\
        --nproc-per-node 1 --master-addr 10.77.0.1 train.py
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

TOOLS = ("ip", "tc", "unshare", "nsenter", "setpriv")
CABLE = "eth0"


class Host(NamedTuple):
    """One of the hosts: its address, and the process that holds its namespaces."""

    address: str
    pid: int

    def inside(self, *command: object) -> list[str]:
        """Return a command that does on the host what this one does here; all others of it die with it."""
        return ["nsenter", "--target", str(self.pid), "--net", "--pid", *map(str, command)]

    def run(self, *command: object) -> str:
        """Run a command on the host's network, and return what it says."""
        words = ["nsenter", "--target", str(self.pid), "--net", *map(str, command)]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def start(self, *command: object, output: Path, **variables: object) -> "subprocess.Popen[bytes]":
        """Start a command on the host; what it says goes to the end of a file."""
        settings = {"GLOO_SOCKET_IFNAME": CABLE, **{name: str(value) for name, value in variables.items()}}
        with output.open("ab") as file:
            return subprocess.Popen(
                self.inside(*command), env={**os.environ, **settings}, stdout=file, stderr=subprocess.STDOUT
            )

    def sent(self) -> int:
        """Return how many bytes have gone out by the cable."""
        (link,) = json.loads(self.run("ip", "-json", "-stats", "link", "show", CABLE))
        return int(link["stats64"]["tx"]["bytes"])

    def plug(self, plugged: bool) -> None:
        """Put the cable in, or pull it out."""
        self.run("ip", "link", "set", CABLE, "up" if plugged else "down")


def why_not() -> str | None:
    """Return why there can be no such hosts here; None if there can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"no {', '.join(missing)}: apt-get install iproute2 util-linux"
    try:
        with two_hosts():
            return None
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or error
        return f"network namespaces are not permitted: {str(said).strip().splitlines()[-1]}"


@contextmanager
def two_hosts(rate: str | None = None) -> Iterator[tuple[Host, Host]]:
    """Give two hosts for a while.

    Args:
        rate: What the cable carries each way, as tc has it, such as ``"1gbit"``; None: as much as it can.
    """
    with ExitStack() as stack:
        here, there = (Host(f"10.77.0.{n}", stack.enter_context(_namespaces())) for n in (1, 2))
        here.run("ip", "link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", there.pid)
        for host in (here, there):
            host.run("ip", "address", "add", f"{host.address}/24", "dev", CABLE)
            host.run("ip", "link", "set", "lo", "up")
            host.run("ip", "link", "set", CABLE, "up")
            if rate is not None:
                shape = ["tbf", "rate", rate, "burst", "256kb", "latency", "50ms"]
                host.run("tc", "qdisc", "add", "dev", CABLE, "root", *shape)
        yield here, there


@contextmanager
def _namespaces() -> Iterator[int]:
    """Give the number of a process that sleeps in namespaces of its own, until this or its parent ends."""
    own = ["unshare", "--net", "--pid", "--fork", "--kill-child=KILL"]
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *own, "sleep", "infinity"], stderr=subprocess.PIPE, text=True
    )
    try:
        yield _child_of(process)
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def _child_of(process: "subprocess.Popen[str]") -> int:
    """Wait for the only child of a process, and return its number."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for _ in range(500):
        if process.poll() is not None:
            said = process.stderr.read() if process.stderr is not None else ""
            raise OSError(said or "unshare has ended")
        with suppress(OSError):
            found = children.read_text().split()
            if found and Path(f"/proc/{found[0]}/comm").read_text().strip() == "sleep":
                return int(found[0])
        time.sleep(0.01)
    raise OSError("unshare does not start")


def on_both(hosts: Sequence[Host], command: Sequence[str]) -> list[int]:
    """Run a command on both hosts, and return how it ended on each."""
    words = [[word.replace("{host}", str(number)) for word in command] for number in range(len(hosts))]
    variables: dict[str, Any] = {**os.environ, "GLOO_SOCKET_IFNAME": CABLE}
    started = [
        subprocess.Popen(host.inside(*own), env=variables) for host, own in zip(hosts, words, strict=True)
    ]
    return [process.wait() for process in started]


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a command on two hosts that a cable joins.")
    parser.add_argument("--rate", help="of the cable each way, as tc has it: 1gbit")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="with {host} for 0 and 1")
    options = parser.parse_args()
    if reason := why_not():
        raise SystemExit(reason)
    with two_hosts(options.rate) as hosts:
        raise SystemExit(max(map(abs, on_both(hosts, options.command))))


if __name__ == "__main__":
    main()
