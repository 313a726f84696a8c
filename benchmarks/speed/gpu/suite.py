"""The tests of the suite that say something on a GPU, in processes of their own, within the section's time.

Those marked ``gpu``, and at the same time the callbacks' tests, which train where
``LIGHTNING_SPARSE_TEST_ACCELERATOR`` says: as many as there is time for.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from benchmarks.speed.gpu import outcomes
from benchmarks.speed.gpu.rows import Bench, Row, value_row

ROOT = Path(__file__).parents[3]
WORKERS, SECONDS_TO_END = 6, 10


class Run(NamedTuple):
    """A run of pytest."""

    name: str
    arguments: tuple[str, ...]


MARKED = ("tests/functional", "tests/layers", "tests/test_plain.py", "tests/callbacks/test_every_callback.py")
CALLBACKS = (
    "tests/callbacks/test_compact.py",
    "tests/callbacks/test_fine_tuning.py",
    "tests/callbacks/test_compact_resume.py",
    "tests/callbacks/test_prune_at_init.py",
    "tests/callbacks/test_dctps.py",
    "tests/callbacks/moving",
    "tests/callbacks/test_every_callback.py",
)
FULL = (
    Run("marked gpu", ("-m", "gpu", *MARKED)),
    Run("callbacks", ("-m", "not gpu", *CALLBACKS)),
)
SMOKE = (Run("smoke", ("tests/functional/test_packing.py",)),)


def measure(bench: Bench) -> Iterator[Row]:
    """Yield how many tests fail, run by run.

    Raises:
        AssertionError: At the end, if any did, or if a run had nothing to report.
    """
    runs, failed = SMOKE if bench.smoke else FULL, []
    seconds = max(1.0, bench.seconds_left)
    with ThreadPoolExecutor(len(runs)) as threads:
        found = threads.map(lambda run: outcome_of(run.arguments, seconds, bench.device.type), runs)
        for run, outcome in zip(runs, found, strict=True):
            failed += outcome.failed
            note = f"{outcome.passed} passed, {outcome.skipped} skipped"
            note += "" if outcome.ended else ", time was up"
            yield value_row(f"tests, {run.name}", len(outcome.failed), "failed", 0, note)
    if failed:
        raise AssertionError(f"{len(failed)} tests failed: {', '.join(failed[:20])}")


class Outcome(NamedTuple):
    """What became of the tests of a run, and whether all of them ran."""

    passed: int
    skipped: int
    failed: list[str]
    ended: bool


def outcome_of(arguments: Sequence[str], seconds: float, device: str) -> Outcome:
    """Run pytest, interrupt it when its time is up, and read what became of each test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outcomes"
        path.touch()
        accelerator = {"LIGHTNING_SPARSE_TEST_ACCELERATOR": "cpu" if device == "cpu" else "gpu"}
        parallel = ["-n", str(WORKERS)] if device != "cpu" and find_spec("xdist") is not None else []
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", outcomes.__name__]
        ours = {key: text for key, text in os.environ.items() if not key.startswith("PYTEST_XDIST")}
        environment = {**ours, **accelerator, outcomes.OUTCOMES: str(path)}
        process = subprocess.Popen([*command, *parallel, *arguments], cwd=ROOT, env=environment)
        return read(path, wait(process, seconds))


def wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for a process, interrupt it when the time is up, and tell whether it ended by itself."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # it then reports on what it has done
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return False
    return True


def read(path: Path, ended: bool) -> Outcome:
    """Read what the plugin has written down."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    passed, skipped = (sum(outcome == kind for outcome, _ in found) for kind in ("passed", "skipped"))
    failed = [test for outcome, test in found if outcome == "failed"]
    return Outcome(passed, skipped, failed if passed + len(failed) else ["no test has run"], ended)
