import pytest

from benchmarks.harness.runner import short_collections


@pytest.fixture(autouse=True, scope="module")
def collections_are_short():
    """A benchmark collects garbage before every sample, and there are many objects where tests run."""
    with short_collections():
        yield
