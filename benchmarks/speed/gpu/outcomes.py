"""A plugin of pytest: writes down what becomes of each test as it comes, and says at once why one failed.

A report at the end is lost where there is a GPU for minutes only, and the run is cut off.
"""

import json
import os
import sys
from pathlib import Path

import pytest

__all__ = ["OUTCOMES"]

OUTCOMES = "LIGHTNING_SPARSE_TEST_OUTCOMES"
"""The variable that names the file."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Take down what a test came to; what only its setup or its end says counts if it is no success."""
    if report.when == "call" or report.outcome != "passed":
        _write(report.outcome, report.nodeid, report.longreprtext)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Take down files that cannot be read."""
    if report.failed:
        _write("failed", report.nodeid, report.longreprtext)


def _write(outcome: str, test: str, why: str) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # the process that it works for hears of it too
        return
    with Path(os.environ[OUTCOMES]).open("a") as file:
        file.write(json.dumps([outcome, test]) + "\n")
    if outcome == "failed":
        print(f"\n{test}\n{why}", file=sys.stderr, flush=True)
