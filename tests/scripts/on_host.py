"""Runs a script as torchrun would, on a host that `benchmarks.harness.hosts` has made, given by its process.

The agent is torchrun's; its workers are forks, which have imported PyTorch and Lightning already.
"""

import ctypes
import os
import runpy
import sys

from lightning_utilities.core.rank_zero import rank_zero_only
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args


def enter(process):
    """Go over to the host; its processes are seen by children alone, so this one waits for a child."""
    libc = ctypes.CDLL(None, use_errno=True)
    for kind in ("net", "pid"):
        handle = os.open(f"/proc/{process}/ns/{kind}", os.O_RDONLY)
        assert libc.setns(handle, 0) == 0, os.strerror(ctypes.get_errno())
        os.close(handle)
    if child := os.fork():
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


def work(*command):
    rank_zero_only.rank = int(os.environ["RANK"])  # it was read when Lightning was imported
    sys.argv = list(command)
    runpy.run_path(command[0], run_name="__main__")


def main():
    os.environ["GLOO_SOCKET_IFNAME"] = "eth0"  # host names say nothing there
    process, *arguments = sys.argv[1:]
    enter(process)
    options = parse_args(arguments)
    config, _, _ = config_from_args(options)
    config.start_method = "fork"
    elastic_launch(config, work)(options.training_script, *options.training_script_args)


if __name__ == "__main__":
    main()
