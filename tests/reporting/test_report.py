"""Reports of finished runs: every figure is what a test computes anew from logs and checkpoint."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from asni_toy import CENTROIDS, MASKS, RETRAINED, fixed_state, log, save, search_and_retrain
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from toy import Toy, loader

from lightning_sparse import DCTpSConversion, RigLCallback, SparsityReport, sparsify_
from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.packing import unpack_masks
from lightning_sparse.layers.offsets import NoOffset
from lightning_sparse.layers.offsets.state import offset_state
from lightning_sparse.reporting.page import render_page
from lightning_sparse.reporting.report import build_report, material_of_run, to_json
from lightning_sparse.reporting.report.costs import costs_of_module, costs_of_supports
from lightning_sparse.reporting.report.supports import supports_of_module
from lightning_sparse.reporting.report_files import write_report
from lightning_sparse.reporting.summary import summary

EPOCHS = 3


class Learner(Toy):
    """The toy that also says how often it is right."""

    def validation_step(self, batch, *_):
        out = self.net(batch[0])
        self.log("val/loss", torch.nn.functional.cross_entropy(out, batch[1]))
        self.log("val/acc", (out.argmax(1) == batch[1]).float().mean())


def fit(folder, *callbacks):
    torch.manual_seed(0)
    logger = CSVLogger(folder, name="", version="run")
    runner = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=logger,
        callbacks=[*callbacks, SparsityReport(), ModelCheckpoint()],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    runner.fit(Learner(), loader(), loader())
    return folder / "run"


@pytest.fixture(scope="module")
def rigl(tmp_path_factory):
    callback = RigLCallback(0.1, every_n_steps=2, seed=0)
    return fit(tmp_path_factory.mktemp("rigl"), callback)


@pytest.fixture(scope="module")
def dctps(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("dctps"), DCTpSConversion(0.1))


@pytest.fixture(scope="module", params=["command", "callback"])
def report(request, rigl):
    """Return the report of a run with RigL as plain data, by the command and by the callback."""
    if request.param == "callback":
        return json.loads((rigl / "report.json").read_text())
    return json.loads(to_json(build_report(material_of_run(rigl))))


def columns(run):
    """Return what a CSVLogger wrote: the last value of each epoch, by name."""
    found = {}
    with (run / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for name, cell in row.items():
                if cell and row["epoch"]:
                    found.setdefault(name, {})[row["epoch"]] = float(cell)
    return found


def of_layer(logged, kind, layer):
    """Return what was logged of a layer, in a group apart from totals or beside them."""
    first, slash, rest = kind.partition("/")
    apart = f"{first}_layers/{rest}{slash}{layer}"
    return logged[apart] if apart in logged else logged[f"{kind}/{layer}"]


def checkpoint(run):
    (path,) = run.rglob("*.ckpt")
    return torch.load(path, weights_only=True)


def masks(run):
    return unpack_masks(checkpoint(run)["callbacks"]["RigLCallback"]["masks"])


def lines(chart):
    return {line["label"]: line["points"] for line in chart["lines"]}


def test_metrics_are_those_logged(report, rigl):
    logged = columns(rigl)
    by_key = {chart["key"]: lines(chart) for chart in report["metrics"]}
    assert by_key["accuracy"]["validation"] == pytest.approx(logged["val/acc"])
    assert by_key["loss"]["validation"] == pytest.approx(logged["val/loss"])
    assert by_key["loss"]["training"] == pytest.approx(logged["loss"])


def test_density_is_one_minus_the_logged_sparsity(report, rigl):
    logged, drawn = columns(rigl), lines(report["density"])
    total = {epoch: 1 - value for epoch, value in logged["sparsity/total"].items()}
    assert drawn["all layers"] == pytest.approx(total)
    assert len(total) == EPOCHS
    for layer in ("net.0", "net.6"):  # RigL keeps the number of each layer, which may be logged once
        (density,) = {1 - value for value in of_layer(logged, "sparsity", layer).values()}
        assert drawn[layer] == pytest.approx(dict.fromkeys(total, density))


def test_movements_are_those_logged(report, rigl):
    logged = columns(rigl)
    assert [chart["key"] for chart in report["movements"]] == ["churn", "survived", "explored"]
    for chart in report["movements"]:
        drawn = lines(chart)
        assert drawn["all layers"] == pytest.approx(logged[f"rigl/{chart['key']}"])
        assert drawn["net.6"] == pytest.approx(of_layer(logged, f"rigl/{chart['key']}", "net.6"))


def test_layers_are_those_of_the_masks(report, rigl):
    assert [layer["name"] for layer in report["layers"]] == ["net.0", "net.6"]
    for layer, mask in zip(report["layers"], masks(rigl).values(), strict=True):
        assert layer["kept"] == int(mask.sum())
        assert layer["weights"] == mask.numel()
        assert layer["density"] == pytest.approx(mask.float().mean().item())
        assert layer["without_inputs"] == int((~mask.flatten(1).any(1)).sum())
        assert layer["unread"] == int((~mask.transpose(0, 1).flatten(1).any(1)).sum())


def test_histograms_count_the_kept_weights(report, rigl):
    state = checkpoint(rigl)["state_dict"]
    for drawn, (name, mask) in zip(report["histograms"], masks(rigl).items(), strict=True):
        counts, edges = np.histogram(state[name][mask].double().numpy(), len(drawn["counts"]))
        assert drawn["counts"] == counts.tolist()
        assert drawn["edges"] == pytest.approx(edges.tolist())


def test_pictures_are_the_masks(report, rigl):
    filters, matrix = masks(rigl).values()
    tiles, plain = (np.array(picture["pixels"]) for picture in report["pictures"])
    assert (plain == matrix.numpy()).all()
    assert tiles.shape == (8 * 4 - 1, 3 * 4 - 1)
    for i in range(8):
        for j in range(3):
            assert (tiles[4 * i : 4 * i + 3, 4 * j : 4 * j + 3] == filters[i, j].numpy()).all()
    assert (tiles[3::4] == -1).all()
    assert (tiles[:, 3::4] == -1).all()


def test_costs_are_counted(report, rigl):
    costs = {cost["what"]: cost for cost in report["costs"]}
    kept = [int(mask.sum()) for mask in masks(rigl).values()]
    assert costs["Weights of the sparse layers"]["sparse"] == sum(kept)
    assert costs["Weights of the sparse layers"]["dense"] == 1016
    packed = sum(min(4 * k + n // 8, 8 * k) for k, n in zip(kept, (216, 800), strict=True))
    assert costs["These weights, packed"]["sparse"] == packed
    assert costs["These weights, packed"]["sparse_how"] == "theory"
    if "FLOPs, forward" in costs:  # of the callback, which has the net
        flops = costs["FLOPs, forward"]
        conv, linear = 2 * 216 * 36, 2 * 800
        assert flops["dense"] == conv + linear
        assert flops["sparse"] == pytest.approx(conv * kept[0] / 216 + linear * kept[1] / 800)
        assert (flops["dense_how"], flops["sparse_how"]) == ("measured", "theory")


def test_packed_values_take_what_they_take_in_the_net():
    net = nn.Sequential(nn.Linear(16, 8)).bfloat16()
    sparsify_(net, "random", 0.5)
    packed = costs_of_supports(supports_of_module(net))[1]
    assert (packed.dense, packed.sparse) == (2 * 128, 2 * 64 + 128 // 8)


def test_flops_are_those_of_the_summary():
    """Of weights without a mask too, which count by their zeros."""
    net, inputs = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)), torch.zeros(1, 6)
    nn.init.zeros_(net[0].weight[:3].detach())
    costs, _ = costs_of_module(net, inputs, "")
    flops = summary(net, example_input=inputs).flops
    found = {one.what: (one.dense, one.sparse) for one in costs if one.unit == "FLOPs"}
    assert found["FLOPs, forward"] == (flops.dense.forward, flops.sparse.forward) == (64, 28)
    assert found["FLOPs, forward and backward"] == (flops.dense.training, flops.sparse.training)


def test_the_callback_knows_the_net_itself(rigl):
    report = json.loads((rigl / "report.json").read_text())
    names = [one["name"] for one in report["latency"]]  # between them, if units are dead, an exported net
    assert (names[0], names[-1]) == ("as it was trained", "dense twin")
    assert {"FLOPs, forward", "FLOPs, forward and backward"} <= {cost["what"] for cost in report["costs"]}
    assert not report["left_out"]


def test_the_command_says_what_it_lacks(rigl):
    left_out = {one.what: one.why for one in build_report(material_of_run(rigl)).left_out}
    assert left_out == {"model, data and seed": "the folder has no config.yaml, which LightningCLI writes."}


def test_trained_values_beside_a_dense_part(dctps):
    report = json.loads(to_json(build_report(material_of_run(dctps))))
    state = checkpoint(dctps)["state_dict"]
    assert [layer["kept"] for layer in report["layers"]] == [len(state[f"net.{i}.values"]) for i in (0, 6)]
    assert {layer["stored_as"] for layer in report["layers"]} == {"dct + compact"}
    assert lines(report["density"])["net.0"]["0"] == pytest.approx(report["layers"][0]["density"])
    matrix = np.array(report["pictures"][1]["pixels"])
    assert matrix.ravel().nonzero()[0].tolist() == state["net.6.indices"].tolist()
    assert any(one["what"] == "dead units" for one in report["left_out"])
    live = json.loads((dctps / "report.json").read_text())
    assert live["layers"] == report["layers"]
    assert live["pictures"] == report["pictures"]
    assert live["histograms"] == report["histograms"]


def test_centroids_are_those_of_the_search(tmp_path):
    means = {
        f"centroids/net.{layer}/{sign}": value
        for layer, sign, value in (
            ("a", "plus", 1.5),
            ("a", "minus", -4.0),
            ("b", "plus", 0.375),
            ("b", "minus", 0.0),
        )
    }
    log(tmp_path / "run", 3, {name: lambda _, value=value: value for name, value in means.items()})
    save(tmp_path / "run", 2, RETRAINED, fixed_state())
    report = build_report(material_of_run(tmp_path / "run"))
    expected = [tuple(sorted(pair.tolist())) for pair in CENTROIDS.values()]
    assert [histogram.centroids for histogram in report.histograms] == expected


def test_runs_beside_each_other(rigl, dctps):
    first, other = material_of_run(rigl), material_of_run(dctps)
    report = build_report(first, [other])
    assert [row.name for row in report.runs] == ["1: run", "2: run"]
    for row, run in zip(report.runs, (rigl, dctps), strict=True):
        logged = columns(run)
        assert row.best_accuracy == pytest.approx(max(logged["val/acc"].values()))
        assert row.last_loss == pytest.approx(logged["val/loss"][str(EPOCHS - 1)])
        assert row.epochs == EPOCHS
    accuracy = report.metrics[0]
    assert [line.label for line in accuracy.lines] == ["1: run, validation", "2: run, validation"]
    assert [line.group for line in accuracy.lines] == [0, 1]
    page = render_page(report)
    assert page.count("2: run, validation") == 2  # of accuracy and loss


def test_the_page_needs_nothing_beside_it(rigl):
    page = (rigl / "report.html").read_text()
    assert len(page.encode()) < 300_000
    assert not re.search(r"<script|<link|https?:|@import|url\(", page)
    assert re.findall(r'src="([^;]+);', page) == ["data:image/png"] * 2
    assert "prefers-color-scheme:dark" in page
    figures = re.findall(r"<figure>.*?</figure>", page, re.S)
    assert len(figures) == 2 + 2 + 3 + page.count("Units without connections") // 2 + 2 + 2
    for figure in figures:
        assert re.search(r"<h3>[^<]+</h3>", figure)
        assert re.search(r"<figcaption>[^<]+</figcaption>", figure)


def test_every_cost_on_the_page_says_how_it_is_known(rigl):
    page = (rigl / "report.html").read_text()
    costs = json.loads((rigl / "report.json").read_text())["costs"]
    numbers = [cost[which] for cost in costs for which in ("dense", "sparse") if cost[which] is not None]
    assert len(re.findall(r'class="tag (?:measured|theory)"', page)) == len(numbers)


def test_names_are_text_wherever_they_are(tmp_path):
    nasty = "<script>&\"'</script>"
    masks = {f"{nasty}.weight": MASKS["net.b.weight"]}
    log(tmp_path / "run", 2, {f"{nasty}/val": lambda e: e / 10, f"sparsity/{nasty}": lambda e: 0.5})
    save(tmp_path / "run", 1, {f"{nasty}.weight": torch.ones(2, 2)}, fixed_state(masks, method=nasty))
    page = render_page(build_report(material_of_run(tmp_path / "run")))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 8


@pytest.mark.parametrize("missing", ["checkpoint", "log", "masks", "damage", "no numbers"])
def test_what_is_missing_is_said_in_one_line(tmp_path, missing):
    run = tmp_path / "run"
    value = float("nan") if missing == "no numbers" else 0.5
    if missing != "log":
        log(run, 2, {"sparsity/total": lambda _: value, "val/loss": lambda _: value})
    state = fixed_state() if missing != "masks" else {"ModelCheckpoint": {}}
    if missing == "damage":
        state["PruneAtInit"]["masks"]["net.a.weight"]["crc32"] += 1
    if missing != "checkpoint":
        weights = {name: w * value for name, w in RETRAINED.items()}
        save(run, 1, weights, state)
    report = build_report(material_of_run(run))
    left_out = {one.what: one.why for one in report.left_out}
    all_of_masks = "kept weights, dead units, histograms and masks"
    expected = {
        "checkpoint": (all_of_masks, "the folder has no checkpoint"),
        "log": ("density", "nothing was logged under `sparsity/...`"),
        "masks": (all_of_masks, "holds neither masks nor positions"),
        "damage": (all_of_masks, "mask of 'net.a.weight' is corrupt"),
        "no numbers": ("the histogram of net.a", "its weights are not finite"),
    }
    what, why = expected[missing]
    assert why in left_out[what]
    assert "\n" not in "".join(left_out.values())
    page, data = write_report(report, tmp_path / "out" / "net_0.05")
    assert (page.name, data.name) == ("net_0.05.html", "net_0.05.json")
    assert "nan" not in re.sub(r"<[^>]+>", "", page.read_text()).lower()
    json.loads(data.read_text(), parse_constant=pytest.fail)


def test_neither_logs_nor_checkpoints_are_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SparsityError, match="`RUN` must be a folder of one run, with logs or checkpoints"):
        material_of_run(tmp_path / "empty")
    with pytest.raises(SparsityError, match="nothing there"):
        material_of_run(tmp_path / "nowhere")


def test_a_half_written_checkpoint_leaves_the_earlier_one(tmp_path):
    run = search_and_retrain(tmp_path / "run")
    last = max(run.rglob("*.ckpt"))
    last.write_bytes(last.read_bytes()[:200])
    report = build_report(material_of_run(run))
    assert report.layers[0].kept == 3
    assert any(one.what == "a checkpoint" and last.name in one.why for one in report.left_out)


def test_a_run_that_was_killed_while_it_logged(tmp_path):
    run = search_and_retrain(tmp_path / "run")
    whole = build_report(material_of_run(run)).metrics
    with (run / "metrics.csv").open("a") as file:
        file.write("0.")
    assert build_report(material_of_run(run)).metrics == whole
    with (run / "metrics.csv").open("a") as file:
        file.write("\n1.0,2,3\n")
    report = build_report(material_of_run(run))
    assert (report.metrics, report.layers[0].kept) == ((), 3)
    assert "cannot be read" in next(one.why for one in report.left_out if one.what == "all curves")
    for checkpoint in run.rglob("*.ckpt"):
        checkpoint.unlink()
    with pytest.raises(SparsityError, match="cannot be read"):
        material_of_run(run)


def test_compact_layers_without_a_dense_part_have_dead_units(tmp_path):
    state = {
        "net.values": torch.tensor([1.0, 2.0]),
        "net.indices": torch.tensor([1, 5], dtype=torch.int32),
        "net._extra_state": offset_state(NoOffset(), torch.Size((3, 2))),
    }
    save(tmp_path / "run", 0, state, {"ModelCheckpoint": {}})
    (layer,) = build_report(material_of_run(tmp_path / "run")).layers
    assert (layer.kept, layer.without_inputs, layer.unread, layer.stored_as) == (2, 1, 1, "compact")


def test_large_masks_are_shown_by_blocks_that_keep_the_mean(tmp_path):
    mask = torch.rand(1000, 700, generator=torch.Generator().manual_seed(0)) < 0.1
    save(tmp_path / "run", 0, {"fc.weight": mask.float()}, fixed_state({"fc.weight": mask}))
    (picture,) = build_report(material_of_run(tmp_path / "run")).pictures
    pixels = np.array(picture.pixels)
    assert pixels.shape == (200, 140)
    assert pixels.mean() == pytest.approx(mask.float().mean().item(), rel=1e-3)
    assert pixels[3, 5] == pytest.approx(mask[15:20, 25:30].float().mean().item(), abs=1e-4)


def test_the_input_map_counts_the_connections_of_each_pixel(tmp_path):
    mask = torch.rand(5, 3 * 16 * 16, generator=torch.Generator().manual_seed(0)) < 0.1
    save(tmp_path / "run", 0, {"fc.weight": mask.float()}, fixed_state({"fc.weight": mask}))
    first, _ = build_report(material_of_run(tmp_path / "run")).pictures
    assert np.array(first.pixels).tolist() == mask.sum(0).view(3, 16, 16).sum(0).tolist()


def test_a_run_of_tensorboard_reads_the_same(tmp_path, rigl):
    """Other loggers have other files; what is drawn is the same."""
    shutil.copytree(rigl, tmp_path / "run", ignore=shutil.ignore_patterns("report.*"))
    from pytorch_lightning.loggers import TensorBoardLogger

    logger = TensorBoardLogger(tmp_path, name="", version="run")
    with (rigl / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            values = {name: float(cell) for name, cell in row.items() if cell and name != "step"}
            logger.log_metrics(values, int(row["step"]))
    logger.finalize("success")
    (tmp_path / "run" / "metrics.csv").unlink()
    ours, theirs = (build_report(material_of_run(run)) for run in (tmp_path / "run", rigl))
    for mine, other in zip(ours.metrics, theirs.metrics, strict=True):
        for a, b in zip(mine.lines, other.lines, strict=True):
            assert a.points == pytest.approx(b.points, rel=1e-6)


def test_a_page_of_many_layers_and_epochs_stays_small(tmp_path):
    """The most that there may be: many layers whose values never repeat, and masks without any pattern."""
    noise, epochs = np.random.default_rng(0), 300
    curves = {
        f"{split}/{name}": noise.random(epochs)
        for split in ("train", "val")
        for name in ("acc", "loss", "f1")
    }
    for kind in ("sparsity", "rigl/churn", "rigl/survived", "rigl/explored"):
        curves |= {f"{kind}/blocks.{i}.convolution": noise.random(epochs) for i in range(60)}
        curves[kind] = noise.random(epochs)
    run = tmp_path / "run"
    run.mkdir()
    with (run / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", *curves])
        writer.writerows(
            [epoch, epoch, *(curve[epoch] for curve in curves.values())] for epoch in range(epochs)
        )
    masks = {f"blocks.{i}.convolution.weight": torch.rand(700, 700) < 0.3 for i in range(3)}
    masks |= {f"blocks.{i}.convolution.weight": torch.rand(20, 20) < 0.3 for i in range(3, 60)}
    save(run, 0, {name: torch.randn(mask.shape) * mask for name, mask in masks.items()}, fixed_state(masks))
    page = render_page(build_report(material_of_run(run)))
    assert 100_000 < len(page.encode()) < 300_000
