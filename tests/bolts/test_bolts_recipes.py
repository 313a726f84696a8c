"""Recipes whose nets are of lightning-bolts: `tests/test_recipes.py` leaves them to its environment."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("pl_bolts", reason="needs the extra `bolts`: docs/bolts.md")

import torch

from lightning_sparse.cli.main import main

pytestmark = [pytest.mark.bolts, pytest.mark.filterwarnings("ignore")]
SHAPES = {"digits_gan_rigl": [1, 8, 8], "mnist_litmnist_snip": [1, 28, 28]}
RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "bolts").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_of_bolts_trains(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-sparse"])
    data = ["--data=SyntheticDataModule", f"--data.shape={SHAPES[recipe.stem]}", "--data.size=32"]
    main(["fit", "--config", f"bolts/{recipe.stem}", *data, "--data.batch_size=8", "--trainer.max_epochs=1"])
    assert " total " in capsys.readouterr().out
    checkpoint = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)
    assert checkpoint["epoch"] == 0
    assert "ExactResume" in checkpoint["callbacks"]
