import sys
from pathlib import Path

import pytest
import torch
import yaml

from lightning_sparse.cli import main

RECIPES = Path(__file__).parents[1] / "recipes"
OVERLAYS = sorted((RECIPES / "overlays").glob("*.yaml"))
EVERY = sorted(path for path in RECIPES.rglob("*.yaml") if path not in OVERLAYS)
SHAPES = {"DigitsDataModule": [1, 8, 8], "MNISTDataModule": [1, 28, 28], "CIFAR10DataModule": [3, 32, 32]}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-sparse"])


@pytest.mark.parametrize("recipe", EVERY, ids=lambda path: str(path.relative_to(RECIPES)))
def test_recipe_plans_and_trains(recipe, tmp_path, capsys):
    content = yaml.safe_load(recipe.read_text())
    shape = SHAPES[content["data"]["class_path"]]
    main(["plan", "--config", str(recipe)])
    assert "total" in capsys.readouterr().out
    data = ["--data=SyntheticDataModule", f"--data.shape={shape}", "--data.size=64", "--data.batch_size=16"]
    main(["fit", "--config", str(recipe), *data, "--trainer.max_steps=2"])
    checkpoint = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)
    assert checkpoint["global_step"] == 2
    assert list(tmp_path.rglob("events.out.tfevents.*"))


@pytest.mark.parametrize("recipe", EVERY, ids=lambda path: str(path.relative_to(RECIPES)))
def test_recipe_can_be_reproduced_and_resumed(recipe):
    content = yaml.safe_load(recipe.read_text())
    callbacks = [callback["class_path"] for callback in content["trainer"]["callbacks"]]
    assert "seed_everything" in content
    assert {"ModelCheckpoint", "ExactResume"} <= set(callbacks)
    assert recipe.read_text().startswith("# ")


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_overlay_plans_over_every_recipe(overlay, capsys):
    for recipe in EVERY:
        main(["plan", "--config", str(recipe), "--config", str(overlay)])
