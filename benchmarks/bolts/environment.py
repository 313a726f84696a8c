"""Builds the environment of the extra `bolts`, and runs something in it: the tests, if nothing is named.

    python -m benchmarks.bolts.environment FOLDER                      # pytest -m bolts tests/bolts
    python -m benchmarks.bolts.environment FOLDER python -m benchmarks.nets --only bolts

lightning-bolts 0.7.0 wants pytorch-lightning 1.9.5 and NumPy 1.23.5, so it has an environment of its own.
PyTorch and torchvision, which are large, are those of the environment that this runs in. FOLDER is new or
empty, or an environment that this has built before, which is used as it is.

If packages cannot be had, the reason is printed, and the exit status is 0: nothing was tried. If they can be
had and not installed, as with pins that exclude each other, it is 1. Else it is that of the command.
"""

import argparse
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SHARED = ("torch", "torchvision")
OWN = ("numpy", "setuptools")  # what they need, and the extra pins otherwise
TESTS = ("python", "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal", "-m", "bolts", "tests/bolts")
INSTALLED = "has the packages of the extra bolts"  # a file that is written at last
NOT_TO_BE_HAD = re.compile(
    "No matching distribution found|HTTP error|HTTPS?ConnectionPool|ReadTimeoutError|ProxyError|SSLError"
)
"""What pip says where an index cannot be reached, or does not have a package."""


def main() -> int:
    """Build, and run; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", metavar="FOLDER", help="new or empty, or built by this before")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run there, in place of the tests")
    options = parser.parse_args()
    folder, command = Path(options.folder).resolve(), options.command or TESTS
    if not (folder / INSTALLED).is_file():
        if sys.version_info >= (3, 12):
            return skip(f"NumPy 1.23.5 is for Python 3.11 and earlier, this is {sys.version.split()[0]}")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            print(f"`FOLDER` must be new, empty or built by this, got {str(folder)!r}. Name another.")
            return 2
        if said := build(folder):
            reasons = [line.strip() for line in said.splitlines() if line.strip().startswith("ERROR:")]
            reason = "\n".join(dict.fromkeys(reasons)) or said
            if NOT_TO_BE_HAD.search(said):
                return skip(reason)
            print(f"bolts: its packages can be had, and could not be installed:\n{reason}")
            return 1
    python = folder / "bin" / "python"
    words = (
        [str(python), *command[1:]]
        if command[0] == "python"
        else [str(folder / "bin" / command[0]), *command[1:]]
    )
    return subprocess.run(words, cwd=ROOT, check=False).returncode


def skip(reason: str) -> int:
    """Say why nothing is tried; return the exit status."""
    print(f"bolts: skipped, as its packages cannot be had:\n{reason}")
    return 0


def build(folder: Path) -> str:
    """Make the environment; return what pip said if it could not be made, or nothing.

    A folder that is not finished does not stay.
    """
    said = ""
    try:
        venv.create(folder, with_pip=True)
        share(folder)
        said = install(folder)
        if not said:
            (folder / INSTALLED).touch()
    finally:
        if not (folder / INSTALLED).is_file():
            shutil.rmtree(folder, ignore_errors=True)
    return said


def install(folder: Path) -> str:
    """Install what the extra names, and pytest; return what pip said if it failed."""
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-cache-dir"]
    packages = ["-e", f"{ROOT}[bolts]", "pytest", "pytest-timeout", "pytest-xdist"]
    run = subprocess.run([*pip, *packages], capture_output=True, text=True, check=False)
    return (run.stderr.strip() or f"pip ended with {run.returncode}") if run.returncode else ""


def share(folder: Path) -> None:
    """Let an environment find the large packages, and what they need, where this one has them.

    By links in a folder that comes after what is installed there: pip sees them, and touches none.
    """
    links = folder / "shared"
    links.mkdir()
    for name in needed(SHARED):
        for top in tops(distribution(name)):
            link = links / top.name
            if not link.exists():
                link.symlink_to(top)
    (packages,) = (folder / "lib").glob("python3*/site-packages")
    (packages / "shared.pth").write_text(f"{links}\n")


def needed(names: Sequence[str]) -> list[str]:
    """Return these distributions and all that they need here, but for what is pinned."""
    found: dict[str, None] = {}
    left = [Requirement(name) for name in names]
    seen: set[str] = set()
    while left:
        one = left.pop()
        if str(one) in seen or one.name in OWN:
            continue
        seen.add(str(one))
        try:
            wanted = [Requirement(line) for line in distribution(one.name).requires or []]
        except PackageNotFoundError:
            continue  # it will be installed, if it is needed
        found[one.name] = None
        left += [w for w in wanted if w.marker is None or any(map(w.marker.evaluate, _chosen(one)))]
    return list(found)


def _chosen(wanted: Requirement) -> list[dict[str, str]]:
    """Return what markers are asked about: no extra, and each that is named."""
    return [{"extra": extra} for extra in ("", *wanted.extras)]


def tops(installed: Distribution) -> Iterator[Path]:
    """Yield the folders and files of a distribution that lie beside others."""
    for top in dict.fromkeys(file.parts[0] for file in installed.files or ()):
        if top not in ("..", "__pycache__"):
            yield Path(str(installed.locate_file(top)))


if __name__ == "__main__":
    sys.exit(main())
