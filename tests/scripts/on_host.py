"""Runs torchrun on a host that `benchmarks.harness.hosts` has made, given by the number of its process."""

import ctypes
import os
import sys

from torch.distributed.run import main

os.environ["GLOO_SOCKET_IFNAME"] = "eth0"  # host names say nothing there
process, *arguments = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
for kind in ("net", "pid"):
    handle = os.open(f"/proc/{process}/ns/{kind}", os.O_RDONLY)
    assert libc.setns(handle, 0) == 0, os.strerror(ctypes.get_errno())
    os.close(handle)
if child := os.fork():  # only children are in the other namespace of processes
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
main(arguments)
