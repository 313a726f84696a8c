import logging
import os

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader

# Kernels for GPUs are interpreted where there is none; Triton, which Lightning imports, asks once.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Workers share the cores, and threads wait for each other by spinning.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def dataloaders_stay():
    """Lightning wraps methods of dataloaders while it makes them, for good if that ends in an error."""
    yield
    for base in (DataLoader, BatchSampler):
        for kind in (base, *base.__subclasses__()):
            for name in ("__init__", "__setattr__", "__delattr__"):
                if f"__old{name}" in vars(kind):
                    setattr(kind, name, getattr(kind, f"__old{name}"))
                    delattr(kind, f"__old{name}")


@pytest.fixture
def settings_stay():
    """A benchmark sets PyTorch's threads and denormals and silences Lightning, for its whole process."""
    threads = torch.get_num_threads()
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    torch.set_num_threads(1)  # threads wait for each other by spinning, at length if other tests run as well
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
