"""The table of nets of other packages, on nets made for it: each verdict is given where it is due."""

import os
import re
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from benchmarks.nets.case import Case, Task, classified, loader
from benchmarks.nets.cell import _unlike_by_hand, fitted, run
from benchmarks.nets.families import __path__ as families
from benchmarks.nets.family import FAMILIES, _forked
from benchmarks.nets.methods import METHODS
from benchmarks.nets.states import States, numbers_of
from benchmarks.nets.table import MARKS, put_into, table_of
from benchmarks.nets.watch import Product
from lightning_sparse import masks_of, sparsify_
from lightning_sparse.weights.state import state_of

pytestmark = pytest.mark.usefixtures("settings_stay")
ROOT = Path(__file__).parents[2]


def data():
    return loader([(torch.full((20,), float(i)), i % 4) for i in range(12)])


def build(layers=lambda: [nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)], loss=classified, **options):
    return Case(Task(nn.Sequential(*layers()), loss), data(), **options)


@pytest.mark.parametrize("method", ["magnitude", "RigL", "DCTpS + RigL"])
def test_what_holds_is_exact(method, tmp_path):
    outcome = run("toy", build, method, tmp_path)
    assert (outcome.verdict, outcome.texts) == ("exact", [])
    assert (outcome.kept, outcome.total, outcome.parameters) == (72, 720, 754)


def test_refusals_in_our_words_are_told_from_raw_errors(tmp_path):
    def fails(*_):
        raise RuntimeError("of the net's own")

    refused = run("norms", partial(build, lambda: [nn.LayerNorm(20)]), "erk", tmp_path)
    assert refused.verdict == "clear error"
    assert "weight" in refused.texts[0]
    raw = run("fails", partial(build, loss=fails), "erk", tmp_path)
    assert raw.verdict == "FAULT"
    assert raw.texts[0].startswith("RuntimeError: of the net's own (test_nets.py:")


def test_what_a_net_is_asked_beyond_the_rest_counts(tmp_path):
    outcome = run("toy", partial(build, problems=lambda _: ["no teacher"]), "erk", tmp_path)
    assert (outcome.verdict, outcome.texts) == ("FAULT", ["no teacher"])


def test_a_run_that_no_net_repeats_is_no_fault(tmp_path):
    calls = iter(range(1000))
    outcome = run(
        "drifts", partial(build, loss=lambda *x: classified(*x) * (2 + next(calls))), "erk", tmp_path
    )
    assert outcome.verdict == "exact"
    assert outcome.texts == ["resumed: not the undisturbed run, dense nets too"]


def test_training_by_hand_tells_a_weight_that_is_off(tmp_path):
    whole = fitted(build, METHODS["magnitude"], tmp_path)
    assert not list(_unlike_by_hand(build, whole, tmp_path))
    whole.module.net[2].bias.data[0] += 1
    assert list(_unlike_by_hand(build, whole, tmp_path)) == [
        "net.2.bias is not what it is when trained by hand, 1 off"
    ]


def test_products_are_looked_at_for_what_is_not_pruned_there():
    weight = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    with Product(weight != 0) as plain:
        F.linear(torch.ones(1, 2), weight)
    with Product(weight != 0) as shifted:
        F.linear(torch.ones(1, 2), weight=weight - weight.mean())
    assert (plain.alive, shifted.alive) == (0, 2)


def test_moves_that_forget_the_optimizer_are_seen():
    net = nn.Sequential(nn.Linear(20, 10))
    sparsify_(net, "magnitude", density=0.1)
    optimizer, states = SGD(net.parameters(), 0.1, momentum=0.9), States()
    net(torch.ones(1, 20)).sum().backward()
    optimizer.step()
    for told, optimizers in ((True, []), (False, [optimizer])):
        states.wrong.clear()
        states.on_before_optimizer_step(None, net, optimizer)
        masks = {name: mask.roll(1, 0) for name, mask in masks_of(net).items()}
        state_of(net).move_(masks, optimizers)
        states.on_train_batch_end(SimpleNamespace(optimizers=[optimizer]), net)
        assert bool(states.wrong) is told
    assert states.moves == 2


def test_codes_of_eight_bits_are_read():
    weight = nn.Parameter(torch.zeros(2, 256))
    optimizer = SGD([weight], 0.1)
    table, scales = torch.linspace(-1, 1, 256), torch.tensor([1.0, 3.0])
    codes = torch.tensor([[0] * 256, [255] * 256], dtype=torch.uint8)
    optimizer.state[weight] = {"state1": codes, "qmap1": table, "absmax1": scales}
    ((key, values),) = numbers_of(optimizer, weight)
    assert key == "SGD.state1"
    assert values.unique(dim=1).tolist() == [[-1.0], [3.0]]


def test_a_process_that_dies_or_takes_too_long_is_a_fault():
    died = _forked("dies", lambda: os._exit(3), "erk", 60)
    assert (died["verdict"], died["texts"]) == ("FAULT", ["the process died with exit code 3"])
    late = _forked("sleeps", lambda: time.sleep(60), "erk", 0.05)
    assert (late["verdict"], late["texts"]) == ("FAULT", ["not done after 1 s of waiting"])


def busy():
    while True:
        pass


def test_a_process_is_given_so_many_seconds_of_the_processor():
    slow = _forked("works", busy, "erk", 1)
    assert (slow["verdict"], slow["texts"]) == ("FAULT", ["the process used up 1 s"])


def test_the_table_has_a_row_for_a_net_and_a_note_for_a_kind_of_text(tmp_path):
    cell = {"package": "p", "net": "n", "kept": 1, "total": 10, "parameters": 1100, "texts": []}
    first, second = "net.fc.weight, net.b.weight are | off by 2.5", "net.c is | off by 30"
    outcomes = [
        {**cell, "method": "erk", "verdict": "exact"},
        {**cell, "method": "snip", "verdict": "clear error", "texts": [first]},
        {**cell, "method": "RigL", "verdict": "warned", "texts": ["other", second, second.replace("3", "4")]},
    ]
    text = table_of({"outcomes": outcomes, "date": "2026-11-27", "seconds": 60, "versions": {"torch": "2"}})
    assert "| p | n | 10 of 1,100 | exact | error (1) | warned (2, 3) |" in text
    assert (
        "\n1. clear error: ... are \\| off by 2.5\n2. warned: other\n3. warned: ... is \\| off by 30\n"
        in text
    )
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    put_into(page, text)
    assert page.read_text() == f"before\n{MARKS[0]}\n{text}{MARKS[1]}\nafter\n"


def test_every_package_is_required_and_has_its_nets():
    required = (ROOT / "benchmarks/nets/requirements.txt").read_text()
    installed = set(re.findall(r"^([\w-]+)==", required, re.M)) | {"torch", "torchvision"}
    installed.add("lightning-bolts")  # an extra of the project, with an environment of its own
    assert set(FAMILIES.values()) <= installed
    files = {path.stem for path in Path(families[0]).glob("*.py")} - {"__init__"}
    assert files == set(FAMILIES)
