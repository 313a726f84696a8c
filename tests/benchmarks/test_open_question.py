"""The open question's trainings: the compiled step does what the package does, and a kill loses nothing."""

import shutil

import pytest
import torch

from benchmarks.experiments.open_question import __main__ as command
from benchmarks.experiments.open_question import check, pack, stream
from benchmarks.experiments.open_question.kernel import State, bind
from benchmarks.experiments.open_question.starts import STARTS, has_path, make, state_of
from benchmarks.harness.series import read

pytestmark = [
    pytest.mark.usefixtures("settings_stay"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]
BY_NAME = {start.name: start for start in STARTS}
NAMES = ("DCTpS, chw, LSUV, last x 0.1", "EPL, Kaiming")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def images():
    return stream.noise()


@pytest.mark.parametrize("name", NAMES)
def test_the_compiled_step_is_the_packages(name, images, folder):
    net = make(BY_NAME[name], 3_000, 0, images)
    before = state_of(net)
    given = list(check.batches(images, 6))  # every second of which is not full
    ours = check.by_kernel(pack.Pack([name], [before], 0, folder), given)
    theirs = check.by_package(net, given)
    losses, weights = ours.minus(theirs)
    assert losses < 1e-5
    assert weights < 1e-4  # Adam makes a whole step of a gradient that is nearly zero
    typical = (ours.state.values - theirs.state.values).abs().median()
    assert typical < 3e-7  # 1e-8; another beta of Adam makes 2e-6, and no more
    assert (ours.state.values - before.values).abs().max() > 1e-3


def test_a_forward_pass_classifies_as_the_net_does(images, folder):
    net = make(BY_NAME[NAMES[0]], 3_000, 1, images)
    x, labels = images.val[1]
    right = int((net(x.permute(3, 0, 1, 2)[: len(labels)]).argmax(1) == labels).sum())
    assert bind(folder, state_of(net))(x, labels)[1] == right


def test_images_are_cropped_and_mirrored(images):
    places, corners = torch.tensor([5, 9]), torch.tensor([[0, 8], [3, 4]])
    batch = images.batch(places, corners, torch.tensor([False, True]))
    first = images.images[5, :, 0:32, 3:35]
    second = images.images[9, :, 8:40, 4:36].flip(2)
    for found, wanted in zip(batch.unbind(-1)[:2], (first, second), strict=True):
        wanted = stream.normalised(wanted[..., None], images.mean, images.std)[..., 0]
        torch.testing.assert_close(found, wanted)
    assert batch.shape[-1] == 64
    assert not batch[..., 2:].any()
    assert sum(len(labels) for _, labels in images.epoch(torch.Generator())) == len(images.labels)


def test_what_has_no_path():
    every = State(torch.arange(61_510).int(), torch.zeros(61_510), torch.zeros(0), None)
    assert has_path(every)
    without_last = every.indices[: 61_510 - 820]
    assert not has_path(State(without_last, torch.ones(len(without_last)), torch.zeros(0), None))


def test_a_pack_goes_on_where_it_was_killed(images, folder, tmp_path):
    def start():
        states = [state_of(make(BY_NAME[name], 3_000, 0, images)) for name in NAMES]
        return pack.Pack(NAMES, states, 0, folder)

    whole = pack.train(tmp_path / "whole.pt", start, images, 3, folder)
    pack.train(tmp_path / "parts.pt", start, images, 1, folder)
    (tmp_path / "parts.pt.part").write_bytes(b"half")  # a kill in the middle of writing
    parts = pack.train(tmp_path / "parts.pt", start, images, 3, folder)
    assert torch.equal(whole.values, parts.values)
    assert torch.equal(whole.scales, parts.scales)
    for number in range(len(NAMES)):
        ours, theirs = whole.outcome(number, images), parts.outcome(number, images)
        assert ours | {"cpu_seconds": 0} == theirs | {"cpu_seconds": 0}


def test_a_series_repeats_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "STARTS", [BY_NAME[name] for name in NAMES])
    arguments = ["--smoke", "--budgets", "100", "--results", str(tmp_path)]
    command.main(arguments)
    records = read(tmp_path / "open_question-smoke" / "runs.jsonl")
    found = {(record["method"], record["path"]) for record in records}
    assert found == {(NAMES[0], True), (NAMES[1], False)}
    assert [record["epochs"] for record in records] == [0, 2]
    command.main(arguments)
    assert read(tmp_path / "open_question-smoke" / "runs.jsonl") == records
    assert f"| {NAMES[1]} |" in capsys.readouterr().out
