import math
from copy import deepcopy
from itertools import pairwise

import pytest
import torch

from lightning_sparse.models import TruncatedCosineLR
from lightning_sparse.trainer.packages import Trainer, cli_module


def _made(lrs=(0.05,), **arguments):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    return optimizer, TruncatedCosineLR(optimizer, **arguments)


def _rates(optimizer, scheduler, epochs):
    """The rate of each epoch, as training sees it."""
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_rates_worked_by_hand():
    rates = _rates(*_made(lrs=(0.4,), epochs=2, delta=0.5), 4)
    assert rates == pytest.approx([0.4, 0.3, 0.1, 0.1])  # 0.2 (1 + cos(0, pi / 3, 2 pi / 3)), then constant


@pytest.mark.parametrize(("eta_0", "epochs", "delta"), [(0.05, 160, 0.06), (0.35, 90, 0.02)])
def test_rates_of_the_paper_fall_and_stay_positive(eta_0, epochs, delta):
    rates = _rates(*_made(lrs=(eta_0,), epochs=epochs, delta=delta), 3 * epochs)
    assert rates[0] == eta_0
    assert min(rates) > 0
    assert all(later < earlier for earlier, later in pairwise(rates[:epochs]))
    assert set(rates[epochs:]) == {rates[epochs]}
    assert rates[epochs - 1] == pytest.approx(
        eta_0 / 2 * (1 + math.cos(math.pi * (epochs - 1) / ((1 + delta) * epochs)))
    )


def test_every_parameter_group_keeps_its_own_rate():
    optimizer, scheduler = _made(lrs=(0.4, 0.04), epochs=2, delta=0.5)
    _rates(optimizer, scheduler, 1)
    assert scheduler.get_last_lr() == pytest.approx([0.3, 0.03])


def test_the_initial_state_begins_again(tmp_path):
    """As ASNI restarts training: optimizer and scheduler are given what they held at the start."""
    optimizer, scheduler = _made(epochs=5, delta=0.06)
    torch.save([optimizer.state_dict(), scheduler.state_dict()], tmp_path / "start.pt")
    first = _rates(optimizer, scheduler, 7)
    of_optimizer, of_scheduler = torch.load(tmp_path / "start.pt", weights_only=True)
    optimizer.load_state_dict(of_optimizer)
    scheduler.load_state_dict(of_scheduler)
    assert _rates(optimizer, scheduler, 7) == first


def test_a_run_goes_on_from_its_state():
    optimizer, scheduler = _made(epochs=5)
    _rates(optimizer, scheduler, 2)
    states = deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    rest = _rates(optimizer, scheduler, 4)
    resumed, its_scheduler = _made(epochs=5)
    resumed.load_state_dict(states[0])
    its_scheduler.load_state_dict(states[1])
    assert _rates(resumed, its_scheduler, 4) == rest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "`epochs` must be an integer of at least 1, got 0"),
        ({"epochs": 2, "delta": 0}, r"`delta` must be in \(0, inf\), got 0. It keeps the rate positive"),
        ({"epochs": 2, "delta": math.nan}, r"`delta` must be in \(0, inf\), got nan"),
        ({"epochs": 2, "delta": math.inf}, r"`delta` must be in \(0, inf\), got inf"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        _made(**arguments)


def test_yaml_names_it_in_short():
    pytest.importorskip("jsonargparse")
    from lightning_sparse.data import SyntheticDataModule
    from lightning_sparse.models import ImageClassifier

    model = {
        "net": {"class_path": "LeNet300100", "init_args": {"in_features": 48}},
        "lr_scheduler": {"class_path": "TruncatedCosineLR", "init_args": {"epochs": 2, "delta": 0.5}},
    }
    cli = cli_module().LightningCLI(
        ImageClassifier,
        SyntheticDataModule,
        trainer_class=Trainer,
        save_config_callback=None,
        run=False,
        args={
            "model": model,
            "data": {"shape": [3, 4, 4]},
            "trainer": {
                "accelerator": "cpu",
                "max_epochs": 1,
                "logger": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "enable_checkpointing": False,
            },
        },
    )
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.075)
