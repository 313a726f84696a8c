import logging

import pytest

from benchmarks.harness.runner import short_collections


@pytest.fixture(autouse=True, scope="module")
def collections_are_short():
    """A benchmark collects garbage before every sample, and there are many objects where tests run."""
    with short_collections():
        yield


@pytest.fixture(autouse=True, scope="module")
def lightning_speaks_again():
    """A benchmark silences Lightning for its whole process, which other tests share."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch")]
    levels, disabled = [logger.level for logger in loggers], logging.root.manager.disable
    yield
    logging.disable(disabled)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
