"""``lightning-sparse summary``: what is said of a run, of a checkpoint alone, of masks, and of mistakes."""

import shutil

import pytest
import torch
from short_runs import COMPACT, DCTPS, MASKED, short_runs
from torch import nn

from lightning_sparse import save_masks, sparsify_
from lightning_sparse.cli.main import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder with a run of each storage."""
    runs = {"masked": MASKED, "compact": COMPACT, "dctps": DCTPS}
    return short_runs(tmp_path_factory.mktemp("runs"), runs)


def said(capsys, *words):
    capsys.readouterr()
    main(["summary", *map(str, words)])
    return capsys.readouterr().out


def stopped_with(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(["summary", *map(str, words)])
    assert stopped.value.code == 2
    return capsys.readouterr().err.strip()


def row(text, name):
    (line,) = (line.split() for line in text.splitlines() if line.split()[:1] == [name])
    return line


@pytest.mark.parametrize(
    ("name", "storage", "stored", "forward"),
    [
        ("masked", "masked", 50_200 * 4 + 50_200 // 8, 5_020),
        ("compact", "compact", 2_510 * 8, 5_020),
        ("dctps", "dct + compact", 2_510 * 8, None),
    ],
)
def test_a_run(runs, capsys, name, storage, stored, forward):
    text = said(capsys, runs / name)
    total = row(text, "total")
    assert total[1:4] == ["50,200", "2,510", "5.0000%"]
    assert " ".join(total[4:-3]) == storage
    assert total[-3:-1] == [f"{stored:,}", "100,400"]
    (checkpoint,) = (runs / name).rglob("*.ckpt")
    assert f"{checkpoint.stat().st_size:,} in all." in text
    assert "FLOPs of the whole net, input 1 x 1 x 8 x 8" in text  # of the run's data
    assert f"Read: {checkpoint} (checkpoint, epoch 0 (from 0), step 2)." in text
    assert f"Made sparse by {'DCTpSConversion' if name == 'dctps' else 'PruneAtInit'}(" in text
    assert text.splitlines()[-1].startswith(f"Next: lightning-sparse export {checkpoint}")
    if forward is not None:
        assert total[-1] == f"{forward:,}"
    assert said(capsys, checkpoint) == text


@pytest.mark.parametrize("size", ["4,1,8,8", "[4, 1, 8, 8]"])
def test_the_size_of_the_input(runs, capsys, size):
    assert row(said(capsys, runs / "masked", "--input-size", size), "total")[-2:] == ["401,600", "20,080"]


def test_a_checkpoint_alone(runs, tmp_path, capsys):
    """No FLOPs, and all else as with the recipe beside it."""
    (checkpoint,) = (runs / "masked").rglob("*.ckpt")
    alone = shutil.copy(checkpoint, tmp_path / "an epoch=0.ckpt")
    text = said(capsys, alone)
    assert row(text, "total") == row(said(capsys, checkpoint), "total")[:-2]
    assert "FLOPs are not counted: `PATH` must lie in the folder of a run" in text
    error = stopped_with(capsys, alone, "--input-size", "1,1,8,8")
    assert error.startswith("error: `--input-size` needs the net itself to count FLOPs: `PATH` must lie")


def test_a_run_that_was_killed_while_it_saved(runs, tmp_path, capsys):
    """What cannot be read is named; the last whole checkpoint is taken."""
    run = shutil.copytree(runs / "masked" / "version_0", tmp_path / "run")
    (checkpoint,) = run.rglob("*.ckpt")
    (checkpoint.parent / "last.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    text = said(capsys, run)
    assert f"Read: {checkpoint} " in text
    assert "Left out: last.ckpt cannot be read: `RUN`" in text


def test_masks_and_state_dicts(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = nn.Linear(8, 8)
    sparsify_(net, "random", 0.5)
    save_masks(net, "masks.pt")
    torch.save(net.state_dict(), "state.pt")
    text = said(capsys, "masks.pt")
    assert row(text, "total")[1:] == ["64", "32", "50.0000%", "masked", "8"]
    assert 'Next: PruneAtInit(FromFile("masks.pt"))' in text
    assert row(said(capsys, "state.pt"), "total")[1:] == ["64", "32", "50.0000%", "dense", "256"]


def test_mistakes(runs, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("no file of ours")
    (tmp_path / "empty").mkdir()
    for words, message in {
        ("nowhere.pt",): "error: `PATH` must be a file, got 'nowhere.pt', which does not exist.",
        (tmp_path / "text.txt",): "error: `PATH` '",
        (tmp_path / "empty",): "error: `RUN` must be a folder of one run, with logs and checkpoints",
        (runs / "masked", "--input-size", "x"): "error: argument --input-size/--input_size: must be integers",
        (
            runs / "masked",
            "--input-size",
            "1,1,7,8",
        ): "error: `--input-size` must be what the net takes, got 1 x 1",
    }.items():
        assert stopped_with(capsys, *words).startswith(message)
