import re
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from rounds import ENDS_EARLY

from lightning_sparse.cli.main import main
from lightning_sparse.files.tickets import load_ticket

RECIPES = Path(__file__).parents[1] / "recipes"
OVERLAYS = sorted((RECIPES / "overlays").glob("*.yaml"))
ASNI = sorted((RECIPES / "asni").glob("*.yaml"))
SWEEPS = sorted((RECIPES / "sweeps").glob("*.yaml"))
EVERY = sorted(path for path in RECIPES.rglob("*.yaml") if path not in (*OVERLAYS, *SWEEPS))
LARGE = ("VGG11", "VGG13", "VGG16", "ResNet18", "ResNet50")  # two steps of one take up to 7 s
SHAPES = {
    "DigitsDataModule": [1, 8, 8],
    "MNISTDataModule": [1, 28, 28],
    "CIFAR10DataModule": [3, 32, 32],
    "ImageFolderDataModule": [3, 32, 32],  # ImageNet's 224 x 224 would take minutes
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-sparse"])
    yield
    for checkpoint in tmp_path.rglob("*.ckpt"):  # pytest keeps folders, and these are up to 500 MB
        checkpoint.unlink()


def synthetic(content):
    """Arguments that put made-up images in the place of a recipe's data."""
    shape = SHAPES[content["data"]["class_path"]]
    return ["--data=SyntheticDataModule", f"--data.shape={shape}", "--data.size=64", "--data.batch_size=16"]


@ENDS_EARLY
@pytest.mark.filterwarnings("ignore:There are no masks for")  # of nets too large to train one step here
@pytest.mark.parametrize("recipe", EVERY, ids=lambda path: str(path.relative_to(RECIPES)))
def test_recipe_plans_and_trains(recipe, tmp_path, capsys):
    """Large nets are built, with optimizer and schedule, validated and tested, but make no step."""
    content = yaml.safe_load(recipe.read_text())
    main(["plan", "--config", recipe.relative_to(RECIPES).with_suffix("").as_posix()])
    assert "total" in capsys.readouterr().out
    large = content["model"]["init_args"]["net"]["class_path"] in LARGE
    main(["fit", "--config", str(recipe), *synthetic(content), f"--trainer.max_steps={0 if large else 2}"])
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    if large:
        assert "test/acc" in capsys.readouterr().out
    else:
        checkpoint = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)
        assert checkpoint["global_step"] == 2


@pytest.mark.parametrize("recipe", EVERY, ids=lambda path: str(path.relative_to(RECIPES)))
def test_recipe_can_be_reproduced_and_resumed(recipe):
    content = yaml.safe_load(recipe.read_text())
    callbacks = [callback["class_path"] for callback in content["trainer"]["callbacks"]]
    assert "seed_everything" in content
    assert {"ModelCheckpoint", "ExactResume"} <= set(callbacks)
    assert recipe.read_text().startswith("# ")


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_overlay_plans_over_every_recipe(overlay, capsys):
    needs_ticket = "FromFile" in overlay.read_text()
    for recipe in EVERY:
        refused = pytest.raises(SystemExit) if needs_ticket else nullcontext()
        with refused:
            main(["plan", "--config", str(recipe), "--config", str(overlay)])
        error = capsys.readouterr().err
        assert ("`file` must be a file, got 'ticket.pt', which does not exist." in error) == needs_ticket


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda path: path.stem)
def test_sweep_plans_every_cell(sweep, capsys):
    main(["sweep", str(sweep), "--dry-run"])
    assert re.search(r"^(\d+) of \1 cells would be run", capsys.readouterr().out, re.MULTILINE)
    assert sweep.read_text().startswith("# ")


# Table 1 of the ASNI paper: epochs, batch size, learning rate; with SGD also weight decay and delta.
TABLE_1 = {
    "mnist_fc": (50, 60, 0.0012),
    "mnist_conv2": (20, 60, 0.0002),
    "mnist_conv4": (25, 60, 0.0003),
    "mnist_conv6": (30, 60, 0.0003),
    "cifar10_conv2": (20, 60, 0.0002),
    "cifar10_conv4": (25, 60, 0.0003),
    "cifar10_conv6": (30, 60, 0.0003),
    "cifar10_vgg11": (160, 128, 0.05, 0.0005, 0.06),
    "cifar10_vgg13": (160, 128, 0.05, 0.0005, 0.06),
    "cifar10_vgg16": (160, 128, 0.05, 0.0005, 0.06),
    "cifar10_resnet18": (160, 128, 0.05, 0.0005, 0.06),
    "imagenet_resnet50_80": (90, 820, 0.35, 0.0001, 0.02),
    "imagenet_resnet50_90": (90, 820, 0.35, 0.0001, 0.02),
}
# Table 2: alpha and gamma; beta is always 0.5.
TABLE_2 = {
    "mnist_fc": (98, 5),
    "mnist_conv2": (99.2, 2),
    "mnist_conv4": (98.5, 2),
    "mnist_conv6": (98.5, 3),
    "cifar10_conv2": (98.5, 2),
    "cifar10_conv4": (95, 2),
    "cifar10_conv6": (94, 3),
    "cifar10_vgg11": (97, 16),
    "cifar10_vgg13": (98, 16),
    "cifar10_vgg16": (99, 16),
    "cifar10_resnet18": (97, 16),
    "imagenet_resnet50_80": (81.04, 10),
    "imagenet_resnet50_90": (91.05, 10),
}


def pruner_of(content):
    (found,) = (c for c in content["trainer"]["callbacks"] if c["class_path"] == "ASNISigmoidPruner")
    return found["init_args"]


@pytest.mark.parametrize("recipe", ASNI, ids=lambda path: path.stem)
def test_asni_recipes_are_the_paper_s_tables(recipe):
    content = yaml.safe_load(recipe.read_text())
    pruner = pruner_of(content)
    model, epochs = content["model"]["init_args"], pruner["search_epochs"]
    optimizer = model["optimizer"]["init_args"]
    found = [epochs, content["data"]["init_args"]["batch_size"], optimizer["lr"]]
    if model["optimizer"]["class_path"].endswith("SGD"):
        assert optimizer["momentum"] == 0.9
        assert model["lr_scheduler"]["init_args"]["epochs"] == epochs
        found += [optimizer["weight_decay"], model["lr_scheduler"]["init_args"]["delta"]]
    assert tuple(found) == TABLE_1[recipe.stem]
    assert (pruner["alpha"], pruner["gamma"]) == TABLE_2[recipe.stem]
    assert (pruner["beta"], pruner["min_increment"], model["weight_init"]) == (0.5, 0.1, "kaiming_normal")


@pytest.mark.parametrize("recipe", ASNI, ids=lambda path: path.stem)
def test_asni_recipes_say_how_long_each_variant_takes_and_what_it_leaves(recipe):
    text = recipe.read_text()
    content = yaml.safe_load(text)
    pruner = pruner_of(content)
    epochs, run = pruner["search_epochs"], content["trainer"]["logger"]["init_args"]["name"]
    assert content["trainer"]["max_epochs"] == 2 * epochs
    assert {"every_n_epochs": epochs, "filename": "{epoch}", "save_top_k": -1} in [
        callback.get("init_args") for callback in content["trainer"]["callbacks"]
    ]
    assert run == f"asni-{recipe.stem}".replace("_", "-")
    assert pruner["ticket_path"] == f"runs/{run}/ticket.pt"
    assert text.count(f"--trainer.max_epochs={epochs}\n") == 2
    assert f"method.file={pruner['ticket_path']} " in text


def test_all_four_variants_of_asni(tmp_path):
    """A and C in one fit; then D, S and C by overlays, at a rate of 0: they end where they begin."""
    recipe = RECIPES / "asni" / "mnist_fc.yaml"
    data = synthetic(yaml.safe_load(recipe.read_text()))

    def weights(run, *changes):
        """Of the net that a run leaves."""
        main(["fit", "--config", str(recipe), *changes, *data, f"--trainer.logger.init_args.name={run}"])
        last = next((tmp_path / "runs" / run).rglob("last.ckpt"))
        return torch.load(last, "cpu", weights_only=True)["state_dict"]

    def still(overlay, *changes):
        rates = ("--model.init_args.optimizer.init_args.lr=0", "--trainer.max_epochs=1")
        return weights(overlay, "--config", str(RECIPES / "overlays" / f"{overlay}.yaml"), *changes, *rates)

    pruner = ("--trainer.callbacks.search_epochs=2", "--trainer.callbacks.gamma=0.5")
    path = "runs/asni-mnist-fc/ticket.pt"
    retrained = weights("retrained", *pruner, "--trainer.max_epochs=4")
    ticket, mask_path = load_ticket(path), f"--trainer.callbacks.method.file={path}"
    dense, original = still("dense"), still("ticket", mask_path)
    centroids = still("ticket_centroids", mask_path)
    assert 0 < sum(int(mask.sum()) for mask in ticket.masks.values()) < 266_200
    for name, mask in ticket.masks.items():
        assert not retrained[name][~mask].any()
        assert torch.equal(original[name], torch.where(mask, dense[name], 0.0))
        assert torch.equal(centroids[name].unique(), torch.tensor([0.0, *ticket.centroids[name]]).unique())
        assert torch.equal(centroids[name][mask].sign(), ticket.signs[name].float())
