"""Runs the tests that depend on other packages under versions of these, and tables what came of it.

    python -m benchmarks.versions try pytorch-lightning 2.0.9 2.1.4   # releases, fetched one at a time
    python -m benchmarks.versions try lightning 2.4.0                 # by its other name, the first hidden
    python -m benchmarks.versions here "the newest"                   # what is installed, whatever that is
    python -m benchmarks.versions table --into docs/compatibility.md  # of all runs, between two marks

Each run leaves a file in ``--results``, of which the table is made; a later run of the same takes its place.
A release of Lightning is put before what is installed, and everything else stays as it is.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.versions.table import put_into, table_of

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "versions"
COLUMNS = {
    "callbacks": ("test_masks_hold", "test_second_fit", "test_model_checkpoint"),
    "losses": ("test_no_method_leaves_a_trace", "test_training_sees_what_it_would_have_seen"),
    "exact resume": ("test_resumed_from_the_end_of_an_epoch",),
    "other loops": (
        "test_a_fabric_loop_is_the_trainer_s_run",
        "test_gradual_pruning_is_a_loop_over_sparsify",
    ),
    "console script": ("test_quickstart_logs_checkpoints_and_tests", "test_plan_trains_nothing"),
    "in transformers": (
        "test_it_is_lightning_s_run",
        "test_with_what_else_a_run_may_have",
        "test_a_run_goes_on",
    ),
}
"""The tests of each column, by how their names begin."""
FILES = (
    "callbacks/test_every_callback.py",
    "callbacks/test_exact_resume.py",
    "trainer/test_losses.py",
    "test_plain.py",
    "test_loops.py",
    "test_transformers.py",
    "cli/test_main.py",
)
SOME = {
    "test_masks_hold": "(optimizer-adamw or clip_norm)",
    "test_model_checkpoint": "False",
    "test_it_is_lightning_s_run": "adamw",
}
"""Which of a test's cases are run, where there are many."""
BESIDE = ("setuptools<82", "rich<14.1")  # older releases need pkg_resources, and consoles as they were
TWINS = {
    "pytorch-lightning": ("lightning",),
    "lightning": ("pytorch_lightning", "lightning_fabric"),
}
"""What is hidden while a package is tried."""
NAMED = ("torch", "pytorch-lightning", "lightning", "torchmetrics", "numpy", "jsonargparse", "transformers")


def selected() -> str:
    """Return the expression that selects the tests."""
    names = (name for names in COLUMNS.values() for name in names)
    return " or ".join(f"({name} and {SOME[name]})" if name in SOME else name for name in names)


def run(tests: Path, paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Run the tests in a process of their own, and return what came of each column."""
    report, start = folder / "report.xml", time.perf_counter()
    search = os.pathsep.join(map(str, [*paths, tests.parent, tests]))
    words = ["-q", "-p", "no:cacheprovider", "-p", "older_lightning", "-W", "ignore", f"--junitxml={report}"]
    with (folder / "said.txt").open("w") as said:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                *words,
                "-k",
                selected(),
                *(str(tests / file) for file in FILES),
            ],
            cwd=tests.parent,
            env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
            stdout=said,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if not report.is_file():
        sys.exit((folder / "said.txt").read_text()[-3000:])
    return {"seconds": time.perf_counter() - start, "outcomes": outcomes(report)}


def outcomes(report: Path) -> dict[str, dict[str, Any]]:
    """Return by column how many tests passed and were skipped, and which failed, and why."""
    found: dict[str, dict[str, Any]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name", "")
        columns = [column for column, tests in COLUMNS.items() if name.startswith(tests)]
        row = found.setdefault(
            columns[0] if columns else "not collected", {"passed": 0, "skipped": 0, "failed": {}}
        )
        wrong = next((case.find(kind) for kind in ("failure", "error") if case.find(kind) is not None), None)
        if wrong is not None:
            row["failed"][name] = " ".join((wrong.get("message") or "").split())[:300]
        else:
            row["skipped" if case.find("skipped") is not None else "passed"] += 1
    return found


def installed(hidden: Sequence[str] = ()) -> dict[str, str]:
    """Return the versions of what is installed, but for what is hidden."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in NAMED:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {name: number for name, number in versions.items() if name.replace("-", "_") not in hidden}


def try_release(package: str, release: str, folder: Path) -> dict[str, Any]:
    """Fetch a release of Lightning, hide its twin, and run the tests under it."""
    fetched, beside, hides = folder / "fetched", folder / "beside", folder / "hides"
    for target, wanted in ((fetched, [f"{package}=={release}"]), (beside, list(BESIDE))):
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(target),
            *wanted,
        ]
        subprocess.run(pip, check=True)
    for name in TWINS[package]:
        (hides / name).mkdir(parents=True)
        said = f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')\n"
        (hides / name / "__init__.py").write_text(said)
    for part in ("tests", "lightning_sparse", "recipes", "benchmarks"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "results"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    if package == "lightning":
        for file in (folder / "tests").rglob("*.py"):
            text = re.sub(r"\bpytorch_lightning\b", "lightning.pytorch", file.read_text())
            file.write_text(re.sub(r"\blightning_fabric\b", "lightning.fabric", text))
    found = run(folder / "tests", [hides, fetched, beside], folder)
    return {**found, "versions": {**installed(TWINS[package]), package: release}}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with a file for each run")
    ways = parser.add_subparsers(dest="way", required=True)
    one = ways.add_parser("try")
    one.add_argument("package", choices=TWINS)
    one.add_argument("releases", nargs="+")
    ways.add_parser("here").add_argument("label", help="what the versions are, in words")
    ways.add_parser("table").add_argument("--into", type=Path, help="page to write it into")
    return parser.parse_args(argv)


def keep(results: Path, tried: str, record: Mapping[str, Any]) -> None:
    """Write what came of a run, and say it."""
    results.mkdir(parents=True, exist_ok=True)
    whole = {"tried": tried, "date": time.strftime("%Y-%m-%d"), **record}
    (results / f"{re.sub(r'[^a-z0-9.]+', '-', tried.lower())}.json").write_text(json.dumps(whole, indent=1))
    print(f"{tried}, in {record['seconds']:.0f} s: {json.dumps(record['outcomes'])}", flush=True)


def main() -> int:
    """Run the tests, or write the table; return 1 if something failed."""
    options = parse()
    if options.way == "table":
        records = [json.loads(path.read_text()) for path in options.results.glob("*.json")]
        text = table_of(records, list(COLUMNS))
        print(text)
        if options.into is not None:
            put_into(options.into, text)
        return 0
    failed = False
    for tried in options.releases if options.way == "try" else [options.label]:
        with tempfile.TemporaryDirectory() as folder:
            if options.way == "try":
                record = try_release(options.package, tried, Path(folder))
                keep(options.results, f"{options.package} {tried}", record)
            else:
                record = {**run(ROOT / "tests", [], Path(folder)), "versions": installed()}
                keep(options.results, tried, record)
        failed = failed or any(row["failed"] for row in record["outcomes"].values())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
