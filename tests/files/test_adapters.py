"""Adapters: what one process has trained another one has, to the bit; what does not fit is refused."""

import copy
import json
from pathlib import Path

import forked
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from toy import loader, make_toy, trainer

from lightning_sparse import RigLCallback, convert_, load_adapter, save_adapter, to_dense_
from lightning_sparse.callbacks import SparseConversion
from lightning_sparse.checks import SparsityError
from lightning_sparse.layers import compact_layers
from lightning_sparse.layers.draws import draw_supports
from lightning_sparse.layers.support import draw_support
from lightning_sparse.weights.found import sparse_weights

SCRIPT = Path(__file__).parents[1] / "scripts" / "adapter.py"
NOT_THAT_NET = "`module` must be the net that the adapter was trained from, got "


def net(dtype=torch.float32, sizes=(20, 12, 6)):
    """Two linear layers with a batch norm between them."""
    torch.manual_seed(0)
    layers = (nn.Linear(*sizes[:2]), nn.BatchNorm1d(sizes[1]), nn.ReLU(), nn.Linear(*sizes[1:]))
    return nn.Sequential(*layers).to(dtype)


def tuned(module=None, density=0.2, train=("3.bias",), include=("0.weight", "3.weight"), **options):
    """Convert a net, and give what it trains and the running statistics something to say."""
    module = module or net()
    module.requires_grad_(False)
    convert_(module, density, offset="pretrained", include=include, **options)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in module.named_parameters():
        if name in train or name.endswith("values"):
            parameter.requires_grad_().data += torch.randn(parameter.shape, generator=generator)
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer += torch.rand(buffer.shape, generator=generator)
    return module.eval()


def moved(module, generator=None):
    """Move all supports."""
    generator = generator or torch.Generator().manual_seed(5)
    for layer in compact_layers(module).values():
        layer.move_(draw_support(layer.shape, layer.nnz, generator))
        nn.init.normal_(layer.values, generator=generator)
    return module


def inputs(module):
    return torch.randn(7, 20, generator=torch.Generator().manual_seed(1)).to(module[0].bias.dtype)


def everything(module):
    """All that a module holds, and what of it is trained."""
    parts = {name: type(part).__name__ for name, part in module.named_modules()}
    trained = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    return parts, trained, {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_unchanged(module, before):
    after = everything(module)
    assert after[:2] == before[:2]
    assert after[2].keys() == before[2].keys()
    assert all(torch.equal(after[2][name], tensor) for name, tensor in before[2].items())


def assert_same(module, other):
    """Equal in all that they hold, in what is trained, and in what they return."""
    assert everything(module)[:2] == everything(other)[:2]
    assert_unchanged(other, everything(module))
    assert torch.equal(module.eval()(inputs(module)), other.eval()(inputs(module)))


def record_of(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["lightning_sparse"])


# From one process to another.


def test_another_process_has_the_same_output(tmp_path):
    path = tmp_path / "adapter.safetensors"
    written = forked.run(SCRIPT, "write", path, output=tmp_path / "written.txt").split()
    read = forked.run(SCRIPT, "read", path, output=tmp_path / "read.txt").split()
    assert read == ["layers", "0", "4", *written]
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    moved_layer = {"4.values", "4.positions"}  # those of the other layer are drawn again
    assert load_file(path).keys() == {"0.values", *moved_layer, "5.weight", "5.bias", *statistics}


# One net to another.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("change", [lambda module: module, moved])
def test_round_trip(tmp_path, dtype, change):
    module, other = change(tuned(net(dtype))), net(dtype)
    save_adapter(module, tmp_path / "a")
    assert load_adapter(other, tmp_path / "a") == ["0", "3"]
    assert_same(module, other)
    assert other[0].values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    save_adapter(other, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


def test_values_in_a_dtype_of_their_own(tmp_path):
    module, other = moved(tuned()), net()
    for layer in compact_layers(module).values():
        layer.values.data = layer.values.data.bfloat16()
    save_adapter(module, tmp_path / "a")
    load_adapter(other, tmp_path / "a")
    assert other[0].values.dtype == torch.bfloat16
    assert torch.equal(other[0].weight, module[0].weight)


@pytest.mark.parametrize("backend", ["materialize", "transform", "auto"])
def test_layers_multiply_as_they_did(tmp_path, backend):
    module, other = tuned(backend=backend), net()
    save_adapter(module, tmp_path / "a")
    load_adapter(other, tmp_path / "a")
    assert [layer.backend for layer in compact_layers(other).values()] == [backend] * 2
    assert_same(module, other)


def test_weights_fold_into_the_same_net(tmp_path):
    module, other = tuned(), net()
    save_adapter(module, tmp_path / "a")
    load_adapter(other, tmp_path / "a")
    assert to_dense_(module) == to_dense_(other) == ["0", "3"]
    assert_same(module, other)


def test_layers_without_values(tmp_path):
    module, other = tuned(min_weights_per_layer=0, density_overrides={"0.*": 1.0}, density=240 / 312), net()
    assert [layer.nnz for layer in compact_layers(module).values()] == [240, 0]
    save_adapter(module, tmp_path / "a")
    load_adapter(other, tmp_path / "a")
    assert_same(module, other)


def test_layers_in_two_places(tmp_path):
    def twice():
        layer = nn.Linear(20, 20)
        return nn.Sequential(layer, nn.ReLU(), layer)

    base = twice()
    module, other = tuned(copy.deepcopy(base), include=["0.weight"]), copy.deepcopy(base)
    save_adapter(module, tmp_path / "a")
    assert load_adapter(other, tmp_path / "a") == ["0"]
    assert other[0] is other[2]
    assert torch.equal(module(inputs(module)), other(inputs(other)))
    apart = nn.Sequential(base[0], nn.ReLU(), copy.deepcopy(base[0]))
    with pytest.raises(
        SparsityError,
        match=r"got one in which '2.bias' is not shared with another parameter\. Tie them first\.",
    ):
        load_adapter(apart, tmp_path / "a")


class Tied(nn.Module):
    """An embedding that is the last layer's weight, too, and a layer between."""

    def __init__(self, tie=True):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.inner, self.last = (
            nn.Embedding(30, 20),
            nn.Linear(20, 20),
            nn.Linear(20, 30, bias=False),
        )
        if tie:
            self.last.weight = self.embedding.weight
        else:
            self.last.weight.data.copy_(self.embedding.weight)

    def forward(self, tokens):
        return self.last(self.inner(self.embedding(tokens)))


@pytest.mark.parametrize("trained", [True, False])
def test_tied_weights(tmp_path, trained):
    module, other, tokens = Tied(), Tied(), torch.arange(9)
    module.requires_grad_(False)
    convert_(module, 0.2, offset="pretrained", include=["inner.weight"])
    if trained:
        module.embedding.weight.requires_grad_().data.normal_()
    save_adapter(module, tmp_path / "a")
    assert len([key for key in load_file(tmp_path / "a") if "inner" not in key]) == trained
    load_adapter(other, tmp_path / "a")
    assert other.last.weight is other.embedding.weight
    assert torch.equal(module(tokens), other(tokens))
    with pytest.raises(SparsityError, match=r"got one in which .last.weight. is not shared"):
        load_adapter(Tied(tie=False), tmp_path / "a")


@pytest.mark.parametrize("wrap", ["saved", "loaded"])
def test_compiled_nets_have_plain_names(tmp_path, wrap):
    module, other = tuned(), net()
    modules = [nn.Sequential(module), nn.Sequential(other)]
    at = ["saved", "loaded"].index(wrap)
    modules[at][0] = torch.compile(modules[at][0], backend="eager")
    save_adapter(modules[0], tmp_path / "a")
    assert load_adapter(modules[1], tmp_path / "a") == ["0.0", "0.3"]
    assert torch.equal(modules[0](inputs(module)), modules[1].eval()(inputs(module)))


def test_a_net_whose_connections_moved_while_it_was_trained(tmp_path):
    module = make_toy()
    conversion = SparseConversion("pretrained", density=0.1, seed=0)
    rigl = RigLCallback(every_n_steps=2, drop_fraction=0.5, stop_at=8)
    trainer(tmp_path, conversion, rigl, max_epochs=3).fit(module, loader())
    save_adapter(module, tmp_path / "a")
    assert {"net.0.positions", "net.6.positions"} <= load_file(tmp_path / "a").keys()
    other = make_toy()
    load_adapter(other, tmp_path / "a")
    images = next(iter(loader()))[0]
    assert torch.equal(module.eval().net(images), other.eval().net(images))
    assert all(
        weight.nnz == sparse_weights(module)[name].nnz for name, weight in sparse_weights(other).items()
    )


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_convolutions(tmp_path, dimensions):
    torch.manual_seed(0)
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    base = nn.Sequential(
        kind(4, 8, 3, stride=2, padding=1, groups=2), nn.Flatten(), nn.Linear(8 * 3**dimensions, 2)
    )
    module, other = copy.deepcopy(base).requires_grad_(False), base
    convert_(module, 0.3, offset="pretrained", include=["0.weight", "2.weight"])
    moved(module)
    save_adapter(module, tmp_path / "a")
    load_adapter(other, tmp_path / "a")
    x = torch.randn(5, 4, *[6] * dimensions)
    assert torch.equal(module(x), other(x))


def test_weights_in_another_memory_layout(tmp_path):
    """Checksums are of numbers, not of where they are."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Conv2d(4, 8, 3))
    module, other = copy.deepcopy(base), copy.deepcopy(base).to(memory_format=torch.channels_last)
    convert_(module, 0.3, offset="pretrained")
    moved(module)
    save_adapter(module, tmp_path / "a")
    load_adapter(other, tmp_path / "a")
    assert torch.equal(module[0].weight, other[0].weight)


# What the file holds.


def test_what_is_trained_and_what_is_frozen(tmp_path):
    module, other = tuned(), net()
    save_adapter(module, tmp_path / "a")
    load_adapter(other, tmp_path / "a")
    trained = {name for name, parameter in other.named_parameters() if parameter.requires_grad}
    assert trained == {"0.values", "3.values", "3.bias"}


@pytest.mark.parametrize("allocation", ["epl", "epf"])
def test_a_seed_takes_the_place_of_positions_until_they_move(tmp_path, allocation):
    module, other = tuned(allocation=allocation, generator=11), net()
    save_adapter(module, tmp_path / "a")
    assert not [key for key in load_file(tmp_path / "a") if key.endswith("positions")]
    draws = [layer["draw"] for layer in record_of(tmp_path / "a")["content"]["layers"].values()]
    assert draws == [[11, "equal_rows" if allocation == "epf" else "any"]] * 2
    load_adapter(other, tmp_path / "a")
    assert_same(module, other)
    module[0].move_(torch.arange(module[0].nnz))
    save_adapter(module, tmp_path / "a")
    assert [key for key in load_file(tmp_path / "a") if key.endswith("positions")] == ["0.positions"]
    load_adapter(other, tmp_path / "a")
    assert_same(module, other)


def test_supports_of_frozen_copies_are_stored_and_those_of_their_originals_drawn(tmp_path):
    online = nn.Sequential(nn.Linear(20, 12), nn.Linear(12, 6))
    base = nn.ModuleDict({"target": copy.deepcopy(online).requires_grad_(False), "online": online})
    module = copy.deepcopy(base)
    with pytest.warns(UserWarning, match="Frozen copies of layers are converted alike: 2"):
        convert_(module, 0.2, offset="pretrained")
    save_adapter(module, tmp_path / "a")
    stored = [key for key in load_file(tmp_path / "a") if key.endswith("positions")]
    assert stored == ["target.0.positions", "target.1.positions"]
    load_adapter(base, tmp_path / "a")
    assert_unchanged(base, everything(module))


def test_changes_that_are_trained_no_more(tmp_path):
    module, other = tuned(), net()
    module[3].values.requires_grad_(False)
    save_adapter(module, tmp_path / "a")
    load_adapter(other, tmp_path / "a")
    assert_same(module, other)


def test_buffers_that_no_state_dict_has_are_the_modules_own(tmp_path):
    module, other = tuned(), net()
    for made in (module, other):
        made.register_buffer("scratch", torch.full((2,), float(made is module)), persistent=False)
    save_adapter(module, tmp_path / "a")
    assert "scratch" not in load_file(tmp_path / "a")
    load_adapter(other, tmp_path / "a")
    assert_same(module, other)


def test_a_generator_that_has_drawn_before_leaves_no_seed(tmp_path):
    generator = torch.Generator().manual_seed(11)
    torch.rand(1, generator=generator)
    module, other = tuned(generator=generator), net()
    save_adapter(module, tmp_path / "a")
    assert len([key for key in load_file(tmp_path / "a") if key.endswith("positions")]) == 2
    load_adapter(other, tmp_path / "a")
    assert_same(module, other)


def test_supports_that_are_drawn_otherwise_are_refused(tmp_path, monkeypatch):
    """Another version of PyTorch might."""
    save_adapter(tuned(), tmp_path / "a")

    def other_draws(shapes, budgets, kind, generator):
        generator.manual_seed(12)
        return draw_supports(shapes, budgets, kind, generator)

    monkeypatch.setattr("lightning_sparse.layers.draws.draw_supports", other_draws)
    with pytest.raises(SparsityError, match=r"`path` holds a seed for the support of '0', from which"):
        load_adapter(net(), tmp_path / "a")


def test_buffers_that_never_change_are_left_out(tmp_path):
    module, other = make_toy(), make_toy()
    convert_(module.requires_grad_(False), 0.1, offset="pretrained", include=["net.6.weight"])
    module.net[1].running_mean += 1
    statistics = {f"net.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    save_adapter(module, tmp_path / "a")
    assert load_file(tmp_path / "a").keys() == {"net.6.values", "causal_mask", *statistics}
    save_adapter(module, tmp_path / "a", buffers=["*.running_*"])
    assert load_file(tmp_path / "a").keys() == {"net.6.values", "net.1.running_mean", "net.1.running_var"}
    load_adapter(other, tmp_path / "a")
    assert torch.equal(other.net[1].running_mean, module.net[1].running_mean)
    save_adapter(module, tmp_path / "a", buffers=[])
    with pytest.raises(SparsityError, match=r"got other numbers in 'net.1.running_mean' \(1 of 10 frozen"):
        load_adapter(make_toy(), tmp_path / "a")


def test_bytes_for_each_number_of_a_large_layer(tmp_path):
    """At most 5.2: 4 for the value, 9.4 bits for the position, and 0.02 for names and checksums."""
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(4096, 4096, bias=False))
    module = module.to_empty(device="cpu")
    module[0].weight.data.zero_()
    convert_(module, 0.004, offset="pretrained")
    save_adapter(module, tmp_path / "a")
    assert (tmp_path / "a").stat().st_size < 4.02 * module[0].nnz
    moved(module)
    save_adapter(module, tmp_path / "a")
    assert module[0].nnz == 67_109
    assert (tmp_path / "a").stat().st_size < 5.2 * module[0].nnz


# Into nets that are converted already.


def test_loading_twice(tmp_path):
    module, other = tuned(), net()
    save_adapter(module, tmp_path / "a")
    load_adapter(other, tmp_path / "a")
    layer = other[0]
    nn.init.ones_(layer.values)
    assert load_adapter(other, tmp_path / "a") == ["0", "3"]
    assert_same(module, other)
    assert other[0] is layer


@pytest.mark.parametrize("density", [0.2, 0.1, 0.5])
def test_another_adapter_takes_the_place_of_the_first(tmp_path, density):
    first, second, other = tuned(), moved(tuned(density=density)), net()
    save_adapter(first, tmp_path / "a")
    save_adapter(second, tmp_path / "b")
    load_adapter(other, tmp_path / "a")
    other(inputs(other)).sum().backward()
    load_adapter(other, tmp_path / "b")
    assert_same(second, other)
    other(inputs(other)).sum().backward()
    assert other[0].values.grad.shape == other[0].values.shape


def test_a_net_converted_by_hand(tmp_path):
    module, other = tuned(), net()
    save_adapter(module, tmp_path / "a")
    convert_(other, 0.4, offset="pretrained", backend="materialize", generator=9)
    load_adapter(other, tmp_path / "a")
    assert_same(module, other)


def test_layers_that_the_adapter_leaves_alone_are_refused(tmp_path):
    module = net().requires_grad_(False)
    convert_(module, 0.2, offset="pretrained", include=["0.weight"])
    save_adapter(module, tmp_path / "a")
    other = tuned()
    before = everything(other)
    with pytest.raises(
        SparsityError, match=r"got one with '3' converted, which the adapter leaves alone \(1"
    ):
        load_adapter(other, tmp_path / "a")
    assert_unchanged(other, before)


@pytest.mark.parametrize("offset", ["dct", "none"])
def test_layers_with_another_offset_are_refused(tmp_path, offset):
    save_adapter(tuned(), tmp_path / "a")
    other = net()
    convert_(other, 0.2, offset=offset, include=["3.weight"])
    for act in (save_adapter, load_adapter):
        with pytest.raises(SparsityError, match=r"with another offset than 'pretrained', got '3' with"):
            act(other, tmp_path / "a")


# What is refused, with nothing changed.


def without_batch_norm(module):
    module[1] = nn.Identity()


def with_another_layer(module):
    module.append(nn.Linear(6, 6))


def with_another_weight(module):
    module[3].weight.data[5, 11] += 1e-6


def with_another_frozen_bias(module):
    module[0].bias.data[0] = 2


def with_another_size(module):
    module[3] = nn.Linear(12, 7)


def with_a_layer_of_another_type(module):
    class Louder(nn.Linear):
        pass

    louder = Louder(12, 6)
    louder.load_state_dict(module[3].state_dict())
    module[3] = louder


def with_a_trained_bias_of_another_type(module):
    module[3].bias = nn.Parameter(module[3].bias.detach().double())


def on_the_meta_device(module):
    module.to("meta")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_another_weight, r"other numbers in '3' \(1 of 5 frozen tensors\)\. Load the weights"),
        (with_another_frozen_bias, r"other numbers in '0.bias' \(1 of 5 frozen tensors\)\."),
        (without_batch_norm, r"one without '1.bias' \(5 such names\)\."),
        (with_another_layer, r"one with '4.weight', which that net has not \(2 such names\)\."),
        (with_another_size, r"'3' of shape \(7, 12\) and torch.float32, which had \(6, 12\) and"),
        (nn.Module.double, r"'0' of shape \(12, 20\) and torch.float64, which had .* torch.float32\."),
        (
            with_a_trained_bias_of_another_type,
            r"'3.bias' of shape \(6,\) and torch.float64, which had \(6,\)",
        ),
        (with_a_layer_of_another_type, r"'3' of Louder, which cannot be converted\. Use the class"),
    ],
)
def test_another_net_is_refused(tmp_path, change, message):
    save_adapter(tuned(), tmp_path / "a")
    other = net()
    change(other)
    before = everything(other)
    with pytest.raises(SparsityError, match=NOT_THAT_NET + message):
        load_adapter(other, tmp_path / "a")
    assert_unchanged(other, before)


def test_another_weight_of_a_converted_layer_is_refused(tmp_path):
    save_adapter(tuned(), tmp_path / "a")
    other = moved(tuned())
    other[3].base.data[0, 0] = 3
    before = everything(other)
    with pytest.raises(SparsityError, match=NOT_THAT_NET + "other numbers in '3'"):
        load_adapter(other, tmp_path / "a")
    assert_unchanged(other, before)


def test_nets_without_values_are_refused(tmp_path):
    save_adapter(tuned(), tmp_path / "a")
    with pytest.raises(SparsityError, match=r"`module` must have values, got '0.weight' on the meta device"):
        load_adapter(net().to("meta"), tmp_path / "a")
    with pytest.raises(SparsityError, match=r"`module` must have values, got '0.weight' on the meta device"):
        save_adapter(tuned().to("meta"), tmp_path / "a")


def test_names_that_differ_by_what_holds_the_net(tmp_path):
    whole = nn.ModuleDict({"model": tuned(), "loss": nn.Identity()})
    save_adapter(whole, tmp_path / "whole")
    save_adapter(whole["model"], tmp_path / "bare")
    with pytest.raises(SparsityError, match=r"one without 'model.0.bias' .* as `model`: save it by `save_ad"):
        load_adapter(net(), tmp_path / "whole")
    with pytest.raises(
        SparsityError, match=r"one without '0.bias' .* It fits `module.model`: load it there\."
    ):
        load_adapter(nn.ModuleDict({"model": net()}), tmp_path / "bare")
    other = nn.ModuleDict({"model": net()})
    assert load_adapter(other["model"], tmp_path / "bare") == ["0", "3"]
    assert_same(whole["model"], other["model"])


def test_nets_without_such_layers_are_not_saved(tmp_path):
    with pytest.raises(SparsityError, match=r"must have layers with the offset 'pretrained', got none\."):
        save_adapter(net(), tmp_path / "a")
    with pytest.raises(SparsityError, match=r"must hold its converted layers, got a bare DensePlusSparseLin"):
        save_adapter(tuned()[0], tmp_path / "a")
    with pytest.raises(SparsityError, match=r"`module` must be an instance of Module, got 1"):
        save_adapter(1, tmp_path / "a")
    with pytest.raises(
        SparsityError, match=r"`buffers` must match persistent buffers, got '\*.running_meen'\."
    ):
        save_adapter(tuned(), tmp_path / "a", buffers=["*.running_meen"])
    with pytest.raises(SparsityError, match=r"`buffers` must be a list of patterns, got '\*'"):
        save_adapter(tuned(), tmp_path / "a", buffers="*")
    assert not list(tmp_path.iterdir())


def test_types_that_no_file_can_hold_are_refused(tmp_path):
    module = tuned()
    module.register_buffer("phases", torch.zeros(3, dtype=torch.complex128))
    with pytest.raises(SparsityError, match=r"types that safetensors has, got some of torch.complex128"):
        save_adapter(module, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_unknown_backends_are_refused(tmp_path):
    module = tuned()
    module[0].backend = "mine"
    save_adapter(module, tmp_path / "a")
    other = net()
    before = everything(other)
    with pytest.raises(SparsityError, match=r"`backend` must be one of auto, .*, got 'mine'"):
        load_adapter(other, tmp_path / "a")
    assert_unchanged(other, before)


# Files.


def test_every_changed_byte_is_found(tmp_path):
    """Or changes nothing, as in the spaces with which safetensors fills up its header."""
    path, module = tmp_path / "a", moved(tuned(net(sizes=(20, 3, 2)), density=0.1))
    save_adapter(module, path)
    content = path.read_bytes()
    passed = 0
    for place in range(0, len(content), 17):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        other = net(sizes=(20, 3, 2))
        try:
            load_adapter(other, path)
        except SparsityError as error:
            assert str(error).startswith("`path` ")  # noqa: PT017
        else:
            passed += 1
            assert_same(module, other)
    assert passed <= 1
