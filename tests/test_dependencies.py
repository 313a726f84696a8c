"""What pyproject.toml lets an installer choose."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib")  # Python 3.11

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(name):
    """Return every requirement of this name, of the package itself and of its extras."""
    lines = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
    return [found for found in map(Requirement, lines) if found.name == name]


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
@pytest.mark.parametrize("name", ["pytorch-lightning", "lightning"])
def test_the_releases_that_carried_malware_are_excluded(name, version):
    assert requirements(name)
    for requirement in requirements(name):
        assert not requirement.specifier.contains(version)


@pytest.mark.parametrize("version", ["2.5.0", "2.6.1", "2.6.4", "2.6.6"])
@pytest.mark.parametrize("name", ["pytorch-lightning", "lightning"])
def test_their_neighbours_are_not(name, version):
    assert all(requirement.specifier.contains(version) for requirement in requirements(name))
