"""The console script serves modules of either Lightning, and is run anew for those of the other one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_sparse.checks import SparsityError
from lightning_sparse.cli import lightnings
from lightning_sparse.cli.lightnings import run_under_its_package
from lightning_sparse.trainer.packages import VARIABLE, lightning_versions

OURS, OTHER = "pytorch_lightning", "lightning.pytorch"
MODULE = """
import torch
from {package} import Callback, LightningDataModule, LightningModule
from torch.utils.data import DataLoader, TensorDataset


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(8, 2)

    def training_step(self, batch, _):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Data(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(8, 8), torch.ones(8, dtype=torch.int64)), 4)


class Tell(Callback):
    def on_fit_end(self, trainer, pl_module):
        print("fitted by", trainer.fit_loop.__class__.__module__)
"""


@pytest.fixture(autouse=True)
def _two_modules(tmp_path, monkeypatch):
    """A module for each Lightning, which users may import from the folder that they are in."""
    assert list(lightning_versions()) == [OURS, OTHER]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    for name, package in (("of_ours", OURS), ("of_other", OTHER)):
        Path(f"{name}.py").write_text(MODULE.format(package=package))
        monkeypatch.delitem(sys.modules, name, raising=False)
    run = Path("runs/version_0")
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    recipe = {
        "model": {"class_path": "of_other.Net"},
        "data": "of_other.Data",
        "trainer": {"callbacks": ["Timer"]},
    }
    for file in (run / "config.yaml", Path("recipe.yaml")):
        file.write_text(yaml.safe_dump(recipe))
    Path("sweep.yaml").write_text("recipe: recipe.yaml\n")
    Path("ours.yaml").write_text("model: of_ours.Net\n")
    told = {"class_path": "lightning.pytorch.callbacks.Timer"}
    Path("timer.yaml").write_text(
        yaml.safe_dump({"model": "ImageClassifier", "trainer": {"callbacks": [told]}})
    )
    yield
    for name in ("of_ours", "of_other"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "words",
    [
        "fit --model of_other.Net",
        "fit --model=of_other.Net --data=of_other.Data",
        "fit --model.class_path of_other.Net",
        "fit --config quickstart --trainer.callbacks+=of_other.Tell",
        "plan --config recipe.yaml",
        "plan --config=recipe.yaml",
        "validate --config timer.yaml",
        "export runs/version_0 --format dense",
        "summary runs/version_0/checkpoints/last.ckpt",
        "diagnose recipe.yaml",
        "sweep sweep.yaml --out out",
    ],
)
def test_what_is_of_the_other_one_is_run_anew(words, monkeypatch):
    started = []
    monkeypatch.setattr(lightnings.os, "execve", lambda *arguments: started.append(arguments))
    run_under_its_package(words.split())
    ((program, command, variables),) = started
    assert program == command[0] == sys.executable
    assert variables[VARIABLE] == OTHER
    with pytest.raises(SparsityError, match=rf"must be of pytorch_lightning, as this process .* {VARIABLE}="):
        run_under_its_package(words.split(), may_restart=False)


@pytest.mark.parametrize(
    "words",
    [
        "fit --config quickstart",
        "fit --config ours.yaml --trainer.callbacks+=RigLCallback",
        "fit --model of_ours.Net --data of_ours.Data --trainer.max_epochs 2",
        "fit --model no_such_module.Net",
        "fit --model of_ours.Nett",
        "recipes list",
        "fit",
        "",
    ],
)
def test_all_else_goes_on_here(words, monkeypatch):
    monkeypatch.setattr(lightnings.os, "execve", lambda *_: pytest.fail("was run anew"))
    run_under_its_package(words.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "fit --model of_other.Net --data of_ours.Data",
            r"`data` must be of the same Lightning as `model`, lightning.pytorch \(as of_other.Net is\), got "
            r"of_ours.Data of pytorch_lightning. Import both from lightning.pytorch.",
        ),
        (
            "fit --config ours.yaml --trainer.callbacks+=of_other.Tell",
            r"`trainer.callbacks` must be of the same Lightning as `model`, pytorch_lightning",
        ),
    ],
)
def test_classes_of_both_are_refused(words, message):
    with pytest.raises(SparsityError, match=message):
        run_under_its_package(words.split())


def test_a_fit_of_the_other_one(tmp_path):
    """As from a shell: the process starts as one of ours, and ends as one of the other."""
    words = "fit --model of_other.Net --data of_other.Data --trainer.max_epochs 1 --trainer.accelerator cpu"
    ours = "--trainer.callbacks+=PruneAtInit --trainer.callbacks.method=erk --trainer.callbacks.density=0.25"
    quiet = "--trainer.logger false --trainer.enable_checkpointing false --trainer.callbacks+=of_other.Tell"
    root = str(Path(lightnings.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "lightning_sparse.cli", *f"{words} {ours} {quiet}".split()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "fitted by lightning.pytorch" in done.stdout
    assert "25.0000% of the weights kept" in done.stdout
