"""Runs in processes of their own: killed and resumed, and two at a time."""

import signal
from pathlib import Path

import forked
import pytest
import torch
from forked import finish
from toy import assert_equal, flat

SCRIPT = Path(__file__).parent / "scripts" / "train.py"
COMPACT = {1568: "dctps", 3136: "dctps-twice"}  # values of 7,840 weights
AS_MASKED = {  # rows of compact storage, and the same under masks
    "compact": "fixed",
    "compact-random": "random",
    "compact-force": "force",
    "compact-rigl": "rigl",
    "compact-set": "set",
}


def start(out, *arguments, ranks=1, cold=False):
    out.mkdir(exist_ok=True)
    arguments = [out, "--processes", ranks, *arguments]
    return forked.start(SCRIPT, *arguments, output=out / "output.txt", ranks=ranks, cold=cold)


def run(out, *arguments, **how):
    code, output = finish(start(out, *arguments, **how))
    assert code == 0, output


def result(out, rank=0):
    return torch.load(out / f"rank{rank}.pt", weights_only=True)


def assert_same(a, b, ranks):
    for rank in range(ranks):
        assert_equal(flat(result(a, rank)), flat(result(b, rank)))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("where", "row", "workers"),
    [
        ("epoch end", "random", 0),
        ("epoch end", "moving", 2),
        ("mid-epoch", "moving", 0),
        ("mid-epoch", "fixed", 2),
        ("mid-epoch", "force", 0),
        ("mid-epoch", "dctps", 0),
        ("mid-epoch", "rigl", 0),
        ("mid-epoch", "set", 0),
        ("mid-epoch", "1:4", 0),
        ("mid-epoch", "dctps-rigl", 0),
        ("mid-epoch", "tuned-gradient", 0),
        ("mid-epoch", "tuned-rigl", 2),
        ("mid-epoch", "compact-rigl", 0),
        ("epoch end", "compact-force-rigl", 2),
        ("mid-epoch", "hyperplane", 0),
        ("epoch end", "asni", 0),
        ("mid-epoch", "asni", 0),
        ("epoch end", "imp", 0),
        ("mid-epoch", "imp", 0),
        ("mid-epoch", "gradual", 0),
    ],
)
def test_killed_and_resumed_is_undisturbed(tmp_path, processes, where, row, workers):
    kill_and_resume(tmp_path, where, row, workers, ranks=processes)


def kill_and_resume(tmp_path, where, row, workers, ranks, cold=False):
    """Four epochs, killed in the third by SIGKILL and resumed: weights, masks, optimizer, generators."""
    batches = 8 // ranks
    common = ["--row", row, "--workers", workers, "--dropout", 0.5, "--shuffle"]
    common += ["--stateful", "--own-sampler", "--save-every", batches + 1] if where == "mid-epoch" else []
    kill = ["--kill-at", 2 * batches + 3, 0]
    whole = start(tmp_path / "whole", *common, ranks=ranks)
    killed = start(tmp_path / "killed", *common, *kill, ranks=ranks, cold=cold)
    assert finish(whole)[0] == 0
    code, output = finish(killed)
    assert code == -signal.SIGKILL, output
    saved = torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == (2 * batches + 2 if where == "mid-epoch" else 2 * batches)
    # Two processes shuffle by Lightning's sampler, which draws from the seed and the epoch alone.
    resume = ["--resume", tmp_path / "killed" / "last.ckpt", "--seed", 99 if ranks == 1 else 7]
    run(tmp_path / "killed", *common, *resume, ranks=ranks, cold=cold)
    assert_same(tmp_path / "whole", tmp_path / "killed", ranks)


def test_a_new_interpreter_killed_and_resumed_ends_where_a_fork_does(tmp_path):
    kill_and_resume(tmp_path, "mid-epoch", "rigl", 0, ranks=1, cold=True)


def test_lightnings_own_launcher_ends_where_two_forks_do(tmp_path):
    common = ["--row", "rigl", "--rank-seeds", "--own-sampler"]
    forks = start(tmp_path / "forks", *common, ranks=2)
    run(tmp_path / "launched", *common, ranks=2, cold=True)
    assert finish(forks)[0] == 0
    assert_same(tmp_path / "forks", tmp_path / "launched", 2)


def test_the_server_that_forks_has_one_thread(tmp_path):
    """Those of others would be missing in its forks, with the locks that they held."""
    script = tmp_path / "script.py"
    script.write_text("import os, sys; print(len(os.listdir(f'/proc/{os.getppid()}/task')), sys.argv[1])")
    assert forked.run(script, "said", output=tmp_path / "output.txt") == "1 said\n"


@pytest.mark.parametrize("row", ["fixed", "moving"])
def test_a_new_process_tests_the_net_that_was_trained(tmp_path, row):
    run(tmp_path, "--row", row, "--epochs", 2)
    run(tmp_path, "--row", row, "--test-only", "--resume", tmp_path / "last.ckpt", "--seed", 99)
    assert torch.load(tmp_path / "metrics.pt") == result(tmp_path)["metrics"]


@pytest.mark.parametrize(
    "row",
    [
        *("fixed", "snip", "grasp", "force", "synflow", "dctps", "rigl", "set", "dctps-rigl", "asni", "imp"),
        "gradual",
        *("tuned", "tuned-gradient", "tuned-rigl", "hyperplane"),
        "compact-force-rigl",
    ],
)
def test_two_processes_are_one_on_the_joint_batch(tmp_path, row):
    one = start(tmp_path / "one", "--row", row, "--batch-size", 16)
    run(tmp_path / "two", "--row", row, "--batch-size", 8, "--rank-seeds", "--own-sampler", ranks=2)
    assert finish(one)[0] == 0
    one, two = result(tmp_path / "one"), result(tmp_path / "two")
    assert_equal(one["masks"], two["masks"])
    assert_equal(two["weights"], result(tmp_path / "two", 1)["weights"])
    for name, value in one["weights"].items():
        torch.testing.assert_close(value, two["weights"][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("row", AS_MASKED)
def test_two_processes_choose_what_masks_would(tmp_path, row):
    """Whatever weights each rank draws: those of rank 0 count, in the choice and from the first step on."""
    rows = {"masked": AS_MASKED[row], "compact": row}
    common = ["--rank-seeds", "--own-sampler", "--epochs", 2]
    started = {name: start(tmp_path / name, "--row", row, *common, ranks=2) for name, row in rows.items()}
    assert [finish(one)[0] for one in started.values()] == [0, 0]
    masked, compact = (result(tmp_path / name) for name in rows)
    assert_equal(masked["masks"], compact["masks"])
    assert_equal(compact["weights"], result(tmp_path / "compact", 1)["weights"])
    for name, mask in masked["masks"].items():
        values = compact["weights"][name.replace(".weight", ".values")]
        torch.testing.assert_close(values, masked["weights"][name][mask], rtol=1e-4, atol=1e-6)


def test_what_processes_exchange_is_proportional_to_the_values(tmp_path):
    """Each collective of a step, with how many numbers it is about: no weight and no support among them."""
    common = ["--rank-seeds", "--count-bytes", "--epochs", 1]
    processes = {k: start(tmp_path / str(k), "--row", row, *common, ranks=2) for k, row in COMPACT.items()}
    for k, process in processes.items():
        assert finish(process)[0] == 0
        alphas_and_biases, buffer_of_the_toy = 2 + 44, 16
        expected = [["gloo:all_reduce", k + alphas_and_biases], ["gloo:broadcast", buffer_of_the_toy]]
        for rank in range(2):
            assert sorted(result(tmp_path / str(k), rank)["sent"]) == expected
        assert_equal(result(tmp_path / str(k))["weights"], result(tmp_path / str(k), 1)["weights"])


@pytest.mark.parametrize("row", ["random", "moving"])
def test_ranks_with_seeds_of_their_own_have_the_same_masks(tmp_path, row):
    """The script compares them after every step."""
    run(tmp_path, "--row", row, "--rank-seeds", "--dropout", 0.5, ranks=2)
    assert_equal(result(tmp_path)["masks"], result(tmp_path, 1)["masks"])


@pytest.mark.parametrize("row", ["unverified", "fixed"])
def test_a_flipped_bit_on_one_rank_is_named(tmp_path, row):
    code, output = finish(start(tmp_path, "--row", row, "--flip-at", 3, 1, ranks=2))
    assert code != 0
    named = (
        "different masks of net.4.weight",
        "`verify`: 'net.4.weight'",
        "pruned weights of 'net.4.weight'",
    )
    assert any(words in output for words in named), output


@pytest.mark.parametrize("row", ["fixed", "rigl"])
def test_weights_written_on_one_rank_are_named(tmp_path, row):
    """Masks are the same, and so is what is logged: `verify` compares weights as well."""
    code, output = finish(start(tmp_path, "--row", row, "--write-at", 3, 1, ranks=2))
    assert code != 0
    assert "The processes have different weights of net.4.bias" in output


@pytest.mark.parametrize("row", ["unverified", "dctps", "hyperplane"])
def test_ranks_that_resume_from_other_files_are_named(tmp_path, row):
    """When training starts, whether anything is verified or not."""
    for seed in (1, 2):
        run(tmp_path / str(seed), "--row", row, "--epochs", 1, "--seed", seed, ranks=2)
    here, there = (tmp_path / str(seed) / "last.ckpt" for seed in (1, 2))
    code, output = finish(
        start(tmp_path, "--row", row, "--resume", here, "--resume-rank-1", there, "--epochs", 2, ranks=2)
    )
    assert code != 0
    named = ("different weights", "and weights of", "different values of theta and the initialisation")
    assert any(words in output for words in named), output
    assert "Resume all of them from the same checkpoint" in output


def test_a_killed_rank_ends_the_run(tmp_path):
    code, output = finish(start(tmp_path, "--kill-at", 3, 1, ranks=2, cold=True))
    assert code != 0, output


def test_spawned_processes_warn_that_masks_stay_behind(tmp_path):
    code, output = finish(start(tmp_path, "--row", "unverified", "--processes", 2, "--strategy", "ddp_spawn"))
    assert code == 0, output
    assert "masks stay in the processes it starts" in output


@pytest.mark.parametrize(
    ("here", "there", "named"),
    [
        ("rigl", "rigl later", ["RigLCallback(every_n_steps=3)", "RigLCallback(every_n_steps=4)"]),
        ("verified", "rigl", ["RigLCallback(verify=True)", "RigLCallback(verify=None)"]),
        ("rigl", "nothing", ["RigLCallback", "no such callback"]),
        ("nothing", "rigl", ["RigLCallback", "no such callback"]),
        ("erk", "set", ["PruneAtInit", "SETCallback"]),
        ("erk and set", "erk", ["SETCallback", "no such callback"]),
        ("dctps", "dctps sparser", ["DCTpSConversion(density=0.2)", "DCTpSConversion(density=0.1)"]),
        ("dctps", "nothing", ["DCTpSConversion", "no such callback"]),
        ("nothing", "dctps", ["DCTpSConversion", "no such callback"]),
        ("monitor", "nothing", ["SparsityMonitor", "no such callback"]),
        ("nothing", "report", ["SparsityReport", "no such callback"]),
        ("nothing", "resume", ["ExactResume", "no such callback"]),
        ("resume and dctps", "nothing", ["ExactResume", "DCTpSConversion", "no such callback"]),
    ],
)
def test_ranks_that_have_other_callbacks_stop_in_the_first_seconds(tmp_path, here, there, named):
    """A rank without callbacks of ours takes part in nothing of ours: the others must not wait for it."""
    script = Path(__file__).parent / "scripts" / "unlike.py"
    code, output = finish(forked.start(script, here, there, output=tmp_path / "output.txt", ranks=2))
    assert code == 1, output
    ends = [line.split(" | ") for line in output.splitlines() if line.startswith("rank ")]
    told = [end for end in ends if "`callbacks` must be the same on every rank" in end[2]]
    assert told, output
    assert all(name in told[0][2] for name in named)
    assert all(rank in told[0][2] for rank in ("on rank 0", "on rank 1"))
    assert all(float(seconds) < 20 for _, seconds, _ in told)  # 3 to 4 on an idle machine


@pytest.mark.parametrize(
    ("here", "there"), [("erk and set", "erk and set"), ("resume and dctps", "dctps and resume")]
)
def test_ranks_with_the_same_callbacks_fit(tmp_path, here, there):
    """In whatever order each lists them."""
    script = Path(__file__).parent / "scripts" / "unlike.py"
    output = forked.run(script, here, there, output=tmp_path / "output.txt", ranks=2)
    assert output.count("| fitted") == 2
