"""The cells of a sweep as trials of Ray Tune, on one machine or on a cluster that shares a file system."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_sparse.experiments.running import Job, run_job
from lightning_sparse.extras import import_extra

__all__ = ["run_on_ray"]


def run_on_ray(
    jobs: Sequence[Job], out: Path, resources: Mapping[str, float], retry: bool, ended: Callable[[Job], None]
) -> None:
    """Run cells as trials of Ray Tune, as many at once as their resources allow.

    A Ray that runs already is used (``RAY_ADDRESS``, or one that this process has started), else one starts
    on this machine. What comes of a cell is kept in its folder, as without Ray.

    Args:
        jobs: The cells.
        out: Folder of the sweep; Tune's own files go below it.
        resources: What each cell takes: ``{"cpu": 1, "gpu": 0.5}``.
        retry: Whether cells that have failed are run again.
        ended: Called as each cell ends.

    Raises:
        ModuleNotFoundError: If Ray Tune is not installed.
    """
    tune = import_extra("ray.tune", "--ray")
    ray = import_extra("ray", "--ray")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, logging_level="warning")
    by_name = {job.name: job for job in jobs}

    base: Any = tune.Callback

    class Tell(base):  # type: ignore[misc]
        def on_trial_complete(self, *, trial: Any, **_: Any) -> None:
            ended(by_name[trial.config["cell"]])

        def on_trial_error(self, *, trial: Any, **_: Any) -> None:
            ended(by_name[trial.config["cell"]])

    try:
        trial = tune.with_parameters(_trial, jobs=by_name, retry=retry)
        tune.Tuner(
            tune.with_resources(trial, dict(resources)),
            param_space={"cell": tune.grid_search(list(by_name))},
            run_config=tune.RunConfig(
                name=time.strftime("ray-%Y%m%d-%H%M%S"),
                storage_path=str(out.resolve()),
                callbacks=[Tell()],
                verbose=0,
            ),
        ).fit()
    finally:
        if started:
            ray.shutdown()


def _trial(config: dict[str, Any], jobs: Mapping[str, Job], retry: bool) -> None:
    """Run one cell, and report what it logged to Tune."""
    tune = import_extra("ray.tune", "--ray")
    result = run_job(jobs[config["cell"]], retry)
    tune.report({"status": result.status if result else "running", **(result.metrics if result else {})})
