"""Scales of offsets from the training data, in a Trainer."""

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from toy import Toy, assert_equal, loader, make_toy, trainer, weights_of

from lightning_sparse import DCTpSConversion, SparseConversion
from lightning_sparse.checks import SparsityError
from lightning_sparse.layers import compact_layers, convert_, lsuv_


class Late(Toy):
    """Makes its layers once callbacks are set up."""

    def configure_model(self):
        self.net = make_toy(dropout=0.0).net


class Start(ModelCheckpoint):
    """Keeps the weights as they are before the first step."""

    def on_train_start(self, trainer, pl_module):
        super().on_train_start(trainer, pl_module)
        self.weights = weights_of(pl_module)


def started(tmp_path, convert, toy=None, **arguments):
    start = Start(tmp_path, save_last=True)
    toy = toy or make_toy(dropout=0.0)
    trainer(tmp_path, convert, start, enable_checkpointing=True, **arguments).fit(toy, loader(), loader(2))
    return start.weights, toy


def by_hand(factor):
    toy = make_toy(dropout=0.0)
    convert_(toy, 0.1, offset="signed_dct", generator=3)
    batch = next(iter(loader()))
    lsuv_(toy, lambda: toy.training_step(batch), factor)
    return {name: float(layer.alpha) for name, layer in compact_layers(toy).items()}


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("factor", [1.0, 0.1])
def test_alphas_are_those_of_the_first_batch(tmp_path, factor):
    convert = SparseConversion("signed_dct", 0.1, seed=3, alpha="lsuv", last_layer_factor=factor)
    weights, _ = started(tmp_path, convert)
    expected = by_hand(factor)
    assert expected["net.0"] != 1.0
    for name, alpha in expected.items():
        assert weights[f"{name}.alpha"].item() == pytest.approx(alpha, rel=1e-5)


def test_training_sees_the_batches_it_would_have_seen(tmp_path):
    torch.manual_seed(5)
    plain, _ = started(tmp_path / "a", DCTpSConversion(0.1, seed=3))
    torch.manual_seed(5)
    scaled, toy = started(tmp_path / "b", DCTpSConversion(0.1, seed=3, alpha="lsuv"))
    rest = {name: value for name, value in scaled.items() if "alpha" not in name}
    assert_equal(rest, {name: plain[name] for name in rest})
    assert toy.trainer.global_step == 8


def test_single_layers_by_pattern(tmp_path):
    convert = DCTpSConversion(0.1, seed=3, alpha={"*": 0.5, "net.6.*": "lsuv"}, last_layer_factor=0.1)
    weights, _ = started(tmp_path, convert)
    assert weights["net.0.alpha"] == 0.5
    assert weights["net.6.alpha"] not in (0.5, 1.0, 0.1)


def late():
    toy = Late()
    toy.net = None
    return toy


def test_layers_made_late(tmp_path):
    weights, _ = started(tmp_path, DCTpSConversion(0.1, seed=3, alpha="lsuv"), late())
    assert all(value != 1.0 for name, value in weights.items() if name.endswith("alpha"))


def test_a_resumed_fit_takes_its_alphas_from_the_checkpoint(tmp_path):
    _, toy = started(tmp_path, DCTpSConversion(0.1, seed=3, alpha="lsuv"))
    again, start = make_toy(dropout=0.0), Start(tmp_path / "again")
    runner = trainer(
        tmp_path, DCTpSConversion(0.1, seed=3, alpha="lsuv"), start, enable_checkpointing=True, max_epochs=3
    )
    runner.fit(again, loader(), loader(2), ckpt_path=tmp_path / "last.ckpt")
    assert_equal(start.weights, weights_of(toy))


def test_a_second_fit_changes_no_scale(tmp_path):
    convert = DCTpSConversion(0.1, seed=3, alpha="lsuv")
    _, toy = started(tmp_path / "a", convert)
    before = weights_of(toy)
    weights, _ = started(tmp_path / "b", convert, toy)
    assert_equal(weights, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"last_layer_factor": 0.1}, r"`last_layer_factor` 0.1 is for alphas from data, got `alpha` 1.0"),
        ({"alpha": "lsuv", "last_layer_factor": "small"}, r"`last_layer_factor` must be"),
        ({"alpha": "lsvu"}, r"`alpha` must be a finite number, 'match_norm' or 'lsuv', got 'lsvu'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(SparsityError, match=message):
        DCTpSConversion(0.1, **arguments)


def test_a_conversion_without_data_refuses():
    with pytest.raises(SparsityError, match=r"`alpha` 'lsuv' needs a batch, got none"):
        convert_(make_toy(), 0.1, alpha="lsuv")


def test_manual_optimization_has_no_loss_to_ask_for(tmp_path):
    toy = make_toy()
    toy.automatic_optimization = False
    with pytest.raises(SparsityError, match=r"`alpha` 'lsuv' needs a loss, .* call `lsuv_`"):
        started(tmp_path, DCTpSConversion(0.1, alpha="lsuv"), toy)
