"""The kills and flips of `benchmarks.faults`, few of each, and that it counts what goes wrong."""

import random

import forked
import pytest
import torch

from benchmarks import faults
from benchmarks.faults import KINDS, Kind, outcome, same, try_flips, try_kills
from lightning_sparse.checks import SparsityError


@pytest.fixture(autouse=True, scope="module")
def the_server_of_all_tests():
    """One server makes the forks of all tests: whoever starts it says what it imports."""
    with forked.server() as context:
        started = context.Process(target=int)
        started.start()
        started.join()


@pytest.mark.parametrize("row", ["PruneAtInit erk", "DCTpSConversion, RigLCallback"])
def test_killed_runs_end_as_the_others(tmp_path, row):
    counts = try_kills(row, 1, random.Random(3), tmp_path)
    assert (counts["kills"], counts["equal"], counts["different"]) == (1, 1, 0)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_flips_are_errors_or_harmless(tmp_path, name):
    try_flips(tmp_path / "it", name, flips=16, cuts=3, seed="7")
    found = torch.load(tmp_path / "it" / "counts.pt")
    assert not found["notes"]
    assert sum(found["counts"].values()) == 19
    assert found["counts"]["error"] > 3


def test_what_passes_without_a_word_or_is_not_clear_is_counted(tmp_path):
    path = tmp_path / "masks.pt"

    def refuses(text):
        def read(_):
            raise SparsityError(text)

        return Kind(lambda folder: path, read)

    def chained(_):
        try:
            raise KeyError("first")
        except KeyError as error:
            raise SparsityError("`path` masks.pt") from error

    assert (
        outcome(Kind(KINDS["ticket"].make, lambda _: [torch.ones(2)]), path, [torch.zeros(2)])[0] == "silent"
    )
    assert outcome(Kind(KINDS["ticket"].make, lambda _: [torch.ones(2)]), path, [torch.ones(2)])[0] == "exact"
    assert outcome(refuses("`path` masks.pt is damaged"), path, None)[0] == "error"
    for text in ("it is damaged", "masks.pt\n\n\n", "masks.pt: use weights_only=False"):
        assert outcome(refuses(text), path, None)[0] == "unclear"
    assert outcome(Kind(KINDS["ticket"].make, chained), path, None)[0] == "unclear"
    assert outcome(Kind(KINDS["ticket"].make, lambda path: {}[path]), path, None)[0] == "unclear"


def test_trees_differ_by_a_value_a_type_or_a_name():
    one = {"a": [torch.ones(2), 3]}
    assert same(one, {"a": [torch.ones(2), 3]})
    for other in ({"a": [torch.ones(2), 4]}, {"a": [torch.ones(2).double(), 3]}, {"b": one["a"]}, {}):
        assert not same(one, other)


def test_without_the_checksums_flips_pass(tmp_path, monkeypatch):
    """The count of what is silent comes from the files, not from what the checks say."""
    monkeypatch.setattr("lightning_sparse.files.reading.damage_in", lambda *_: None)
    try_flips(tmp_path / "it", "dict of masks", flips=60, cuts=0, seed="7")
    assert torch.load(tmp_path / "it" / "counts.pt")["counts"]["silent"] > 0


def test_the_exit_status_tells(monkeypatch, capsys):
    monkeypatch.setattr(faults, "finish", lambda *_: None)
    monkeypatch.setattr(faults, "in_process", lambda _, folder, *__: folder)
    for silent, status in ((0, 0), (2, 1)):
        found = {"counts": {"silent": silent, "error": 5}, "notes": ["silent: bit 3"] * silent, "bytes": 9}
        monkeypatch.setattr(torch, "load", lambda _, found=found: found)
        assert faults.main(["--kills", "0", "--only", "ticket"]) == status
        assert ("silent: bit 3" in capsys.readouterr().out) == bool(silent)
