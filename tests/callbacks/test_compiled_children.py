"""Children of a module that `torch.compile` has wrapped: found, named and replaced like any others."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from toy import HoldsMasks, Toy, loader, masks_of, trainer

from lightning_sparse import (
    DCTpSConversion,
    IterativeMagnitudePruning,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    load_from_checkpoint,
)
from lightning_sparse.layers import compact_layers, convert_, to_dense_
from lightning_sparse.layers.convertible import unconverted_layers
from lightning_sparse.selection import plain_name


class CompiledToy(Toy):
    """With children compiled as asked for: a layer, the layers by themselves, the whole net, both."""

    def __init__(self, what="layer"):
        super().__init__(dropout=0.0)
        if what in ("layer", "layers", "both"):
            self.net[6] = compiled(self.net[6])
        if what == "layers":
            self.net[0] = compiled(self.net[0])
        if what in ("net", "both"):
            self.net = compiled(self.net)


WHATS = ["layer", "layers", "net", "both"]


def compiled(layer):
    return torch.compile(layer, backend="eager")


def make(what):
    torch._dynamo.reset()
    torch.manual_seed(0)
    return CompiledToy(what)


@pytest.mark.parametrize("what", WHATS)
def test_a_compiled_layer_is_replaced_and_the_new_one_is_called(what):
    module, x = make(what), next(iter(loader()))[0]
    module.net(x)  # compiled for the old layers
    assert list(convert_(module, 0.1)) == ["net.0.weight", "net.6.weight"]
    layers = compact_layers(module)
    assert list(layers) == ["net.0", "net.6"]
    module.net(x).sin().sum().backward()
    assert all(layer.values.grad is not None and layer.values.grad.any() for layer in layers.values())
    plain = make("none")
    convert_(plain, 0.1)
    torch.testing.assert_close(module.net(x), plain.net(x))
    assert convert_(module, 0.1) == {"net.0.weight": 51, "net.6.weight": 51}, "a second call finds them"


@pytest.mark.parametrize("what", WHATS)
def test_and_back(what):
    module, x = make(what), next(iter(loader()))[0]
    convert_(module, 0.1)
    before = module.net(x)
    assert to_dense_(module) == ["net.0", "net.6"] == unconverted_layers(module)
    torch.testing.assert_close(module.net(x), before)
    module.net(x).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("what", WHATS)
def test_conversion_trains_resumes_and_loads(tmp_path, what):
    make_one = {
        "callbacks": lambda: (DCTpSConversion(0.1, seed=0), ModelCheckpoint(tmp_path, save_last=True))
    }
    runner = trainer(tmp_path, *make_one["callbacks"](), max_epochs=1, enable_checkpointing=True)
    module = make(what)
    runner.fit(module, loader())
    trained = {n: layer.values.detach().clone() for n, layer in compact_layers(module).items()}
    assert len(trained) == 2
    assert all(values.any() for values in trained.values())
    assert {"trainable_sparsity_layers/net.0", "trainable_sparsity_layers/net.6"} <= set(
        runner.callback_metrics
    )
    loaded = load_from_checkpoint(CompiledToy, tmp_path / "last.ckpt", what=what)
    assert all(torch.equal(layer.values, trained[n]) for n, layer in compact_layers(loaded).items())
    again = make(what)
    trainer(tmp_path, *make_one["callbacks"](), max_epochs=2, enable_checkpointing=True).fit(
        again, loader(), ckpt_path=tmp_path / "last.ckpt"
    )
    assert not torch.equal(compact_layers(again)["net.6"].values, trained["net.6"])


@pytest.mark.parametrize("what", WHATS)
@pytest.mark.parametrize(
    "callback",
    [
        lambda: PruneAtInit("snip", 0.1),
        lambda: PruneAtInit("synflow", 0.1),
        lambda: RigLCallback(0.1, every_n_steps=2, stop_at=6),
        lambda: SETCallback(0.1, every_n_steps=2, stop_at=6),
        lambda: IterativeMagnitudePruning(0.25, rounds=2, epochs_per_round=1),
    ],
)
def test_masks_on_compiled_children(tmp_path, what, callback):
    module = make(what)
    runner = trainer(tmp_path, callback(), HoldsMasks(), max_epochs=3)
    runner.fit(module, loader())
    assert list(masks_of(module)) == ["net.0.weight", "net.6.weight"]
    assert {"sparsity_layers/net.0", "sparsity_layers/net.6"} <= set(runner.callback_metrics)


def test_connections_of_converted_compiled_layers_move(tmp_path):
    module = make("both")

    class Watch(pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            self.before = {n: layer.indices.clone() for n, layer in compact_layers(pl_module).items()}

    watch = Watch()
    trainer(tmp_path, DCTpSConversion(0.1), RigLCallback(every_n_steps=2, stop_at=6), watch).fit(
        module, loader()
    )
    after = compact_layers(module)
    assert all(not torch.equal(watch.before[name], after[name].indices) for name in after)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("a._orig_mod.weight", "a.weight"),
        ("a._orig_mod", "a"),
        ("_orig_mod", ""),
        ("_orig_mod._orig_mod.a._orig_mod.b", "a.b"),
        ("my_orig_mod.weight", "my_orig_mod.weight"),
    ],
)
def test_names_are_those_before_compilation(name, plain):
    assert plain_name(name) == plain
