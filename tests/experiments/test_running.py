"""Cells in processes, which are faked here: what is run again, from where, and what is kept of it."""

import json
import os
import signal
import sys
import time
import zipfile

import forked
import pytest

from lightning_sparse.checks import SparsityError
from lightning_sparse.experiments import running
from lightning_sparse.experiments.folders import DONE, FAILED, CellFolder
from lightning_sparse.experiments.jobs import changed_jobs, clear, jobs_of, refuse_wrong, unfinished
from lightning_sparse.experiments.running import Job, run_all, run_job, start_process, threads_of
from lightning_sparse.experiments.sweeps import read_sweep

EXACT = {"trainer": {"callbacks": [{"class_path": "lightning_sparse.ExactResume"}]}}


def job_in(folder, recipe=EXACT):
    return Job("a", folder / "a", recipe, {"seed_everything": 0}, folder, {})


class Faked:
    """Ends as it is told to, after it has written what is asked for."""

    def __init__(self, status=0, said="", checkpoint=False):
        self.status, self.said, self.checkpoint, self.words = status, said, checkpoint, []

    def __call__(self, job, words, lock):
        self.words.append(list(words))
        os.fstat(lock)
        with CellFolder(job.folder).log.open("a") as log:
            log.write(self.said)
        if self.checkpoint:
            place = job.folder / "run" / "checkpoints"
            place.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(place / "last.ckpt", "w") as file:
                file.writestr("a", "b")
        if self.status == 0:
            CellFolder(job.folder).metrics.write_text('{"test/acc": 0.5, "loss": Infinity}')
        return self.status


def test_a_finished_cell_is_not_run_again(tmp_path):
    start = Faked()
    first = run_job(job_in(tmp_path), start=start)
    assert (first.status, first.metrics) == (DONE, {"test/acc": 0.5, "loss": float("inf")})
    assert first.seconds is not None
    assert run_job(job_in(tmp_path), retry=True, start=start) == first
    assert start.words == [["--config", str(tmp_path / "a" / "recipe.yaml")]]


def test_a_failed_cell_keeps_the_end_of_its_log_and_the_others_are_run(tmp_path):
    start = Faked(1, "".join(f"line {n}\n" for n in range(99)))
    other = Job("b", tmp_path / "b", EXACT, {}, tmp_path, {})
    found = list(run_all([job_in(tmp_path), other], start=start))
    assert [result.status for _, result in found] == [FAILED, FAILED]
    assert found[0][1].error.splitlines() == [f"line {n}" for n in range(69, 99)]
    run_job(job_in(tmp_path), start=start)
    assert len(start.words) == 2
    assert run_job(job_in(tmp_path), retry=True, start=Faked()).status == DONE


def test_a_killed_cell_says_so_and_goes_on_from_its_checkpoint(tmp_path):
    killed = Faked(-signal.SIGKILL, "training\n", checkpoint=True)
    found = run_job(job_in(tmp_path), start=killed)
    assert found.error == "training\nkilled by SIGKILL (out of memory?)"
    again = Faked()
    result = run_job(job_in(tmp_path), retry=True, start=again)
    checkpoint = tmp_path / "a" / "run" / "checkpoints" / "last.ckpt"
    assert again.words[0][2:] == ["--ckpt_path", str(checkpoint)]
    assert result.seconds is None  # nobody measured the whole of it
    assert (tmp_path / "a" / "log.txt").read_text() == "training\n"


def test_a_process_that_ends_before_its_fit_has_not_finished_the_cell(tmp_path):
    """Whatever it says of itself, and whatever an earlier one has left."""
    run_job(job_in(tmp_path), start=Faked(1))
    (tmp_path / "a" / "metrics.json").write_text('{"test/acc": 0.5}')
    found = run_job(job_in(tmp_path), retry=True, start=lambda job, words, lock: 0)
    assert (found.status, found.error) == (FAILED, "it ended before its fit had")


def test_a_cell_that_is_run_once_more_has_no_result_in_the_meantime(tmp_path):
    run_job(job_in(tmp_path), start=Faked(1, checkpoint=True))
    seen = []
    run_job(job_in(tmp_path), True, lambda job, *_: seen.append(CellFolder(job.folder).result()) or 1)
    assert seen == [None]


def test_without_exact_resume_a_killed_cell_begins_anew(tmp_path):
    job = job_in(tmp_path, {"trainer": {"callbacks": [{"class_path": "Other"}]}})
    run_job(job, start=Faked(-9, "training\n", checkpoint=True))
    again = Faked()
    assert run_job(job, retry=True, start=again).seconds is not None
    assert "--ckpt_path" not in again.words[0]
    assert not (tmp_path / "a" / "run").exists()


def test_what_another_process_runs_is_left_alone(tmp_path):
    with CellFolder(tmp_path / "a").locked():
        assert run_job(job_in(tmp_path), start=Faked()) is None


def test_a_child_holds_the_cell_after_its_parent_was_killed(tmp_path):
    """Otherwise a second sweep would write into the folder beside it."""
    script = tmp_path / "script.py"
    script.write_text("""
from pathlib import Path
from lightning_sparse.experiments import running
running.FIT = ("sh", "-c", "touch up; sleep 60")
running.run_job(running.Job("a", Path("a"), {}, {}, Path.cwd(), {}))
""")
    started = forked.start(script, output=tmp_path / "output.txt")
    (parent,) = started.processes
    try:
        assert waited_for((tmp_path / "up").exists)
        parent.kill()
        parent.join()
        assert CellFolder(tmp_path / "a").is_running()
    finally:
        forked.signalled(parent, signal.SIGKILL)
    assert waited_for(lambda: not CellFolder(tmp_path / "a").is_running())


def waited_for(condition):
    """Wait until a condition holds, and tell whether it does."""
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_a_process_gets_its_folder_and_its_variables(tmp_path, monkeypatch):
    show = "import os, sys, json; print(json.dumps([os.getcwd(), sys.argv[1:], dict(os.environ)]))"
    monkeypatch.setattr(running, "FIT", (sys.executable, "-c", show))
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    job = Job("a", tmp_path / "a", EXACT, {}, tmp_path, {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": None})
    run_job(job, start=start_process)
    folder, words, variables = json.loads((tmp_path / "a" / "log.txt").read_text())
    assert folder == str(tmp_path)
    assert words == ["--config", str(tmp_path / "a" / "recipe.yaml")]
    assert variables["OMP_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in variables


def test_threads_are_said_even_if_they_are_the_environments(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert threads_of(None) == {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": None}
    assert threads_of(4) == {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"}


# From cells to jobs.

SWEEP = "recipe: a\nset: {model.lr: 1}\ngrid: {model.width: [1, 2], seed_everything: [0, 1, 2]}\n"


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(SWEEP)
    asked = []

    def compose(configs):
        asked.append(configs)
        return {**EXACT, "model": {"class_path": "Net"}}

    sweep = read_sweep("s.yaml")
    made = jobs_of(sweep, sweep.cells, compose, lambda item: ())
    assert asked == [("a",)]
    return made


def test_jobs_have_recipes_of_their_own(jobs):
    assert [job.recipe["model"]["init_args"] for job in jobs] == [
        {"lr": 1, "width": width} for width in (1, 2) for _ in range(3)
    ]
    assert [job.recipe["seed_everything"] for job in jobs] == 2 * [0, 1, 2]


def test_what_is_left_to_do(jobs):
    run_job(jobs[0], start=Faked())
    run_job(jobs[1], start=Faked(1))
    assert unfinished(jobs, retry=False) == jobs[2:]
    assert unfinished(jobs, retry=True) == jobs[1:]


def test_changed_settings_are_refused_before_anything_is_lost_or_run_anew(jobs):
    run_job(jobs[0], start=Faked())
    assert changed_jobs(jobs, anew=False) == []
    jobs[0].recipe["model"]["init_args"]["lr"] = 2
    with pytest.raises(SparsityError, match=r"`model.init_args.lr` was 1, and is 2.*--anew"):
        changed_jobs(jobs, anew=False)
    assert changed_jobs(jobs, anew=True) == jobs[:1]
    assert CellFolder(jobs[0].folder).result()
    clear(jobs[:1])
    assert unfinished(jobs, retry=False) == jobs


def test_each_value_is_checked_once_and_the_cell_is_named(jobs):
    checked = []
    refuse_wrong(jobs, lambda recipe: checked.append(recipe["model"]["init_args"]["width"]))
    assert checked == [1, 1, 1, 2]

    def refuse(recipe):
        if recipe["model"]["init_args"]["width"] == 2:
            raise SparsityError("`width` must be 1, got 2.")

    with pytest.raises(SparsityError, match=r"^width=2,seed=0: `width` must be 1, got 2\.$"):
        refuse_wrong(jobs, refuse)
