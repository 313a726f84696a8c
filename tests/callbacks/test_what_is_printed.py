"""The tables and the last lines of a fit: what is printed when, and what is not printed twice."""

import re
import shlex
from pathlib import Path

import forked
import pytest
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from toy import loader, make_toy, trainer

from lightning_sparse import (
    ASNISigmoidPruner,
    DCTpSConversion,
    ExactResume,
    GradualMagnitudePruning,
    IterativeMagnitudePruning,
    PruneAtInit,
    RigLCallback,
    SparsityMonitor,
)
from lightning_sparse.reporting.stored import read_net

SAME = "% of the weights kept, as in the table above."


def printed(capsys, tmp_path, *callbacks, module=None, runner=None, **arguments):
    """Fit, and return what of the output is ours: titles of tables, and the lines at the end."""
    arguments = {"enable_model_summary": True, **arguments}
    runner = runner or trainer(tmp_path, *callbacks, **arguments)
    capsys.readouterr()
    runner.fit(module or make_toy(), loader(), loader(2))
    return ours(capsys.readouterr().out)


def ours(text):
    found = re.findall(
        r"^(Weights kept.*:|Trained values.*:|.*% of the .*|Checkpoint .*|No check.*|Next: .*)$", text, re.M
    )
    return [line for line in found if "Dense and not counted" not in line]


def ends(lines):
    return [line for line in lines if line.startswith(("Checkpoint", "No checkpoint", "Next"))]


@pytest.mark.parametrize("monitor", [[], [SparsityMonitor()]], ids=["alone", "monitored"])
@pytest.mark.parametrize("callback", [PruneAtInit("erk", 0.1), RigLCallback(0.1, every_n_steps=3)])
def test_nothing_is_said_twice(tmp_path, capsys, callback, monitor):
    lines = printed(capsys, tmp_path, callback, *monitor)
    assert lines == [
        "Weights kept:",
        f"10.0394{SAME}",
        "No checkpoint was saved. In Python: lightning_sparse.summary(module).",
    ]


def test_converted_layers_in_their_own_words(tmp_path, capsys):
    lines = printed(capsys, tmp_path, DCTpSConversion(0.1))
    assert lines[1] == "10.0394% of the entries trained, as in the table above."


@pytest.mark.parametrize(
    ("callback", "epoch"),
    [
        (
            ASNISigmoidPruner(0.1, search_epochs=3),
            1,
        ),  # after which it is trained once more before the search ends
        (IterativeMagnitudePruning(0.1, rounds=2, epochs_per_round=1), 1),
        (GradualMagnitudePruning(0.1, stop=6, every_n_steps=2), 1),
    ],
)
def test_a_table_when_the_net_has_become_sparse(tmp_path, capsys, callback, epoch):
    class Ends(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            print(f"epoch {trainer.current_epoch}")

    text = []
    runner = trainer(tmp_path, callback, Ends(), max_epochs=4, enable_model_summary=True)
    capsys.readouterr()
    runner.fit(make_toy(), loader(), loader(2))
    text = capsys.readouterr().out
    assert ours(text)[:3] == ["Weights kept:", "Weights kept after the last pruning:", f"10.0394{SAME}"]
    assert text.index("last pruning") < text.index(f"epoch {epoch + 1}")
    assert text.index("last pruning") > text.index(f"epoch {epoch - 1}")


def test_a_table_at_the_end_if_something_has_changed(tmp_path, capsys):
    lines = printed(
        capsys, tmp_path, IterativeMagnitudePruning(0.1, rounds=3, epochs_per_round=1), max_epochs=4
    )
    assert lines[-2] == f"10.0394{SAME}"
    short = IterativeMagnitudePruning(0.1, rounds=3, epochs_per_round=1)
    with pytest.warns(UserWarning, match="needs 4 epochs"):
        lines = printed(capsys, tmp_path, short, max_epochs=3)
    assert lines[:2] == ["Weights kept:", "Weights kept at the end of fit:"]


def test_a_switched_off_model_summary_switches_all_off(tmp_path, capsys):
    for callback in (PruneAtInit("erk", 0.1), ASNISigmoidPruner(0.1, search_epochs=2)):
        assert printed(capsys, tmp_path, callback, max_epochs=3, enable_model_summary=False) == []


@pytest.mark.parametrize("save", [{"save_last": True}, {"monitor": "val_loss"}, {"filename": "a b"}])
def test_the_checkpoint_and_the_next_command(tmp_path, capsys, save, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saves = ModelCheckpoint("runs", **save)
    lines = ends(printed(capsys, tmp_path, PruneAtInit("erk", 0.1), saves, enable_checkpointing=True))
    chosen = saves.best_model_path if "monitor" in save else saves.last_model_path or saves.best_model_path
    which = "best by val_loss" if "monitor" in save else "last"
    path = shlex.quote(chosen.removeprefix(f"{tmp_path}/"))
    assert lines == [f"Checkpoint ({which}): {path}", f"Next: lightning-sparse summary {path}"]
    assert read_net(shlex.split(lines[1])[-1]).net.total.kept == 102


def test_a_second_fit_and_a_resumed_one(tmp_path, capsys):
    toy, callback = make_toy(), PruneAtInit("erk", 0.1)
    first = printed(capsys, tmp_path, callback, module=toy)
    assert printed(capsys, tmp_path, callback, module=toy) == first
    saves = ModelCheckpoint(tmp_path, save_last=True)
    arguments = {"enable_checkpointing": True, "enable_model_summary": True}
    trainer(tmp_path, PruneAtInit("erk", 0.1), ExactResume(), saves, **arguments).fit(make_toy(), loader())
    capsys.readouterr()
    more = trainer(
        tmp_path,
        PruneAtInit("erk", 0.1),
        ExactResume(),
        ModelCheckpoint(tmp_path / "b"),
        max_epochs=3,
        **arguments,
    )
    more.fit(make_toy(), loader(), ckpt_path=str(tmp_path / "last.ckpt"))
    lines = ours(capsys.readouterr().out)
    assert lines[:2] == ["Weights kept:", f"10.0394{SAME}"]
    assert lines[2].startswith(f"Checkpoint (last): {tmp_path / 'b'}")


@pytest.mark.parametrize(
    "arguments", [{"fast_dev_run": True}, {"max_epochs": 0}, {"max_steps": 1, "max_epochs": -1}]
)
def test_short_fits(tmp_path, capsys, arguments):
    lines = printed(capsys, tmp_path, PruneAtInit("erk", 0.1), **arguments)
    if arguments.get("max_epochs") == 0:
        assert lines == []  # training did not start
    else:
        assert len(lines) == 3
        assert lines[1] == f"10.0394{SAME}"


class Fails(Callback):
    def on_train_batch_end(self, *_):
        raise RuntimeError("stop")


def test_after_an_error_nothing_is_claimed(tmp_path, capsys):
    with pytest.raises(RuntimeError, match="stop"):
        printed(capsys, tmp_path, PruneAtInit("erk", 0.1), Fails())
    assert ours(capsys.readouterr().out) == ["Weights kept:"]


def test_the_monitor_alone_counts_what_others_prune(tmp_path, capsys):
    class Cuts(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            with torch.no_grad():
                pl_module.net[6].weight[:2] = 0

    lines = printed(capsys, tmp_path, SparsityMonitor(), Cuts())
    assert lines[:2] == ["Weights kept:", "Weights kept at the end of fit:"]


def test_two_processes_speak_with_one_voice(tmp_path):
    """And a switch that only one of them has is an error, rather than a wait for ever."""
    script = Path(__file__).parents[1] / "scripts" / "tell.py"
    said = forked.run(script, tmp_path, output=tmp_path / "output.txt", ranks=2)
    first, _, second = said.partition(" says: ")
    titles = [line for line in ours(first) if line.startswith("Weights")]
    assert titles == ["Weights kept:", "Weights kept after the last pruning:"]
    assert len(ends(ours(first))) == 2
    logged = re.findall(r"rank \d logged (.*)", said)
    assert len(logged) == 2
    assert len(set(logged)) == 1
    assert "per_layer" in second
