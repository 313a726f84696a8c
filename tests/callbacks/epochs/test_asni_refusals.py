"""What ASNI refuses before training, or warns of."""

from contextlib import nullcontext

import pytest
from pytorch_lightning.callbacks import BaseFinetuning, EMAWeightAveraging
from rounds import SEARCH, Scaled, by_step, fit_asni, make
from toy import Rotate, Toy, assert_equal, trainer, weights_of

from lightning_sparse import ASNISigmoidPruner, DCTpSConversion, IterativeMagnitudePruning


def test_compact_layers_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="cannot prune layers that store only their active entries, got 'net"
    ):
        fit_asni(tmp_path, DCTpSConversion(0.2), ASNISigmoidPruner(density=0.2), toy=Toy())


@pytest.mark.parametrize(
    "other", [lambda: Rotate(), lambda: IterativeMagnitudePruning(0.1, rounds=1, epochs_per_round=1)]
)
def test_two_that_move_masks_are_refused(tmp_path, other):
    with pytest.raises(ValueError, match="both change masks during training"):
        fit_asni(tmp_path, ASNISigmoidPruner(density=0.2), other())


def test_averaging_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ASNISigmoidPruner cannot run with EMAWeightAveraging"):
        fit_asni(tmp_path, ASNISigmoidPruner(density=0.2), EMAWeightAveraging())


@pytest.mark.parametrize("reinit", ["centroids", None])
def test_finetuning_callbacks_are_refused_if_training_starts_once_more(tmp_path, reinit):
    class Unfreezes(BaseFinetuning):
        def freeze_before_training(self, pl_module):
            self.freeze(pl_module.net[0])

        def finetune_function(self, pl_module, epoch, optimizer):
            if epoch == 2:
                self.unfreeze_and_add_param_group(pl_module.net[0], optimizer)

    asni = ASNISigmoidPruner(density=0.2, reinit=reinit, include=["net.[67].weight"], **SEARCH)
    with nullcontext() if reinit is None else pytest.raises(ValueError, match="cannot run with Unfreezes"):
        fit_asni(tmp_path, asni, Unfreezes(), epochs=3)


def test_a_schedule_of_the_modules_own_is_warned_of(tmp_path):
    class OwnSchedule(Scaled):
        def lr_scheduler_step(self, scheduler, metric):
            scheduler.step()

    toy = make(OwnSchedule, scheduler=by_step)
    with pytest.warns(UserWarning, match="`lr_scheduler_step` of OwnSchedule may set"):
        fit_asni(tmp_path, ASNISigmoidPruner(density=0.2, **SEARCH), toy=toy)
    fit_asni(tmp_path, ASNISigmoidPruner(density=0.2, reinit=None, **SEARCH), toy=make(OwnSchedule), epochs=3)


def test_a_ticket_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "ticket.pt", "s3://bucket/ticket.pt"):
        toy = make()
        before = weights_of(toy)
        asni = ASNISigmoidPruner(density=0.2, ticket_path=str(path), **SEARCH)
        with pytest.raises(ValueError, match="`ticket_path` must be a file that can be written, got"):
            fit_asni(tmp_path, asni, toy=toy)
        assert_equal(before, weights_of(toy))


def test_a_ticket_that_will_be_replaced_is_warned_of(tmp_path):
    asni = ASNISigmoidPruner(density=0.2, ticket_path=str(tmp_path / "ticket.pt"), **SEARCH)
    fit_asni(tmp_path, asni)
    with pytest.warns(UserWarning, match="`ticket_path` .*ticket.pt' is there already"):
        fit_asni(tmp_path, asni, toy=make(seed=3))
    assert [path.name for path in tmp_path.glob("ticket*")] == ["ticket.pt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`alpha` or `density` must say how sparse the net becomes, got neither"),
        ({"alpha": 98, "density": 0.1}, "got both"),
        ({"alpha": 0}, r"`alpha` must be in \(0, 100\), got 0. It is a percentage"),
        ({"alpha": 100}, r"`alpha` must be in \(0, 100\), got 100"),
        ({"alpha": "98"}, r"`alpha` must be in \(0, 100\), got '98'"),
        ({"alpha": 98, "beta": 1.0}, r"`beta` must be in \(0, 1\), got 1.0"),
        ({"alpha": 98, "beta": 0}, r"`beta` must be in \(0, 1\), got 0"),
        ({"alpha": 98, "gamma": 0}, r"`gamma` must be in \(0, inf\), got 0"),
        ({"alpha": 98, "gamma": -1}, r"`gamma` must be in \(0, inf\), got -1"),
        ({"density": 0}, r"`density` must be in \(0, 1\], got 0"),
        ({"density": 1.5}, r"`density` must be in \(0, 1\], got 1.5"),
        ({"alpha": 98, "search_epochs": 1}, "`search_epochs` must be an integer of at least 2, got 1"),
        ({"alpha": 98, "search_epochs": 2.5}, "`search_epochs` must be an integer of at least 2, got 2.5"),
        (
            {"alpha": 98, "min_increment": -0.1},
            r"`min_increment` must be in \[0, 100\), got -0.1",
        ),
        ({"alpha": 98, "min_increment": 100}, r"`min_increment` must be in \[0, 100\), got 100"),
        (
            {"alpha": 98, "min_weights_per_layer": -1},
            "`min_weights_per_layer` must be an integer of at least 0",
        ),
        ({"alpha": 98, "reinit": "zeros"}, "`reinit` must be one of centroids, original, None, got 'zeros'"),
        ({"alpha": 98, "include": "net.*"}, "`include` must be a list of patterns"),
        ({"alpha": 98, "density_overrides": {"net.0.weight": 2}}, "`density_overrides.*got 2"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        ASNISigmoidPruner(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 99.9, "beta": 0.1, "gamma": 0.1, "min_weights_per_layer": 2}, "min_weights_per_layer"),
        ({"density": 0.001}, "min_weights_per_layer"),
        ({"density": 0.1, "include": ["nett.*"]}, "matches no parameter"),
        ({"density": 0.1, "density_overrides": {"hed": 0.5}}, "pattern 'hed' matches none"),
        ({"density": 0.1, "density_overrides": {"net.6.weight": 0.5}}, "density"),
    ],
)
def test_what_cannot_be_met_is_an_error_before_training(tmp_path, arguments, message):
    toy = make()
    before = weights_of(toy)
    with pytest.raises(ValueError, match=message):
        fit_asni(tmp_path, ASNISigmoidPruner(**{**SEARCH, **arguments}), toy=toy)
    assert_equal(before, weights_of(toy))


def test_a_search_without_an_end(tmp_path):
    with pytest.raises(ValueError, match="`search_epochs` must be a number if `max_epochs` is -1, got None"):
        fit_asni(tmp_path, ASNISigmoidPruner(density=0.1), epochs=-1, max_steps=20)
    records = fit_asni(tmp_path, ASNISigmoidPruner(density=0.1, **SEARCH), epochs=-1, max_steps=20)
    assert records.kept()[1:] == [103] * 4


def test_a_fit_that_is_too_short_warns(tmp_path):
    with pytest.warns(UserWarning, match=r"needs 4 epochs \(`search_epochs` 3\), and `max_epochs` is 3"):
        ASNISigmoidPruner(density=0.1, **SEARCH).setup(trainer(tmp_path, max_epochs=3), make(), "fit")
