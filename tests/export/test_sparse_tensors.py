"""Small files of sparse nets: read back by the lines of the docs, and by `load_exported`."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from toy import Rotate, loader, make_toy, trainer

from lightning_sparse import (
    ASNISigmoidPruner,
    DCTpSConversion,
    GradualMagnitudePruning,
    IterativeMagnitudePruning,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    SparseFineTuning,
    convert_,
    load_exported,
    sparsify_,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.export import export
from lightning_sparse.export.sparse_tensors import SparseTensors
from lightning_sparse.files.held import held_state
from lightning_sparse.layers import to_dense_
from lightning_sparse.layers.dense_state import dense_state_dict

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
(LINES,) = [b for b in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "safe_open(" in b]


def by_the_docs(path):
    """Load a file by what the docs page says, to the letter."""
    found = {}
    exec(compile(LINES.replace("net.safetensors", str(path)), str(PAGE), "exec"), found)
    return found["state"]


def assert_same(state, expected):
    """The same names, types and numbers; NaN is NaN, and zeros have no sign."""
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype, name
        assert state[name].shape == tensor.shape, name
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0, equal_nan=True)


def round_trip(module, path, **options):
    file = export(module, path, SparseTensors(**options))
    return file, load_exported(file)


def test_the_docs_need_no_more_than_a_dozen_lines():
    lines = [line for line in LINES.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) == 9
    assert "lightning_sparse." not in LINES


CALLBACKS = {
    "PruneAtInit": lambda: [PruneAtInit("erk", 0.1)],
    "RigL": lambda: [RigLCallback(0.1, every_n_steps=2, stop_at=100)],
    "SET": lambda: [SETCallback(0.1, every_n_steps=2, stop_at=100, seed=3)],
    "ASNI": lambda: [ASNISigmoidPruner(density=0.1, search_epochs=2, reinit=None)],
    "IMP": lambda: [IterativeMagnitudePruning(0.1, rounds=1, epochs_per_round=1, rewind_to_step=2)],
    "gradual": lambda: [GradualMagnitudePruning(0.1, stop=3, every_n_steps=2)],
    "moving": lambda: [Rotate()],
    "compact": lambda: [PruneAtInit("erk", 0.1, storage="compact")],
    "RigL, compact": lambda: [RigLCallback(0.1, every_n_steps=2, stop_at=100, storage="compact")],
    "DCTpS": lambda: [DCTpSConversion(0.1), RigLCallback(every_n_steps=2, stop_at=4)],
    "fine-tuning": lambda: [SparseFineTuning(0.1)],
}
DENSE = ("DCTpS", "fine-tuning")


@pytest.mark.filterwarnings("ignore:.* and `max_epochs` is [12]:UserWarning")
@pytest.mark.parametrize("name", CALLBACKS)
def test_the_net_of_every_callback(name, tmp_path):
    toy = make_toy()
    trainer(tmp_path, *CALLBACKS[name](), max_epochs=2 if name in ("ASNI", "IMP") else 1).fit(toy, loader())
    expected = dense_state_dict(toy)
    file, state = round_trip(toy, tmp_path / "net")
    assert_same(state, expected)
    assert_same(by_the_docs(file), expected)
    make_toy().load_state_dict(state, strict=True)
    with safe_open(file, "pt") as found:
        assert ("net.6.weight.code" in found.keys()) == (name not in DENSE)  # noqa: SIM118
    if name in DENSE:
        small, state = round_trip(toy, tmp_path / "small", offsets="small")
        assert_same(state, expected)
        with safe_open(small, "pt") as found:
            assert "net.6.values" in found.keys()  # noqa: SIM118


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_precision_and_odd_values(dtype, tmp_path):
    net = nn.Sequential(nn.Linear(100, 40), nn.Linear(40, 10)).to(dtype)
    sparsify_(net, "erk", density=0.1)
    with torch.no_grad():
        kept = net[0].weight.nonzero()[:4]
        for (row, column), value in zip(kept, (math.nan, math.inf, -math.inf, -0.0), strict=True):
            net[0].weight[row, column] = value
        net[1].weight[2] = 0.0
    file, state = round_trip(net, tmp_path / "net")
    assert_same(state, dense_state_dict(net))
    assert_same(by_the_docs(file), dense_state_dict(net))
    assert file.stat().st_size < 0.5 * sum(p.nbytes for p in net.parameters()) + 1000


@pytest.mark.parametrize("density", [0.1, 0.01, 0.001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_size_near_the_entropy_of_the_support(density, dtype, tmp_path):
    """Bits per position by entropy, and values: what no file can fall short of by much."""
    net = nn.Linear(2000, 2000, bias=False).to(dtype)
    sparsify_(net, "random", density=density)
    total, kept = net.weight.numel(), int(net.weight.count_nonzero())
    bits = -(density * math.log2(density) + (1 - density) * math.log2(1 - density)) * total
    least = bits / 8 + kept * net.weight.itemsize
    file, _ = round_trip(net, tmp_path / "net")
    assert least < file.stat().st_size < 1.12 * least


def test_tied_weights_are_there_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self, sparse):
            super().__init__()
            self.embedding, self.head = nn.Embedding(50, 20), nn.Linear(20, 50, bias=False)
            self.head.weight = self.embedding.weight
            self.twice = nn.ModuleList([nn.Linear(20, 20)] * 2)
            if sparse:
                sparsify_(self, "erk", density=0.1, include=["*.weight"])

    for sparse in (True, False):
        net = Tied(sparse)
        file, state = round_trip(net, tmp_path / "net")
        assert_same(state, dict(net.state_dict()))
        assert_same(by_the_docs(file), dict(net.state_dict()))
        assert state["head.weight"] is state["embedding.weight"]
        with safe_open(file, "pt") as found:
            assert not [name for name in found.keys() if name.startswith(("head", "twice.1"))]  # noqa: SIM118


def test_a_compact_layer_in_two_places_is_there_once(tmp_path):
    layer = nn.Linear(30, 30)
    net = nn.ModuleList([layer, layer])
    convert_(net, 0.2, offset="dct")
    for options in ({}, {"offsets": "small"}):
        file, state = round_trip(net, tmp_path / "net", **options)
        assert_same(state, dense_state_dict(net))
        with safe_open(file, "pt") as found:
            assert not [name for name in found.keys() if name.startswith("1.")]  # noqa: SIM118


def test_layers_of_dctps_are_small_where_that_is_asked_for(tmp_path):
    net = nn.Sequential(nn.Conv2d(16, 32, 3, bias=False), nn.Flatten(), nn.Linear(512, 100)).half()
    convert_(net, 0.01)
    with torch.no_grad():
        net[0].values.normal_(), net[2].values.normal_(), net[2].alpha.fill_(0.25)
    dense, _ = round_trip(net, tmp_path / "dense")
    small, state = round_trip(net, tmp_path / "small", offsets="small")
    assert_same(state, dense_state_dict(net))
    assert small.stat().st_size < 0.06 * dense.stat().st_size
    to_dense_(net)
    net.load_state_dict(state)


def test_a_bare_layer_and_a_net_without_weights(tmp_path):
    for net in (nn.Linear(3, 2), nn.ReLU(), nn.Sequential(nn.BatchNorm1d(3))):
        assert_same(round_trip(net, tmp_path / "net")[1], dict(net.state_dict()))
    layer = nn.Sequential(nn.Linear(40, 30))
    convert_(layer, 0.1, offset="none")
    assert_same(round_trip(layer[0], tmp_path / "net")[1], dense_state_dict(layer[0]))


def test_layers_without_a_single_weight_left(tmp_path):
    net = nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 10))
    nn.init.zeros_(net[0].weight)
    file, state = round_trip(net, tmp_path / "net")
    assert_same(state, dict(net.state_dict()))
    assert_same(by_the_docs(file), dict(net.state_dict()))


def test_the_metadata_say_what_is_there(tmp_path):
    net = nn.Sequential(nn.Linear(50, 40))
    sparsify_(net, "erk", density=0.1)
    file, _ = round_trip(net, tmp_path / "net")
    with safe_open(file, "pt") as found:
        record = json.loads(found.metadata()["lightning_sparse"])
    assert (record["kind"], record["version"]) == ("sparse state dict", 1)
    content = record["content"]
    assert content["sparse"] == {"0.weight": [40, 50]}
    assert sorted(content["tensors"]) == ["0.bias", "0.weight.code", "0.weight.values"]


def test_a_damaged_file_is_refused(tmp_path):
    net = nn.Sequential(nn.Linear(50, 40))
    sparsify_(net, "erk", density=0.1)
    file, _ = round_trip(net, tmp_path / "net")
    content = file.read_bytes()
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(SparsityError, match="is damaged"):
        load_exported(file)
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(SparsityError, match="is no safetensors file, or a damaged one"):
        load_exported(file)
    with pytest.raises(SparsityError, match=r"must be a file, got .*which does not exist"):
        load_exported(tmp_path / "nothing")


def test_what_cannot_be_written(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def get_extra_state(self):
            return {"epoch": 3}

        def set_extra_state(self, state):
            pass

    with pytest.raises(
        SparsityError, match=r"`module` must have a state dict of tensors.*'_extra_state' of type"
    ):
        export(Odd(), tmp_path / "net", "safetensors")
    with pytest.raises(SparsityError, match="`offsets` must be one of dense, small, got 'tiny'"):
        SparseTensors(offsets="tiny")
    with pytest.raises(SparsityError, match="`example_input` has no effect with the format 'safetensors'"):
        export(nn.Linear(3, 2), tmp_path / "net", "safetensors", example_input=torch.zeros(1, 3))
    taken = nn.ModuleDict({"fc": nn.Linear(50, 40)})
    nn.init.zeros_(taken["fc"].weight)
    held = held_state({**taken.state_dict(), "fc.weight.code": torch.zeros(2)})
    with pytest.raises(SparsityError, match=r"must not have a parameter of the name 'fc\.weight\.code'"):
        export(held, tmp_path / "net", "safetensors")
    assert not list(tmp_path.iterdir())
