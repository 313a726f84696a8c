"""What logged names mean: the one place that knows them."""

import pytest

from lightning_sparse.reporting.names import densities, metrics_in, movements_in, series

ONE = {0: 0.5}


@pytest.mark.parametrize(
    ("name", "metric", "split"),
    [
        ("val/acc", "accuracy", "val"),
        ("train/loss", "loss", "train"),
        ("valid_loss", "loss", "val"),
        ("loss", "loss", "train"),
        ("train_loss_epoch", "loss", "train"),
        ("acc_val", "accuracy", "val"),
        ("val/f1_macro", "f1_macro", "val"),
    ],
)
def test_metrics(name, metric, split):
    assert metrics_in({name: ONE}) == {metric: {split: ONE}}


@pytest.mark.parametrize(
    "name",
    [
        "test/acc",
        "lr-Adam",
        "train_loss_step",
        "sparsity/net.val",
        "rigl/churn",
        "sparsity_layers/val_net",
        "epoch",
        "val",
        "",
    ],
)
def test_what_is_no_metric(name):
    assert not metrics_in({name: ONE})


def test_the_epoch_is_meant_rather_than_the_last_step():
    assert metrics_in({"train_loss_epoch": {0: 1.0}, "train_loss": {0: 2.0}})["loss"]["train"] == {0: 1.0}


def test_accuracy_and_loss_come_first():
    assert list(metrics_in({"val_auc": ONE, "val_loss": ONE, "val_acc": ONE})) == ["accuracy", "loss", "auc"]


def test_layers_and_total_are_told_apart_with_names_that_hold_slashes():
    curves = {"rigl/churn": {0: 0.1}, "rigl/churn/a/b.c": {0: 0.2}, "rigl/churned": {0: 9.0}}
    assert series(curves, "rigl/churn") == ({0: 0.1}, {"a/b.c": {0: 0.2}})
    assert movements_in(curves) == {"churn": "rigl/churn"}


@pytest.mark.parametrize("group", ["rigl/churn/", "rigl_layers/churn/"])
def test_layers_apart_from_totals_or_beside_them(group):
    curves = {"rigl/churn": {0: 0.1}, f"{group}a": {0: 0.2}, f"{group}b": {0: 0.3}}
    assert series(curves, "rigl/churn") == ({0: 0.1}, {"a": {0: 0.2}, "b": {0: 0.3}})
    assert movements_in(curves) == {"churn": "rigl/churn"}


def test_layers_that_are_logged_when_they_change_stay_as_they_were():
    total = dict.fromkeys(range(5), 0.5)
    _, layers = densities({"sparsity/total": total, "sparsity_layers/a": {1: 0.5, 3: 0.75}})
    assert layers == {"a": {1: 0.5, 2: 0.5, 3: 0.25, 4: 0.25}}


def test_layers_on_a_dense_part_have_a_total_of_their_own():
    curves = {"sparsity/total": {0: 0.75}, "trainable_sparsity/total": {0: 0.5}, "sparsity/a": {0: 0.75}}
    totals, layers = densities({**curves, "trainable_sparsity/b": {0: 0.5}})
    assert totals == {"all layers": {0: 0.25}, "all trained values": {0: 0.5}}
    assert layers == {"a": {0: 0.25}, "b": {0: 0.5}}
