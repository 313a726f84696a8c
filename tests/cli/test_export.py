"""``lightning-sparse export``: runs and bare checkpoints to files."""

import importlib
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from short_runs import DCTPS, MASKED, short_runs
from torch import nn

from lightning_sparse import load_exported, load_from_checkpoint
from lightning_sparse.cli.main import main
from lightning_sparse.cli.nets import trained_net
from lightning_sparse.export import EXPORT_FORMATS, ExportFormat, register_format
from lightning_sparse.layers.dense_state import dense_state_dict
from lightning_sparse.models import ImageClassifier, LeNet300100

cli = importlib.import_module("lightning_sparse.cli.main")  # the package has a function of that name


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder with short runs: masked weights, and layers of DCTpS."""
    return short_runs(tmp_path_factory.mktemp("runs of export"), {"masked": MASKED, "dctps": DCTPS})


@pytest.fixture
def run(runs, tmp_path):
    """Return copies of the runs, of which tests may make what they like."""
    shutil.copytree(runs, tmp_path / "my runs")
    return tmp_path / "my runs"


def checkpoint_of(run):
    (checkpoint,) = run.rglob("*.ckpt")
    return checkpoint


def fresh():
    return ImageClassifier(LeNet300100(in_features=64))


def stopped_with(capsys, *words):
    """Return the one line that a mistake costs."""
    with pytest.raises(SystemExit) as stopped:
        main(["export", *map(str, words)])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_help_lists_the_formats_with_a_line_and_options(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["export", "--help"])
    assert stopped.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, kind in EXPORT_FORMATS.items():
        assert f"--format {name}: {' '.join(kind.__doc__.splitlines()[0].split())}" in said
    for words in ("--offsets OFFSETS how layers of DCTpS are written", "--rounds ROUNDS", "default: 18"):
        assert words in said


@pytest.mark.parametrize("name", ["masked", "dctps"])
def test_a_checkpoint_alone_is_enough_for_a_state_dict(run, name, tmp_path, capsys):
    net = trained_net(run / name).module
    alone = shutil.copy(checkpoint_of(run / name), tmp_path / "epoch=3 v1.2.ckpt")
    main(["export", str(alone), "--format", "dense"])
    main(["export", str(alone), "--format", "safetensors", "--out", str(tmp_path / "new" / "net")])
    dense = torch.load(tmp_path / "epoch=3 v1.2.pt", weights_only=True)
    small = load_exported(tmp_path / "new" / "net.safetensors")
    for state in (dense, small):
        expected = dense_state_dict(net)
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], value) for key, value in expected.items())
        fresh().load_state_dict(state, strict=True)
    said = capsys.readouterr().out
    dense_bytes = sum(value.nbytes for value in dense.values())
    size = os.path.getsize(tmp_path / "new" / "net.safetensors")
    share = size / dense_bytes
    assert f"net.safetensors: {size:,} bytes, {share:.1%} of the {dense_bytes:,} bytes of the dense" in said
    assert f"lightning_sparse.load_exported({str(tmp_path / 'new' / 'net.safetensors')!r})" in said
    assert ("3 layers with a dense part, such as 'net.fcs.0', are written as dense" in said) == (
        name == "dctps"
    )


def test_what_is_exported_is_not_overwritten(run, tmp_path, capsys):
    """The file of the format "dense" has the ending of many saved state dicts."""
    saved = shutil.copy(checkpoint_of(run / "masked"), tmp_path / "net.pt")
    before = Path(saved).read_bytes()
    for words in ((), ("--out", tmp_path / "net"), ("--out", tmp_path / "." / "net.pt")):
        line = stopped_with(capsys, saved, "--format", "dense", *words)
        assert line.startswith("error: `--out` must be another file than the checkpoint, got ")
    assert Path(saved).read_bytes() == before
    assert list(tmp_path.glob("*.pt")) == [tmp_path / "net.pt"]


def test_options_of_a_format(run, tmp_path):
    words = ["export", str(run / "dctps"), "--format", "safetensors", "--out", str(tmp_path / "small")]
    main([*words, "--offsets", "small"])
    expected = dense_state_dict(
        load_from_checkpoint(ImageClassifier, checkpoint_of(run / "dctps"), net=LeNet300100(64))
    )
    state = load_exported(tmp_path / "small.safetensors")
    assert all(torch.equal(state[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", ["masked", "dctps"])
def test_the_net_is_called_with_an_image_of_its_data(run, name, capsys):
    main(["export", str(run / name), "--format", "torch-export"])
    file = checkpoint_of(run / name).with_suffix(".pt2")
    said = capsys.readouterr().out
    assert f"wrote {file}: " in said
    assert f"net = torch.export.load({str(file)!r}).module()\n  net(batch)" in said
    x = torch.randn(5, 1, 8, 8)
    expected = trained_net(run / name).module(x)
    torch.testing.assert_close(torch.export.load(file).module()(x), expected, atol=1e-5, rtol=1e-5)


def test_an_input_size_of_ones_own(run, tmp_path, capsys):
    words = ["export", str(run / "masked"), "--format", "csr", "--rounds", "1", "--out", str(tmp_path / "n")]
    main([*words, "--input-size", "7,1,8,8"])
    said = capsys.readouterr().out
    assert re.search(r"net\.fcs\.0: 64 to 300, density \d\.\d\d%, 7 rows: \d", said)
    assert f"wrote {tmp_path / 'n.csr.pt'}: " in said
    line = stopped_with(capsys, *words[1:], "--input-size", "7,1,8,9")
    assert line.startswith(
        "error: `--input-size` must be what the net takes, got 7 x 1 x 8 x 9, which ends in"
    )


def test_mistakes(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.ckpt").write_bytes(checkpoint_of(run / "masked").read_bytes()[:5000])
    torch.save({"epoch": 3}, tmp_path / "other.ckpt")
    torch.save({"epoch": 3, "weight": torch.ones(2)}, tmp_path / "more.ckpt")
    state = torch.load(checkpoint_of(run / "dctps"), weights_only=True)["state_dict"]
    part = {f"a.{key}": state[f"net.fcs.0.{key}"] for key in ("values", "alpha", "_extra_state")}
    torch.save({"state_dict": part}, tmp_path / "part.ckpt")
    masked, alone = run / "masked", shutil.copy(checkpoint_of(run / "masked"), tmp_path / "alone.ckpt")
    dense = ("--format", "dense")
    for words, message in (
        ((masked,), "the following arguments are required: --format"),
        ((masked, "--format", "onxx"), "argument --format: invalid choice: 'onxx' (choose from"),
        ((masked, *dense, "--oops"), "unrecognized arguments: --oops"),
        (
            (masked, *dense, "--opset", "20"),
            "`--opset` must come with --format onnx, got dense. Leave it out.",
        ),
        (
            (masked, *dense, "--input-size", "1,2"),
            "`--input-size` has no effect with --format dense, got 1,2.",
        ),
        ((masked, "--format", "onnx", "--opset", "x"), "argument --opset: invalid int value: 'x'"),
        ((masked, "--format", "onnx", "--opset", "3"), "`opset` must be an integer of at least 18, got 3."),
        ((masked, *dense, "--out", tmp_path), "`--out` must be a file that can be written, got"),
        ((tmp_path / "nowhere", *dense), "`RUN` must be a folder of one run, got"),
        ((tmp_path / "empty", *dense), "`RUN` must be a folder of one run, with logs and checkpoints"),
        ((tmp_path / "half.ckpt", *dense), "`RUN` '"),
        ((tmp_path / "other.ckpt", *dense), "`RUN` must be a checkpoint or a saved state dict, got"),
        ((tmp_path / "more.ckpt", *dense), "`RUN` must hold a state dict of tensors, got 'epoch': 3."),
        (
            (tmp_path / "part.ckpt", *dense),
            "`RUN` must hold values, positions, shape and offset of the layer 'a'",
        ),
        ((alone, "--format", "torch-export"), "`RUN` must lie in the folder of a run with the config.yaml"),
    ):
        assert stopped_with(capsys, *words).startswith(f"error: {message}"), words
    assert not [*tmp_path.glob("*.pt*"), *run.rglob("*.pt*"), *tmp_path.rglob("unfinished*")]


def test_a_missing_package_is_named(run, monkeypatch):
    monkeypatch.setattr(EXPORT_FORMATS["onnx"], "needs", ("no_such_package",))
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(run / "masked"), "--format", "onnx"])
    assert "for export as 'onnx': pip install no_such_package" in str(stopped.value.code)


def test_a_format_of_a_users_own(run, capsys):
    @register_format
    @dataclass(frozen=True)
    class Sizes(ExportFormat):
        """The sizes of the parameters, as text."""

        name = "sizes"
        suffix = ".txt"
        upper: bool = False
        between: str = field(default=" ", metadata={"help": "what stands between them"})
        table: tuple[str, ...] = ()

        def write(self, module, path):
            assert isinstance(module, ImageClassifier)
            path.write_text(self.between.join(str(p.numel()) for p in module.parameters()))
            return [f"upper: {self.upper}"]

    try:
        main(["export", str(run / "masked"), "--format", "sizes", "--upper", "--between", ","])
        said = capsys.readouterr().out
        assert "upper: True" in said
        assert checkpoint_of(run / "masked").with_suffix(".txt").read_text().startswith("19200,300,")
        with pytest.raises(SystemExit):
            main(["export", "--help"])
        said = " ".join(capsys.readouterr().out.split())
        assert "--upper, --no-upper" in said
        assert "--between BETWEEN what stands between them" in said
    finally:
        del EXPORT_FORMATS["sizes"]


def test_lightning_cli_is_not_needed_for_a_checkpoint(run, monkeypatch):
    def fails():
        raise AssertionError("LightningCLI was loaded")

    monkeypatch.setattr(cli, "cli_module", fails)
    main(["export", str(checkpoint_of(run / "masked")), "--format", "dense"])


def test_tied_weights_and_buffers_of_a_checkpoint(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(40, 40), nn.Linear(40, 40)
            self.b.weight = self.a.weight
            self.norm = nn.BatchNorm1d(40)
            self.register_buffer("mask", torch.eye(4, dtype=torch.bool))

        def get_extra_state(self):
            return torch.tensor([3])

        def set_extra_state(self, state):
            self.state = state

    net = Tied()
    expected = {**net.state_dict(), "norm.type": torch.arange(3), "norm.half": torch.ones(2)}  # odd names
    torch.save({"state_dict": expected}, tmp_path / "net.ckpt")
    main(["export", str(tmp_path / "net.ckpt"), "--format", "safetensors"])
    state = load_exported(tmp_path / "net.safetensors")
    assert state["b.weight"] is state["a.weight"]
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert state.keys() == expected.keys()
