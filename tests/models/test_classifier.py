import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from lightning_sparse import DCTpSConversion, PruneAtInit, RigLCallback
from lightning_sparse.checks import SparsityError
from lightning_sparse.data import SyntheticDataModule
from lightning_sparse.layers import convert_
from lightning_sparse.models import FixupResNet110, ImageClassifier, LeNet5, LeNet300100
from lightning_sparse.trainer.packages import LightningDataModule, LightningModule, Trainer, cli_module

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


def _data() -> SyntheticDataModule:
    return SyntheticDataModule(shape=[3, 4, 4], size=320, test_size=100, val_fraction=0.2)


def _classifier(**arguments: Any) -> ImageClassifier:
    return ImageClassifier(LeNet300100(in_features=48), **arguments)


def _trainer(**arguments: Any) -> Trainer:
    return Trainer(**{**QUIET, "max_epochs": 2, **arguments})


def test_learns_in_two_epochs_and_logs_every_name() -> None:
    torch.manual_seed(0)
    trainer, model = _trainer(), _classifier()
    trainer.fit(model, _data())
    logged = dict(trainer.callback_metrics)
    tested = trainer.test(model, _data(), verbose=False)[0]
    assert {"train/loss", "train/loss_step", "train/loss_epoch", "train/acc", "val/loss", "val/acc"} == set(
        logged
    )
    assert set(tested) == {"test/loss", "test/acc"}
    assert logged["val/acc"] > 0.5  # chance is 0.1
    assert tested["test/acc"] > 0.5


def test_logged_figures_are_those_of_the_whole_set() -> None:
    model, data = _classifier(), _data()
    logged = _trainer().test(model, data, verbose=False)[0]
    images, labels = data.test_dataloader().dataset.__getitems__(list(range(100)))  # type: ignore[attr-defined]
    with torch.no_grad():
        logits = model.cpu()(images)
    assert logged["test/loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert logged["test/acc"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_predict_gives_probabilities_with_and_without_labels() -> None:
    model, images = _classifier(), torch.randn(5, 3, 4, 4)
    probabilities = model.predict_step(images, 0)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(5))
    assert torch.equal(model.predict_step((images, torch.zeros(5)), 0), probabilities)
    predicted: Any = _trainer().predict(model, _data())
    assert sum(len(batch) for batch in predicted) == 100


def test_the_default_optimizer_is_sgd_with_momentum() -> None:
    optimizer = _classifier().configure_optimizers()
    assert type(optimizer) is torch.optim.SGD
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.1, 0.9)


def test_the_scheduler_steps_once_per_epoch() -> None:
    trainer = _trainer(max_epochs=3)
    trainer.fit(_classifier(lr_scheduler=functools.partial(StepLR, step_size=1, gamma=0.5)), _data())
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)


def test_a_plateau_scheduler_watches_the_validation_loss() -> None:
    trainer = _trainer()
    plateau = functools.partial(
        ReduceLROnPlateau, factor=0.5, patience=0, threshold=math.inf, threshold_mode="abs"
    )
    trainer.fit(_classifier(lr_scheduler=plateau), _data())
    assert trainer.lr_scheduler_configs[0].monitor == "val/loss"
    assert trainer.optimizers[0].param_groups[0]["lr"] < 0.1


def test_input_shape_sets_the_example() -> None:
    example: Any = _classifier(input_shape=[3, 4, 4]).example_input_array
    assert example.shape == (1, 3, 4, 4)
    assert _classifier().example_input_array is None


def test_kaiming_normal_draws_weights_and_zeroes_biases() -> None:
    net = LeNet300100()
    ImageClassifier(net, weight_init="kaiming_normal")
    first = net.fcs[0]
    assert isinstance(first, nn.Linear)
    assert float(first.weight.detach().std()) == pytest.approx((2 / 784) ** 0.5, rel=0.02)
    assert not first.bias.any()
    ImageClassifier(LeNet5(), weight_init="kaiming_normal")  # layers without bias


def test_default_leaves_the_network_alone() -> None:
    net = LeNet300100()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    ImageClassifier(net)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "`num_classes` must be an integer of at least 2, got 1"),
        (
            {"input_shape": []},
            r"`input_shape` must be one or more integers of at least 1, got \[\]. They are \[C, H, W\]",
        ),
        ({"input_shape": [3, 0, 4]}, r"`input_shape` .* got \[3, 0, 4\]"),
        ({"weight_init": "xavier"}, "`weight_init` must be one of .* got 'xavier'"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _classifier(**arguments)


def _assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    assert set(first.state_dict()) == set(second.state_dict())
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])


def test_loads_a_checkpoint_written_by_code(tmp_path: Path) -> None:
    trainer, model = _trainer(max_epochs=1), _classifier(input_shape=[3, 4, 4])
    trainer.fit(model, _data())
    trainer.save_checkpoint(tmp_path / "code.ckpt")
    stored = torch.load(tmp_path / "code.ckpt", weights_only=True)["hyper_parameters"]
    plain = {"input_shape": [3, 4, 4], "weight_init": "default", "lr_factors": None}
    assert stored == {"num_classes": 10, **plain}
    loaded = ImageClassifier.load_from_checkpoint(
        tmp_path / "code.ckpt", net=LeNet300100(in_features=48), weights_only=True
    )
    _assert_same_weights(model, loaded)


def test_loads_a_checkpoint_written_under_lightning_cli(tmp_path: Path) -> None:
    """Also once the weights are gone that the net started from."""
    torch.save(_classifier().state_dict(), tmp_path / "start.ckpt")
    arguments = {
        "model": {
            "class_path": "lightning_sparse.models.ImageClassifier",
            "init_args": {
                "net": {
                    "class_path": "lightning_sparse.models.LeNet300100",
                    "init_args": {"in_features": 48},
                },
                "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.005}},
                "lr_scheduler": {
                    "class_path": "torch.optim.lr_scheduler.StepLR",
                    "init_args": {"step_size": 1},
                },
                "input_shape": [3, 4, 4],
                "weights": str(tmp_path / "start.ckpt"),
            },
        },
        "data": {
            "class_path": "lightning_sparse.data.SyntheticDataModule",
            "init_args": {"shape": [3, 4, 4]},
        },
        "trainer": {**QUIET, "max_epochs": 1},
    }
    cli = _run_cli(arguments)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert type(cli.trainer.optimizers[0]) is torch.optim.Adam
    cli.trainer.save_checkpoint(tmp_path / "cli.ckpt")
    (tmp_path / "start.ckpt").unlink()
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "cli.ckpt", weights_only=True)
    _assert_same_weights(cli.model, loaded)
    assert loaded.configure_optimizers()["optimizer"].defaults["lr"] == 0.005


def _run_cli(arguments: dict[str, Any]) -> Any:
    """Build what a YAML file with these contents builds."""
    pytest.importorskip("jsonargparse")
    return cli_module().LightningCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=None,
        run=False,
        args=arguments,
    )


@pytest.mark.parametrize(
    ("named", "rate"),
    [(None, 0.1), ({"class_path": "torch.optim.Adam"}, 0.001), ({"class_path": "SGD"}, 0.001)],
)
def test_an_optimizer_named_without_a_rate_has_its_own(named, rate) -> None:
    """And not that of the default, which LightningCLI used to lend it."""
    arguments = {"net": {"class_path": "lightning_sparse.models.LeNet5"}}
    model = {
        "class_path": "lightning_sparse.models.ImageClassifier",
        "init_args": {**arguments, **({"optimizer": named} if named else {})},
    }
    data = {"class_path": "lightning_sparse.data.SyntheticDataModule"}
    cli = _run_cli({"model": model, "data": data, "trainer": QUIET})
    assert cli.model.configure_optimizers().defaults["lr"] == rate


@pytest.mark.parametrize("wrapped", [True, False])
def test_pretrained_weights_of_a_file(tmp_path, wrapped):
    torch.manual_seed(0)
    trained, path = ImageClassifier(nn.Linear(4, 3), 3), tmp_path / "weights.ckpt"
    state = trained.state_dict()
    torch.save({"state_dict": state} if wrapped else state, path)
    started = ImageClassifier(nn.Linear(4, 3), 3, weights=str(path))
    assert torch.equal(started.net.weight, trained.net.weight)
    assert "weights" not in started.hparams
    with pytest.raises(RuntimeError, match=r"size mismatch for net\.weight"):
        ImageClassifier(nn.Linear(5, 3), 3, weights=str(path))
    with pytest.raises(SparsityError, match="`weights` must be a file"):
        ImageClassifier(nn.Linear(4, 3), 3, weights=str(tmp_path / "none.ckpt"))


# Learning rates of their own.


def _rates(model: ImageClassifier) -> dict[str, float]:
    """Return the learning rate by the name of a parameter."""
    made = model.configure_optimizers()
    optimizer = made["optimizer"] if isinstance(made, dict) else made
    rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in optimizer.param_groups)
    assert all("lr_factor" not in group for group in optimizer.param_groups)
    return {name: rates[id(parameter)] for name, parameter in model.named_parameters()}


def test_patterns_multiply_the_learning_rate_and_the_last_that_matches_counts() -> None:
    model = _classifier(
        optimizer=lambda params: torch.optim.Adam(params, lr=0.2, weight_decay=0.3),
        lr_factors={"*.bias": 0.1, "net.fcs.2.*": 0.5, "net.fcs.4": 2},
    )
    rates = _rates(model)
    expected = {
        "0.weight": 0.2,
        "0.bias": 0.02,
        "2.weight": 0.1,
        "2.bias": 0.1,
        "4.weight": 0.4,
        "4.bias": 0.02,
    }
    assert rates == pytest.approx({f"net.fcs.{name}": rate for name, rate in expected.items()})
    groups = model.configure_optimizers().param_groups
    assert [group["weight_decay"] for group in groups] == [0.3] * 4


def test_fixups_scalars_and_the_alphas_of_converted_layers_have_names() -> None:
    model = ImageClassifier(FixupResNet110(), lr_factors={"*bias*": 0.1, "*.scale": 0.1})
    slow = [name for name, rate in _rates(model).items() if rate == pytest.approx(0.01)]
    assert sum(model.get_parameter(name).numel() for name in slow) == 282
    net = LeNet300100(in_features=48)
    convert_(net, 0.1, alpha="match_norm")
    rates = _rates(ImageClassifier(net, lr_factors={"*.alpha": 0.1}))
    assert [name for name, rate in rates.items() if rate < 0.1] == [f"net.fcs.{i}.alpha" for i in (0, 2, 4)]


@pytest.mark.parametrize("factors", [None, {}])
def test_without_factors_the_optimizer_is_given_the_parameters_as_ever(factors) -> None:
    given = []
    model = _classifier(
        optimizer=lambda params: given.append(params) or torch.optim.SGD(params, lr=0.1), lr_factors=factors
    )
    assert len(model.configure_optimizers().param_groups) == 1
    assert not isinstance(given[0], list)


def test_schedulers_keep_the_ratio_and_rates_in_tensors_are_multiplied_too() -> None:
    model = _classifier(
        lr_scheduler=functools.partial(StepLR, step_size=1, gamma=0.5), lr_factors={"*.bias": 0.1}
    )
    trainer = _trainer()
    trainer.fit(model, _data())
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == pytest.approx([0.025, 0.0025])
    model = _classifier(
        optimizer=lambda params: torch.optim.Adam(params, lr=torch.tensor(0.2), capturable=False),
        lr_factors={"*.bias": 0.1},
    )
    rates = [group["lr"] for group in model.configure_optimizers().param_groups]
    torch.testing.assert_close(rates, [torch.tensor(0.2), torch.tensor(0.02)])


def test_a_slower_parameter_moves_less() -> None:
    def moved(factors: dict[str, float] | None) -> Tensor:
        torch.manual_seed(0)
        model = _classifier(optimizer=functools.partial(torch.optim.SGD, lr=0.1), lr_factors=factors)
        before = model.net.fcs[4].bias.detach().clone()
        _trainer(max_steps=1).fit(model, _data())
        return model.net.fcs[4].bias.detach() - before

    torch.testing.assert_close(moved({"*.bias": 0.1}), 0.1 * moved(None))


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"*.bias": 0}, r"`lr_factors\['\*.bias'\]` must be in \(0, inf\), got 0. Parameters that"),
        ({"*": float("nan")}, r"`lr_factors\['\*'\]` must be in \(0, inf\), got nan"),
        ({"*": "0.1"}, r"must be in \(0, inf\), got '0.1'"),
        (["*.bias"], r"`lr_factors` must be a dict of factors by pattern, got \['\*.bias'\]. Write"),
        (0.1, "`lr_factors` must be a dict of factors by pattern, got 0.1"),
    ],
)
def test_factors_are_checked_by_the_constructor(factors, message) -> None:
    with pytest.raises(SparsityError, match=message):
        _classifier(lr_factors=factors)


def test_a_pattern_that_matches_nothing_and_an_optimizer_without_rates() -> None:
    with pytest.raises(SparsityError, match=r"pattern 'fcs.0' must match a parameter, got none.*net.fcs.0"):
        _classifier(lr_factors={"fcs.0": 0.1}).configure_optimizers()

    class Own(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

    with pytest.raises(SparsityError, match="whose groups have a learning rate, got Own"):
        _classifier(optimizer=Own, lr_factors={"*.bias": 0.1}).configure_optimizers()


# Mixed precision.

MIXED = {  # Lightning clips no gradients of a fused optimizer under mixed precision
    "fused": (functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True), None),
    "clipped": (functools.partial(torch.optim.Adam, lr=0.005), 5.0),
}


@pytest.mark.parametrize("kind", MIXED)
@pytest.mark.parametrize(
    "callback",
    [
        None,
        lambda: PruneAtInit("erk", 0.2),
        lambda: RigLCallback(0.2, every_n_steps=8, stop_at=100),
        lambda: RigLCallback(0.2, every_n_steps=8, stop_at=100, storage="compact"),
        lambda: DCTpSConversion(0.2, alpha="match_norm"),
    ],
    ids=["dense", "masked", "rigl", "compact", "dctps"],
)
def test_mixed_precision_with_fused_and_clipped_optimizers_of_several_groups(callback, kind) -> None:
    """Products are in bfloat16; weights, what the optimizer keeps and what is logged are not."""
    torch.manual_seed(0)
    optimizer, clip = MIXED[kind]
    model, seen = _classifier(optimizer=optimizer, lr_factors={"*.bias": 0.5}), []
    trainer = _trainer(
        precision="bf16-mixed",
        max_epochs=3,
        gradient_clip_val=clip,
        callbacks=[] if callback is None else [callback()],
    )
    model.net.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    trainer.fit(model, _data())
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in model.parameters())
    states = trainer.optimizers[0].state.values()
    kept = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    assert kept
    assert all(value.dtype == torch.float32 for value in kept)
    assert trainer.callback_metrics["val/acc"] > 0.3  # chance is 0.1
    if callback is not None:
        (sparsity,) = (v for n, v in trainer.callback_metrics.items() if n.endswith("sparsity/total"))
        assert float(sparsity) == pytest.approx(0.8, abs=1e-3)
