import re
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from pytorch_lightning.cli import LightningCLI
from rounds import ENDS_EARLY

from lightning_sparse.cli.composing import arguments_of, check_recipe, composed
from lightning_sparse.cli.library import find_recipe
from lightning_sparse.cli.main import main
from lightning_sparse.experiments.jobs import jobs_of
from lightning_sparse.experiments.sweeps import read_sweep
from lightning_sparse.files.tickets import load_ticket

RECIPES = Path(__file__).parents[1] / "recipes"
OVERLAYS = sorted((RECIPES / "overlays").glob("*.yaml"))
ASNI = sorted((RECIPES / "asni").glob("*.yaml"))
SWEEPS = sorted((RECIPES / "sweeps").glob("*.yaml"))
BOLTS = sorted((RECIPES / "bolts").glob("*.yaml"))  # trained in an environment of their own: tests/bolts
EVERY = sorted(path for path in RECIPES.rglob("*.yaml") if path not in (*OVERLAYS, *SWEEPS, *BOLTS))
# Nets of which two steps take seconds: their recipes are planned, on the meta device. What their callbacks do
# in training is seen on the small ones. So are those of LeNet-300-100 by a method whose overlay trains it.
LARGE = ("Conv2", "Conv4", "Conv6", "VGG11", "VGG13", "VGG16", "VGG19", "ResNet18", "ResNet50", "MobileNetV2")
LARGE += ("FixupResNet110", "WideResNet")
TRAINED = [
    path
    for path in EVERY
    if not re.search(r"class_path: (\w+\.)*({})\b".format("|".join(LARGE)), path.read_text())
    or path.stem == "wrn22_rigl"
]
BY_OVERLAY = [f"lenet300_{overlay.stem}" for overlay in OVERLAYS]
TRAINED = [path for path in TRAINED if path.parent.name != "mnist" or path.stem not in BY_OVERLAY]
KEEPS_NONE = pytest.mark.filterwarnings("ignore:SparseCheckpoint has kept no net")
PLANNED = [path for path in EVERY if path not in TRAINED or path.stem == "quickstart"]
ONE_OF_EACH = [RECIPES / f"{name}.yaml" for name in ("asni/cifar10_resnet18", "asni/cifar10_vgg16")]
SHAPES = {
    "DigitsDataModule": [1, 8, 8],
    "MNISTDataModule": [1, 28, 28],
    "CIFAR10DataModule": [3, 32, 32],
}


@pytest.fixture(scope="module", autouse=True)
def _one_parser():
    """Let all calls have one parser: it is the same for every recipe, and a third of the time of a plan."""
    build, kept = LightningCLI.setup_parser, {}

    def setup_parser(self, *arguments):
        if not kept:
            before = set(vars(self))
            build(self, *arguments)
            kept.update({name: value for name, value in vars(self).items() if name not in before})
        vars(self).update(kept)
        self.parser._instantiators = None  # those of the call before, which know its recipe

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LightningCLI, "setup_parser", setup_parser)
        yield


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-sparse"])
    yield
    for checkpoint in tmp_path.rglob("*.ckpt"):  # pytest keeps folders, and these are up to 500 MB
        checkpoint.unlink()


def synthetic(recipe):
    """Arguments that put a few made-up images in the place of a recipe's data."""
    shape = SHAPES[yaml.safe_load(recipe.read_text())["data"]["class_path"]]
    return ["--data=SyntheticDataModule", f"--data.shape={shape}", "--data.size=32", "--data.batch_size=8"]


def shorter(text):
    """Arguments that prune in a few iterations where a recipe or an overlay takes 60 or 100."""
    return ["--trainer.callbacks.method.iterations=3"] * bool(re.search(r"\biterations: \d{2}", text))


def check_budget(recipe, said):
    """Check the last row of the table of layers against what the first line of the recipe says."""
    if kept := re.search(r"(?:([\d,]+)|1%) of its ([\d,]+) weights", recipe.read_text()):
        total = int(kept[2].replace(",", ""))
        budget = kept[1] or f"{int(0.01 * total + 0.5):,}"
        assert re.search(rf"^  total +{kept[2]} +{budget} ", said, re.MULTILINE), said


def name_of(path):
    return path.relative_to(RECIPES).with_suffix("").as_posix()


@pytest.mark.parametrize("recipe", PLANNED, ids=name_of)
def test_recipe_plans(recipe, capsys, monkeypatch):
    """On the meta device: shapes and budgets are the same there, and nothing is drawn."""
    if recipe.stem != "quickstart":  # counting FLOPs is most of a large net's plan, and has tests of its own
        monkeypatch.setattr("lightning_sparse.cli.plan.example_input", lambda *_: (None, None))
    with torch.device("meta"):
        main(["plan", "--config", name_of(recipe)])
    said = capsys.readouterr().out
    assert " total " in said
    check_budget(recipe, said)


@ENDS_EARLY
@KEEPS_NONE
@pytest.mark.parametrize("recipe", TRAINED, ids=name_of)
def test_recipe_trains(recipe, tmp_path, capsys):
    changes = [*shorter(recipe.read_text()), *synthetic(recipe), "--trainer.max_steps=2"]
    main(["fit", "--config", str(recipe), *changes])
    check_budget(recipe, capsys.readouterr().out)
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    checkpoint = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)
    assert checkpoint["global_step"] == 2


@pytest.mark.filterwarnings("ignore:There are no masks for")
@pytest.mark.parametrize("recipe", ONE_OF_EACH, ids=name_of)
def test_nets_too_large_to_train_here_are_built_validated_and_tested(recipe, tmp_path, capsys):
    main(["fit", "--config", str(recipe), *synthetic(recipe), "--trainer.max_steps=0"])
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    assert "test/acc" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", [*EVERY, *BOLTS], ids=name_of)
def test_recipe_can_be_reproduced_and_resumed(recipe):
    content = yaml.safe_load(recipe.read_text())
    callbacks = [callback["class_path"] for callback in content["trainer"]["callbacks"]]
    assert "seed_everything" in content
    assert {"ModelCheckpoint", "SparseCheckpoint"} & set(callbacks)
    assert "ExactResume" in callbacks
    assert recipe.read_text().startswith("# ")


@ENDS_EARLY
@KEEPS_NONE
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_overlay_trains_behind_a_recipe_and_has_the_last_word(overlay, tmp_path, capsys):
    """A recipe's callbacks hand arguments down to those of an overlay: none that it cannot live with."""
    recipe, text = RECIPES / "mnist" / "lenet300_rigl.yaml", overlay.read_text()
    words = ["fit", "--config", str(recipe), "--config", str(overlay), *synthetic(recipe)]
    if "FromFile" in text:
        with pytest.raises(SystemExit):
            main(words)
        assert "`file` must be a file, got 'ticket.pt', which does not exist." in capsys.readouterr().err
        return
    changes = [*shorter(text), *["--trainer.callbacks.dimension=20"] * ("dimension" in text)]
    main([*words, *changes, "--trainer.max_steps=2"])
    checkpoint = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)
    assert checkpoint["global_step"] == 2
    if density := re.search(r"\bdensity: ([\d.]+)", text):
        callbacks = yaml.safe_load(next(tmp_path.rglob("config.yaml")).read_text())["trainer"]["callbacks"]
        found = [callback.get("init_args", {}).get("density") for callback in callbacks]
        assert [one for one in found if one is not None] == [float(density[1])]


@pytest.mark.parametrize("overlay", ["force", "synflow"])
def test_fixup_is_refused_by_scores_as_in_the_paper(overlay, capsys):
    recipe = RECIPES / "dctps" / "cifar10_fixup110.yaml"
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(recipe), "--config", f"overlays/{overlay}", *synthetic(recipe)])
    assert re.search(r"scores? .*(zero|0)", capsys.readouterr().err)


def test_fixup_starts_from_the_alphas_of_the_authors():
    """The square root of what a filter's norm would be by Fixup over what it is of the DCT."""
    recipe = yaml.safe_load((RECIPES / "dctps" / "cifar10_fixup110.yaml").read_text())
    alphas = next(c["init_args"]["alpha"] for c in recipe["trainer"]["callbacks"][2:])
    for name, inputs, outputs in [
        ("net.layer1.*", 16, 16),
        ("net.layer2.*", 32, 32),
        ("net.layer3.*", 64, 64),
        ("net.layer2.0", 16, 32),
        ("net.layer3.0", 32, 64),
    ]:
        patch = torch.tensor(9.0 * inputs)
        std = (2 / (9 * outputs * 54)) ** 0.5
        norm = 2**0.5 * std * torch.exp(torch.lgamma((patch + 1) / 2) - torch.lgamma(patch / 2))
        # The columns of an orthonormal matrix that is not cut across them have norm 1.
        assert alphas[f"{name}.conv1"] == pytest.approx(float(norm) ** 0.5, abs=2e-5)
    assert alphas["*.conv2"] == alphas["net.fc"] == 0
    assert list(alphas).index("net.layer2.*.conv1") < list(alphas).index("net.layer2.0.conv1")


@cache
def _plain(configs):
    """Return a recipe with overlays put over it, as far as a sweep's keys need it: without LightningCLI."""
    first, *overlays = (yaml.safe_load(find_recipe(name).path.read_text()) for name in configs)
    for overlay in overlays:
        first["trainer"] |= overlay.get("trainer", {})
        first["model"]["init_args"] |= overlay.get("model", {}).get("init_args", {})
    return first


def jobs_in(sweep):
    return jobs_of(sweep, sweep.cells, lambda configs: _plain(tuple(configs)), arguments_of)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweep_has_the_runs_that_it_says(path):
    sweep = read_sweep(path)
    text = path.read_text()
    assert text.startswith("# ")
    jobs = jobs_in(sweep)
    assert int(re.search(r": ([\d,]+) runs\.$", text, re.MULTILINE)[1]) == len(jobs) == len(sweep.cells)
    densities = {cell.settings.get("trainer.callbacks.density") for cell in sweep.cells} - {None}
    found = {
        callback["init_args"].get("density")
        for job in jobs
        for callback in job.recipe["trainer"]["callbacks"]
        if "density" in callback.get("init_args", {})
    }
    assert densities <= found


def test_a_small_sweep_plans_every_cell(capsys):
    main(["sweep", "sweeps/digits", "--dry-run"])
    assert re.search(r"^(\d+) of \1 cells would be run", capsys.readouterr().out, re.MULTILINE)


PANELS = [
    "figure1",
    "figure3_left",
    "figure3_right",
    "figure6",
    "figure8_resnet50",
    "figure8_vgg19",
    "table1",
]
PANELS += [
    f"figure{n}_{data}_{net}"
    for n in (2, 9)
    for data in ("cifar10", "cifar100")
    for net in ("resnet50", "vgg19")
]
PANELS += ["figure1_projection", "figure10_mobilenetv2", "figure10_fixup110"]


def test_figures_of_the_dctps_paper_have_their_methods_and_batches():
    """Table 3: FORCE on 1, 10 and 20 batches; table 4: the rates of SGD; footnote 8: no SynFlow with SGD."""
    assert sorted(PANELS) == sorted(
        path.stem.removeprefix("dctps_") for path in SWEEPS if "dctps" in path.stem
    )
    for panel in PANELS:
        if panel == "figure1_projection":  # dimensions, no variants
            continue
        sweep = read_sweep(RECIPES / "sweeps" / f"dctps_{panel}.yaml")
        variants = {cell.settings["variant"] for cell in sweep.cells}
        has_sgd = panel.startswith(("figure9", "figure10"))
        is_fixup = panel in ("figure3_right", "figure10_fixup110")
        scored = {"FORCE", "SynFlow"} & variants
        assert scored == (
            set() if is_fixup or "8" in panel else {"FORCE"} if has_sgd else {"FORCE", "SynFlow"}
        )
        for job in jobs_in(sweep):
            last, data = job.recipe["trainer"]["callbacks"][-1], job.recipe["data"]["class_path"]
            if job.settings["variant"] == "FORCE":
                batches = {"CIFAR10DataModule": 1, "CIFAR100DataModule": 10, "TinyImageNetDataModule": 20}
                arguments = last["init_args"]["method"]["init_args"]
                assert arguments == {"iterations": 60, "num_batches": batches[data]}
            rate = (0.03 if last["class_path"] == "DCTpSConversion" else 0.1) if has_sgd else 0.001
            model = job.recipe["model"]["init_args"]
            assert model["optimizer"]["init_args"]["lr"] == rate
            assert ("lr_scheduler" in model) == has_sgd


def test_a_cell_of_a_large_sweep_is_a_recipe():
    sweep = read_sweep(RECIPES / "sweeps" / "dctps_figure9_cifar100_resnet50.yaml")
    cells = [cell for cell in sweep.cells if "FORCE" in cell.name][:1]
    (job,) = jobs_of(sweep, cells, composed, arguments_of)
    with torch.device("meta"):
        check_recipe(job.recipe)


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
    assert content["trainer"]["precision"] == "16-mixed"  # section 4.1
    if "imagenet" not in recipe.stem:
        assert content["data"]["init_args"]["val_fraction"] == 0  # all images: 1,000 and 391 iterations
    assert (pruner["alpha"], pruner["gamma"]) == TABLE_2[recipe.stem]
    assert (pruner["beta"], pruner["min_increment"], model["weight_init"]) == (0.5, 0.1, "kaiming_normal")


@pytest.mark.parametrize("recipe", ASNI, ids=lambda path: path.stem)
def test_asni_recipes_say_how_long_each_variant_takes_and_what_it_leaves(recipe):
    text = recipe.read_text()
    content = yaml.safe_load(text)
    pruner = pruner_of(content)
    epochs, run = pruner["search_epochs"], content["trainer"]["logger"]["init_args"]["name"]
    assert run == f"asni-{recipe.stem}".replace("_", "-")
    assert pruner["ticket_path"] == f"runs/{run}/ticket.pt"
    assert re.search(rf"method.file={pruner['ticket_path']}\s", text)
    if "imagenet" in recipe.stem:  # C and S at a rate of their own
        assert (content["trainer"]["max_epochs"], pruner["reinit"]) == (epochs, None)
        assert text.count("--model.optimizer.init_args.lr=0.128\n") == 1
        return
    assert content["trainer"]["max_epochs"] == 2 * epochs
    assert {"every_n_epochs": epochs, "filename": "{epoch}", "save_top_k": -1} in [
        callback.get("init_args") for callback in content["trainer"]["callbacks"]
    ]
    assert text.count(f"--trainer.max_epochs={epochs}\n") == 2


@KEEPS_NONE
def test_all_four_variants_of_asni(tmp_path):
    """A and C in one fit; then D, S and C by overlays, at a rate of 0: they end where they begin."""
    recipe = RECIPES / "asni" / "mnist_fc.yaml"
    data = synthetic(recipe)

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
