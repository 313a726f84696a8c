"""Recipes that are put together: nothing of them is lost on the way to a run of a sweep."""

import contextlib
import io

import pytest
import yaml

from lightning_sparse.cli.composing import composed
from lightning_sparse.cli.main import main

OWN = """
from torch.optim import SGD
from lightning_sparse.models import ImageClassifier, LeNet300100, LeNet5
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable


class Own(LightningModule):
    def __init__(
        self, optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.1), width: int | None = 7
    ):
        super().__init__()
"""


def printed(*configs):
    said = io.StringIO()
    words = [word for config in configs for word in ("--config", str(config))]
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main(["fit", *words, "--print_config"])
    return yaml.safe_load(said.getvalue())


def written(path, content):
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(("rate", "width"), [(0.001, 7), (0.1, None), (0.02, 3)])
def test_values_stay_that_are_the_default_of_their_own_class(tmp_path, monkeypatch, rate, width):
    """Adam's own rate is 0.001, but left out it would be that of the module's default, SGD's 0.1."""
    (tmp_path / "own_module.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    optimizer = {"class_path": "torch.optim.Adam", "init_args": {"lr": rate}}
    model = {"class_path": "own_module.Own", "init_args": {"optimizer": optimizer, "width": width}}
    recipe = written(tmp_path / "recipe.yaml", {"model": model})
    again = written(tmp_path / "again.yaml", composed([str(recipe)]))
    arguments = printed(again)["model"]["init_args"]
    assert arguments["optimizer"]["init_args"]["lr"] == rate
    assert arguments["width"] == width


@pytest.mark.parametrize(
    "configs",
    [["mnist/lenet300_gradual"], ["dctps/cifar10_lenet5", "overlays/sgd"], ["asni/imagenet_resnet50_80"]],
)
def test_recipes_come_to_the_same_when_they_are_composed_first(tmp_path, configs):
    again = written(tmp_path / "again.yaml", composed(configs))
    assert printed(again) == printed(*configs)
