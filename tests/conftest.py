import logging
import os

import pytest
import torch

# Workers share the cores, and threads wait for each other by spinning.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
    torch.set_num_threads(1)


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
