"""``lightning-sparse diagnose``: a recipe at its start, by several methods, over calls that are repeated."""

import csv
import json
import sys
from pathlib import Path

import pytest
import yaml

from lightning_sparse.cli.main import main
from lightning_sparse.experiments import diagnoses
from lightning_sparse.experiments.overlaid import known_methods, sparse_by

ROOT = Path(__file__).parents[2]
CONV = {
    "seed_everything": 0,
    "trainer": {
        "max_epochs": 3,
        "logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs"}},
        "callbacks": [
            {"class_path": "ModelCheckpoint", "init_args": {"save_last": True}},
            {"class_path": "LearningRateMonitor"},
            {"class_path": "ExactResume"},
            {"class_path": "PruneAtInit", "init_args": {"method": "epl", "density": 0.1}},
        ],
    },
    "model": {
        "class_path": "ImageClassifier",
        "init_args": {"net": {"class_path": "LeNet5"}},
    },
    "data": {"class_path": "CIFAR10DataModule", "init_args": {"data_dir": "nowhere", "batch_size": 8}},
}


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """Return a folder in which a net was diagnosed without data, and what was printed."""
    return tmp_path_factory.mktemp("a diagnosis")


@pytest.fixture(autouse=True)
def _elsewhere(once, monkeypatch):
    monkeypatch.chdir(once)
    monkeypatch.setattr(sys, "argv", ["lightning-sparse"])
    Path("conv net.v1.yaml").write_text(yaml.safe_dump(CONV))


def said(capsys, *words):
    capsys.readouterr()
    main(["diagnose", *words])
    return capsys.readouterr().out


def error_of(capsys, *words, code=2):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["diagnose", *words])
    assert stopped.value.code == code
    return capsys.readouterr().err.strip()


def rows(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


METHODS = ("--methods", "epl,snip,dctps,dense", "--densities", "0.1,1e-3")
COMMAND = ("conv net.v1.yaml", "--inputs", "noise", *METHODS)


@pytest.mark.filterwarnings("ignore:The net is cut through")
def test_a_recipe_without_data_by_several_methods_and_again(capsys, monkeypatch):
    out = Path("diagnoses", "conv net.v1")
    printed = said(capsys, *COMMAND, "--count", "2")
    assert "[7/7] method=dense  done" in printed
    first, second, third = [line for line in printed.splitlines() if not line.startswith("[")][:3]
    assert first.startswith("Connected: ")
    assert "of 7 nets" in first
    assert second.startswith("Empty layers: in 0 of 7 nets")
    assert third.startswith("First loss: ")
    assert {path.name for path in out.iterdir()} == {
        *("cases", "start.csv", "spectrum.csv", "layers.csv", "spectrum.png", "layers.png", "signals.png")
    }
    start = {(row["method"], row["density"]): row for row in rows(out / "start.csv")}
    assert start["epl", "0.1"]["kept"] == start["dctps", "0.1"]["kept"] == start["snip", "0.1"]["kept"]
    assert start["dense", ""]["kept"] == start["dense", ""]["weights"]
    spectra = {
        (row["method"], row["density"], row["number"]): row["mean"] for row in rows(out / "spectrum.csv")
    }
    assert all(spectra["dctps", "0.1", n] == spectra["dctps", "0.001", n] for n in "123")
    assert not Path("runs").exists()
    assert not Path("nowhere").exists()
    assert not Path("lightning_logs").exists()

    # What was seen is not looked at again, but for what is half written or asked for otherwise.
    case = out / "cases" / "method=epl,density=0.1.json"
    case.write_text(case.read_text()[:100])
    looks = []
    look = diagnoses.look_at_start
    monkeypatch.setattr(diagnoses, "look_at_start", lambda *a, **k: looks.append(a) or look(*a, **k))
    again = said(capsys, *COMMAND, "--count", "2")
    assert len(looks) == 1
    assert "6 of 7 nets were looked at before" in again
    assert first in again.splitlines()
    assert {(row["method"], row["density"]): row for row in rows(out / "start.csv")} == start
    said(capsys, *COMMAND[:3], "--methods", "epl", "--densities", "0.1", "--count", "1")
    assert len(looks) == 2


def test_the_recipe_itself_is_printed_layer_by_layer(capsys):
    printed = said(capsys, str(ROOT / "recipes" / "quickstart.yaml"), "--count", "1", "--out", "one")
    assert printed.startswith("Connected: yes. 10 of 10 outputs")
    assert "Inputs: 1 images of the first batch of DigitsDataModule" in printed
    assert "net.fcs.4   10 x 100" in printed


def test_overlays_densities_and_least_weights(capsys):
    overlay = {
        "trainer": {
            "callbacks": [{"class_path": "RigLCallback", "init_args": {"density": 0.5, "every_n_steps": 2}}]
        }
    }
    Path("moved by.yaml").write_text(yaml.safe_dump(overlay))
    said(
        *(capsys, "conv net.v1.yaml", "--inputs", "noise", "--count", "1", "--out", "over"),
        *(
            "--methods",
            "moved by.yaml,recipe,magnitude",
            "--densities",
            "0.2",
            "--min-weights-per-layer",
            "0",
        ),
        *("--set", "model.net.in_channels=1", "--input-size", "1,1,32,32"),
    )
    (moved, own, magnitude) = rows("over/start.csv")
    assert (moved["method"], own["method"]) == ("moved by", "recipe")
    assert moved["kept"] == own["kept"] == magnitude["kept"]
    case = json.loads(Path("over/cases/method=magnitude,density=0.2.json").read_text())
    assert case["of"]["recipe"]["trainer"]["callbacks"][-1]["init_args"]["min_weights_per_layer"] == 0
    assert case["found"]["spectrum"]["inputs"] == 1024


def test_a_method_that_fails_does_not_stop_the_others(capsys):
    words = ("--methods", "epl,snip", "--densities", "2e-5,0.1", "--count", "1", "--out", "failed")
    error_of(capsys, "conv net.v1.yaml", "--inputs", "noise", *words, code=1)
    start = rows("failed/start.csv")
    assert [(row["method"], bool(row["error"])) for row in start] == [
        *(("epl", True), ("epl", False), ("snip", True), ("snip", False))
    ]
    assert "min_weights_per_layer" in start[0]["error"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["quickstrat"], "did you mean quickstart?"),
        (["quickstart", "--methods", "synflo"], "`--methods` must be an overlay or one of random, uniform"),
        (["quickstart", "--methods", "erk,erk"], "each once"),
        (["quickstart", "--densities", "1.5"], "`--densities` must be"),
        (["quickstart", "--densities", "a"], "must be numbers such as 0.1,0.01"),
        (["quickstart", "--count", "0"], "`--count` must be 1 or more, got 0."),
        (["quickstart", "--min-weights-per-layer", "-1"], "must be 0 or more, got -1."),
        (["quickstart", "--set", "model.nets=1"], "nets"),
        (["conv net.v1.yaml"], "Or take made-up images, which need no data: --inputs noise."),
        (["dctps/tinyimagenet_resnet18", "--methods", "epl,dctps"], "need no data: --inputs noise."),
        (["quickstart", "--methods", "erk", "--density", "0.1"], "did you mean densities?"),
    ],
)
def test_mistakes_are_a_line_or_two(capsys, words, said):
    assert said in error_of(capsys, *words, "--out", "wrong")
    assert not Path("wrong").exists()


def test_every_method_has_a_recipe():
    recipe = {
        "trainer": {
            "callbacks": ["ExactResume", {"class_path": "RigLCallback", "init_args": {"density": 0.1}}]
        }
    }
    for method in known_methods():
        names = [one["class_path"] for one in sparse_by(recipe, method, 0.2)["trainer"]["callbacks"]]
        assert names[0] == "ExactResume"
        assert len(names) == (1 if method == "dense" else 2)
    assert recipe["trainer"]["callbacks"][0] == "ExactResume"
