"""Formats that call the net: what their files compute is what the net computes."""

import threading

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from toy import loader, make_toy, trainer

from lightning_sparse import DCTpSConversion, PruneAtInit, convert_, sparsify_
from lightning_sparse.checks import SparsityError
from lightning_sparse.export import export
from lightning_sparse.export.calls import call_of
from lightning_sparse.export.onnx_file import ONNX
from lightning_sparse.export.same import differences
from lightning_sparse.export.sparse_rows import SparseRows
from lightning_sparse.export.timing import ratio_of_times
from lightning_sparse.export.torch_program import TorchProgram

CALLED = ["torch-export", "onnx", "csr"]


def images(batch=2, seed=0):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """Trained nets, masked, compact and with layers of DCTpS."""
    found = {}
    callbacks = {
        "masked": PruneAtInit("erk", 0.1),
        "compact": PruneAtInit("erk", 0.1, storage="compact"),
        "dctps": DCTpSConversion(0.1, backend="transform"),
    }
    for name, callback in callbacks.items():
        found[name] = make_toy()
        trainer(tmp_path_factory.mktemp(name), callback, max_epochs=1).fit(found[name], loader())
    return found


def outputs(format_, file, x, fresh=None):
    """Run a file as its docs say."""
    if format_ == "torch-export":
        return torch.export.load(file).module()(x)
    if format_ == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(str(file))
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    fresh.load_state_dict(torch.load(file, weights_only=True), assign=True)
    fresh.eval()
    with torch.no_grad():
        return fresh(x)


@pytest.mark.parametrize(
    ("name", "format_"),  # onnx takes seconds
    [("masked", "torch-export"), ("masked", "csr"), ("compact", "csr")] + [("dctps", f) for f in CALLED],
)
def test_trained_nets(nets, name, format_, tmp_path):
    """Modules of Lightning without a forward pass of their own: the net in them is exported."""
    toy = nets[name]
    before = {key: value.clone() for key, value in toy.state_dict().items()}
    training = toy.training
    file = export(toy, tmp_path / "net", format_, example_input=images())
    fresh = make_toy()
    for batch in (1, 2, 5):
        x = images(batch, batch)
        if format_ == "csr":
            fresh.load_state_dict(torch.load(file, weights_only=True), assign=True)
            got = fresh.eval().net(x)
        else:
            got = outputs(format_, file, x)
        expected = toy.eval().net(x)
        toy.train(training)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    after = toy.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert toy.training == training
    assert toy.trainer is not None
    assert list(tmp_path.iterdir()) == [file]


class Two(nn.Module):
    """Two arguments, one of them integers, and a dict of outputs."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, ids, *, mask):
        return {"logits": self.head(self.embedding(ids)).sum(1) * mask, "ids": ids}


@pytest.mark.parametrize("format_", CALLED)
def test_several_arguments(format_, tmp_path):
    given = {"ids": torch.zeros(1, 5, dtype=torch.long), "mask": torch.ones(1, 3)}
    assert export(Two(), tmp_path / "net", format_, example_input=given).is_file()


@pytest.mark.parametrize("kind", [TorchProgram, ONNX])
def test_a_wrong_file_is_an_error_and_is_not_left_there(kind, tmp_path, monkeypatch):
    """The net that is traced differs a little from the one that it is compared with."""
    module = __import__(kind.__module__, fromlist=["call_of"])

    def a_little_off(net, example_input, dense=True):
        call = call_of(net, example_input, dense)
        if dense:
            call.net.bias.data[0] += 1e-4
        return call

    monkeypatch.setattr(module, "call_of", a_little_off)
    with pytest.raises(
        SparsityError, match=r"must have the same outputs as .*differ by 0\.0001 at an input of"
    ):
        export(nn.Linear(3, 2), tmp_path / "net", kind(example_input=torch.zeros(1, 3)))
    assert not list(tmp_path.iterdir())


class Odd(nn.Module):
    """NaN and infinity among the outputs, and an output that is an input."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        y = self.fc(x)
        return y.log(), y / 0.0, x, x > 0


@pytest.mark.parametrize("format_", ["torch-export", "csr"])
def test_outputs_that_are_no_numbers(format_, tmp_path):
    assert export(Odd(), tmp_path / "net", format_, example_input=torch.zeros(2, 4)).is_file()


class OneSize(nn.Module):
    """A net for batches of one size."""

    def __init__(self, size):
        super().__init__()
        self.fc, self.size = nn.Linear(4, 3), size

    def forward(self, x):
        return self.fc(x.reshape(self.size, 4))


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("format_", ["torch-export", "csr", "dense-small"])
def test_a_net_for_one_size_of_the_batch(format_, size, tmp_path):
    said = []
    x = torch.zeros(size, 4)
    file = export(OneSize(size), tmp_path / "net", format_, example_input=x, tell=said.append)
    if format_ == "torch-export":
        assert f"The file takes {size} items at a time" in "\n".join(said)
        assert outputs(format_, file, torch.ones(size, 4)).shape == (size, 3)


class Looks(nn.Module):
    """What it computes depends on numbers."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_cannot_be_exported(tmp_path):
    linear = nn.Linear(4, 3)
    for format_ in CALLED:
        with pytest.raises(SparsityError, match="`example_input` must be given"):
            export(linear, tmp_path / "net", format_)
        with pytest.raises(
            SparsityError, match=r"must be what the net takes, got 1 x 5, which ends in Runtime"
        ):
            export(linear, tmp_path / "net", format_, example_input=torch.zeros(1, 5))
    for format_ in ("torch-export", "onnx"):
        with pytest.raises(SparsityError, match=f"can trace, for the format '{format_}', got Looks"):
            export(Looks(), tmp_path / "net", format_, example_input=torch.zeros(1, 5))
    locked = nn.Linear(4, 3)
    locked.lock = threading.Lock()
    with pytest.raises(
        SparsityError, match="must be one that can be copied, got Linear, which ends in TypeErr"
    ):
        export(locked, tmp_path / "net", "csr", example_input=torch.zeros(1, 4))
    with pytest.raises(SparsityError, match="`opset` must be an integer of at least 18, got 3"):
        ONNX(opset=3)
    assert not list(tmp_path.iterdir())


class NoForward(pl.LightningModule):
    """Two children, none of which holds all weights."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(4, 3), nn.Linear(4, 3)


@pytest.mark.parametrize("format_", ["torch-export", "csr", "dense-small"])
def test_nets_that_cannot_be_called(format_, tmp_path):
    for net, message in (
        (nn.Linear(4, 3, device="meta"), "^`module` must have values, got 'weight' without"),
        (nn.LazyLinear(3), "^`module` must have values, got 'weight' without"),
        (NoForward(), "^`module` must have a `forward`, or one child that holds all its weights, got NoFor"),
    ):
        with pytest.raises(SparsityError, match=message):
            export(net, tmp_path / "net", format_, example_input=torch.zeros(1, 4))
    assert not list(tmp_path.iterdir())


class Picky(nn.Module):
    """Takes no negative numbers."""

    def forward(self, x):
        assert bool((x >= 0).all())
        return x.sqrt()


def test_a_net_that_does_not_take_all_numbers(tmp_path):
    net = nn.Sequential(Picky(), nn.Linear(4, 3))
    assert export(net, tmp_path / "net", "csr", example_input=torch.ones(2, 4)).is_file()


def test_random_numbers_of_others_stay(monkeypatch):
    call = call_of(nn.Dropout().train(), torch.ones(2, 40))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("GPUs were seeded"))
    call.net.train()
    state = torch.get_rng_state()
    first, again = call(), call()
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(first, again)
    assert 0 < (first[0] == 0).sum() < 80


def test_differences_of_outputs():
    nan, inf = torch.nan, torch.inf
    for one, other, expected in (
        ([1.0, -4.0], [1.5, -4.0], (0.5, 4.0)),
        ([nan, inf, 2.0], [nan, inf, 2.0], (0.0, 2.0)),
        ([nan], [inf], (inf, 0.0)),
        ([inf], [-inf], (inf, 0.0)),
        ([1.0, 2.0], [1.0], (inf, 0.0)),
    ):
        assert differences([torch.tensor(one)], [torch.tensor(other)]) == [expected]
    assert differences([torch.tensor([1, 2])], [torch.tensor([1, 3])]) == [(inf, 0.0)]
    assert differences([torch.tensor([3 + 4j])], [torch.tensor([3 + 2j])]) == [(2.0, 4.0)]
    assert differences([torch.ones(1)], []) == [(inf, 0.0)]


def test_an_example_of_the_module_is_taken(tmp_path):
    toy = make_toy()
    toy.example_input_array = images(1)
    assert export(toy, tmp_path / "net", "torch-export").is_file()


def test_a_program_needs_no_package_of_ours(tmp_path):
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    convert_(net, 0.5)
    file = export(net, tmp_path / "net", "torch-export", example_input=torch.zeros(1, 8))
    program = torch.export.load(file)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert called == {"aten.linear.default", "aten.relu.default"}
    assert list(program.state_dict) == ["0.weight", "0.bias", "2.weight", "2.bias"]


# CSR.


class Wide(nn.Module):
    """A layer large enough to be worth while, one that is not, one that is tied, and one by its weight."""

    def __init__(self):
        super().__init__()
        self.wide, self.small = nn.Linear(1000, 400), nn.Linear(400, 10)
        self.embedding, self.tied = nn.Embedding(400, 400), nn.Linear(400, 400, bias=False)
        self.tied.weight = self.embedding.weight
        self.by_weight = nn.Linear(400, 400)

    def forward(self, x):
        x = self.wide(x)
        return self.small(x) + self.small(self.tied(x) + self.by_weight(x)) + self.by_weight.weight.mean()


@pytest.fixture
def wide():
    torch.manual_seed(0)
    net = Wide()
    sparsify_(net, "uniform", density=0.005)
    return net.eval()


def test_layers_are_sparse_where_that_was_faster(wide, tmp_path, monkeypatch):
    times = {(400, 1000): 0.3, (10, 400): 1.2, (400, 400): 0.2}
    timed = []

    def ratio(way, other, rounds):
        shape = (
            tuple(way.__closure__[1].cell_contents.weight.shape) if "rows" in way.__code__.co_freevars else ()
        )
        timed.append(shape)
        return times.get(shape, 0.5)

    monkeypatch.setattr("lightning_sparse.export.sparse_rows.ratio_of_times", ratio)
    said = []
    file = export(wide, tmp_path / "net", "csr", example_input=torch.zeros(16, 1000), tell=said.append)
    assert file.name == "net.csr.pt"
    state = torch.load(file, weights_only=True)
    sparse = [name for name, value in state.items() if value.layout == torch.sparse_csr]
    assert sparse == ["wide.weight"]
    assert state["wide.weight"].crow_indices().dtype == torch.int32
    assert timed == [(400, 1000), (10, 400), (400, 400), ()]
    for line in (
        "wide: 1000 to 400, density 0.50%, 16 rows: 0.30",
        "small: 400 to 10, density 0.50%, 16 rows: 1.20, stays dense",
        "by_weight stays dense all the same: the net has another use for its weight",
        "the whole net: 0.50",
    ):
        assert line in "\n".join(said)
    x = torch.randn(3, 1000)
    with torch.no_grad():
        torch.testing.assert_close(outputs("csr", file, x, Wide()), wide(x), atol=1e-5, rtol=1e-5)


def test_a_net_that_is_not_faster_is_written_densely(wide, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_sparse.export.sparse_rows.ratio_of_times", lambda *_: 0.95)
    said = []
    file = export(wide, tmp_path / "net", SparseRows(example_input=torch.zeros(2, 1000)), tell=said.append)
    assert "No layer is faster as CSR: all weights are written densely." in "\n".join(said)
    assert all(value.layout == torch.strided for value in torch.load(file).values())


def test_a_bare_layer_and_half_precision(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_sparse.export.sparse_rows.ratio_of_times", lambda *_: 0.1)
    layer = nn.Linear(40, 30)
    sparsify_(layer, "uniform", density=0.05)
    state = torch.load(export(layer, tmp_path / "net", "csr", example_input=torch.zeros(2, 40)))
    assert state["weight"].layout == torch.sparse_csr
    half = export(layer.half(), tmp_path / "half", "csr", example_input=torch.zeros(2, 40).half())
    assert torch.load(half)["weight"].layout == torch.strided


def test_a_layer_in_two_places_is_sparse_in_both(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_sparse.export.sparse_rows.ratio_of_times", lambda *_: 0.1)
    net = nn.Sequential(*[nn.Linear(40, 40)] * 2)
    sparsify_(net, "uniform", density=0.05)
    state = torch.load(export(net, tmp_path / "net", "csr", example_input=torch.zeros(2, 40)))
    assert {state[name].layout for name in ("0.weight", "1.weight")} == {torch.sparse_csr}


def test_ratios_are_of_both_ways():
    x = torch.randn(200, 200)
    assert ratio_of_times(lambda: (x @ x, x @ x, x @ x, x @ x), lambda: x @ x, 5) > 2
    assert ratio_of_times(lambda: x @ x, lambda: (x @ x, x @ x, x @ x, x @ x), 5) < 0.5
