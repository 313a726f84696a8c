"""What pyproject.toml lets an installer choose."""

import runpy
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lightning_sparse.extras import EXTRAS as EXTRA_OF
from lightning_sparse.extras import import_extra

tomllib = pytest.importorskip("tomllib")  # Python 3.11

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(name):
    """Return every requirement of this name, of the package itself and of its extras."""
    open_ones = [lines for extra, lines in EXTRAS.items() if extra != "bolts"]  # which pins an old release
    lines = [*PROJECT["dependencies"], *(line for lines in open_ones for line in lines)]
    return [found for found in map(Requirement, lines) if found.name == name]


DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def named_in(extra):
    """The distributions of an extra, and of the extras of ours that it has."""
    found = set()
    for one in map(Requirement, EXTRAS[extra]):
        inside = map(named_in, one.extras) if one.name == PROJECT["name"] else [{one.name}]
        found = found.union(*inside)
    return found


@pytest.mark.parametrize(("module", "extra"), EXTRA_OF.items())
def test_errors_name_the_extra_that_brings_the_module_in(module, extra, monkeypatch):
    assert DISTRIBUTIONS.get(module, module) in named_in(extra)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"for this: pip install \"\.\[{extra}\]\" in a checkout"):
        import_extra(f"{module}.part", "this")


def test_what_the_table_of_extras_names_is_all_that_they_bring():
    ours = {"cli", "plots", "recipes"}
    assert named_in("recipes") >= named_in("cli") | named_in("plots")
    assert {DISTRIBUTIONS.get(module, module) for module, extra in EXTRA_OF.items() if extra in ours} == (
        named_in("recipes")
    )


def test_every_requirement_has_one_lower_bound(capsys):
    """With which .ci/lowest.sh installs it: what is not tried may not be promised."""
    runpy.run_path(str(ROOT / ".ci" / "lowest.py"))
    lines = capsys.readouterr().out.split()
    assert {"torch==2.6", "safetensors==0.4", "jsonargparse[signatures]==4.37"} <= set(lines)
    assert all(line.count("==") == 1 for line in lines)


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
@pytest.mark.parametrize("name", ["pytorch-lightning", "lightning"])
def test_the_releases_that_carried_malware_are_excluded(name, version):
    assert requirements(name)
    for requirement in requirements(name):
        assert not requirement.specifier.contains(version)


@pytest.mark.parametrize("version", ["2.5.0", "2.6.1", "2.6.4", "2.6.6"])
@pytest.mark.parametrize("name", ["pytorch-lightning", "lightning"])
def test_their_neighbours_are_not(name, version):
    open_ones = [
        one for one in requirements(name) if not str(one.specifier).startswith("==")
    ]  # all but [bolts]
    assert open_ones
    assert all(requirement.specifier.contains(version) for requirement in open_ones)
