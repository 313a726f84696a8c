"""``lightning-sparse report``: from a recipe's run to its page."""

import json
from pathlib import Path

import pytest
import torch

import lightning_sparse
from lightning_sparse.cli.main import main

RECIPE = str(Path(lightning_sparse.__file__).parent.parent / "recipes" / "quickstart.yaml")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder with two short runs of the quickstart; one has the callback too."""
    folder = tmp_path_factory.mktemp("runs here")
    for name, density in (("sparse", 0.05), ("denser", 0.2)):
        words = [
            "fit",
            "--config",
            RECIPE,
            f"--trainer.logger.save_dir={folder}",
            "--trainer.max_epochs",
            "2",
        ]
        words += [f"--trainer.logger.name={name}", "--trainer.limit_train_batches", "4"]
        words += [f"--trainer.callbacks.density={density}", "--trainer.callbacks+=SparsityReport"]
        main([*words, "--trainer.callbacks.latency=false", "--trainer.enable_progress_bar=false"])
    return folder


def report(capsys, *words):
    main(["report", *map(str, words)])
    return capsys.readouterr().out.splitlines()


def stopped_with(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(["report", *map(str, words)])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_page_beside_the_run(runs, capsys):
    printed = report(capsys, runs / "sparse")
    folder = runs / "sparse" / "version_0"
    assert printed[:2] == [f"wrote {folder / 'report.html'}", f"wrote {folder / 'report.json'}"]
    assert [line.partition(":")[0] for line in printed[2:]] == ["left out churn, survived, explored"]
    content = json.loads((folder / "report.json").read_text())
    assert content["facts"]["Seed"] == "0"
    assert "PruneAtInit(method=erk, density=0.05" in " ".join(content["facts"].values())
    assert content["facts"]["Model"].startswith("ImageClassifier(net=LeNet300100(in_features=64")
    costs = {cost["what"]: cost for cost in content["costs"]}
    assert costs["FLOPs, forward"]["dense"] == 2 * (64 * 300 + 300 * 100 + 100 * 10)
    assert costs["FLOPs, forward"]["sparse"] == pytest.approx(2 * 2510)
    (checkpoint,) = folder.rglob("last.ckpt")
    assert costs["Checkpoint on disk"]["sparse"] == checkpoint.stat().st_size
    names = [one["name"] for one in content["latency"]]  # between them, if units are dead, an exported net
    assert (names[0], names[-1]) == ("as it was trained", "dense twin")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert costs["All parameters in memory"]["sparse"] == sum(value.numel() for value in state.values())


def test_the_size_of_the_input(runs, capsys, tmp_path):
    """As of summary: what is asked for must fit, and takes the net."""
    report(capsys, runs / "sparse", "--out", tmp_path, "--input-size", "4,1,8,8")
    costs = {cost["what"]: cost for cost in json.loads((tmp_path / "report.json").read_text())["costs"]}
    assert costs["FLOPs, forward"]["dense"] == 4 * 2 * 50_200
    error = stopped_with(capsys, runs / "sparse", "--out", tmp_path, "--input-size", "4,1,8,7")
    assert error.startswith("error: `--input-size` must be what the net takes, got 4 x 1 x 8 x 7")
    assert error.endswith("Give its whole size.")


def test_runs_beside_each_other(runs, capsys, tmp_path):
    out = tmp_path / "new folder" / "both"
    printed = report(capsys, runs / "sparse", "--compare", runs / "denser", "--out", out)
    assert printed[:2] == [f"wrote {out}.html", f"wrote {out}.json"]
    content = json.loads(Path(f"{out}.json").read_text())
    assert [run["name"] for run in content["runs"]] == ["sparse", "denser"]
    assert [run["kept"] for run in content["runs"]] == [2510, 10040]
    assert [line["label"] for line in content["density"]["lines"]] == ["sparse", "denser"]


def test_a_folder_may_be_named(runs, capsys, tmp_path):
    assert report(capsys, runs / "sparse", "--out", tmp_path)[0] == f"wrote {tmp_path / 'report.html'}"


def test_a_run_without_its_recipe_leaves_out_what_takes_the_net(runs, capsys, tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (checkpoint,) = (runs / "sparse").rglob("last.ckpt")
    (folder / "checkpoints" / "last.ckpt").write_bytes(checkpoint.read_bytes())
    printed = report(capsys, folder)
    said = {line.partition(":")[0]: line for line in printed if line.startswith("left out")}
    assert "no config.yaml" in said["left out model, data and seed"]
    assert "the net cannot be built anew" in said["left out FLOPs and latency"]
    content = json.loads((folder / "report.json").read_text())
    assert [layer["kept"] for layer in content["layers"]] == [1045, 1149, 316]
    (folder / "config.yaml").write_text("model: {class_path: no.such.Class}\nseed_everything: [")
    assert any("config.yaml cannot be read" in line for line in report(capsys, folder))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "error: the following arguments are required: RUN"),
        (["nowhere"], "error: `RUN` must be a folder of one run, got 'nowhere': nothing there."),
        (
            ["{runs}/sparse", "--compare", "nowhere"],
            "error: `RUN` must be a folder of one run, got 'nowhere'",
        ),
        (["{runs}/sparse", "--outt", "x"], "error: unrecognized arguments: --outt"),
        (
            ["{runs}/sparse", "--out", "https://a.b/c.html"],
            "error: `--out` must be a file that can be written",
        ),
    ],
)
def test_mistakes(runs, capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    words = [word.format(runs=runs) for word in words]
    assert stopped_with(capsys, *words).startswith(message)


@pytest.mark.parametrize("kind", ["density", "accuracy", "layers", "churn"])
def test_plots_of_any_run(runs, capsys, tmp_path, kind):
    main(["plot", kind, str(runs / "sparse"), str(runs / "denser"), "--out", str(tmp_path / "plots")])
    printed = capsys.readouterr().out.splitlines()
    if kind == "churn":
        names = ("churn", "survived", "explored")
        assert printed == [f"left out {name}.png: no run has logged {name!r}." for name in names]
        return
    assert printed == [f"wrote {tmp_path / 'plots' / kind}.{ending}" for ending in ("png", "csv")]
