"""What a report is made of: from the folder of a finished run, or from a net that was trained here."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.reporting.report.build import Material
from lightning_sparse.reporting.report.content import Cost, LeftOut
from lightning_sparse.reporting.report.costs import costs_of_file, costs_of_module, latency_of
from lightning_sparse.reporting.report.facts import callbacks_in, facts_of_run, read_config, versions
from lightning_sparse.reporting.report.supports import Support, supports_in_checkpoint, supports_of_module
from lightning_sparse.reporting.runs import Curve, find_run, trained_curves

__all__ = ["live_material", "material_of_run", "with_costs"]


def material_of_run(folder: str | Path) -> Material:
    """Read the folder of a run: its logs, its recipe, its last checkpoint.

    Raises:
        SparsityError: If there is no such folder, or it holds several runs, or neither logs nor checkpoints.
    """
    run = find_run(folder)
    left_out = [LeftOut("a checkpoint", f"{reason.rstrip('.')}.") for reason in run.skipped]
    curves: dict[str, Curve] = {}
    try:
        curves = trained_curves(run)
    except (ModuleNotFoundError, SparsityError) as error:
        if not run.checkpoints:
            raise
        left_out.append(LeftOut("all curves", str(error)))
    if not curves and not run.checkpoints:
        raise SparsityError(
            f"`RUN` must be a folder of one run, with logs or checkpoints, got {str(folder)!r}, which has "
            "neither metrics.csv, nor event files of TensorBoard, nor *.ckpt. Name another folder."
        )
    config, why_no_config = read_config(run.folder)
    if why_no_config:
        left_out.append(LeftOut("model, data and seed", f"{why_no_config}."))
    supports: list[Support] = []
    why, costs = "the folder has no checkpoint (`ModelCheckpoint`, not `save_weights_only`).", list[Cost]()
    if run.checkpoints:
        path = run.checkpoints[-1].path
        costs = costs_of_file(path)
        why = f"{path.name} holds neither masks nor positions: the net is dense, or saved without callbacks."
        try:
            supports = supports_in_checkpoint(path)
        except SparsityError as error:
            why = str(error)
    ours = callbacks_in(run, config).values()
    words = ", ".join(one for one in ours if not one.startswith(("ModelCheckpoint", "ExactResume")))
    name = _name(run.folder)
    facts = facts_of_run(run, config)
    return Material(name, curves, facts, words, supports, why, costs, (), left_out)


def live_material(
    module: nn.Module,
    folder: Path,
    curves: Mapping[str, Curve],
    *,
    facts: Mapping[str, str],
    callbacks: str,
    inputs: Any,
    measure: bool,
    others: Mapping[str, nn.Module] | None = None,
) -> Material:
    """Take the material from a net itself; it stays as it is.

    Args:
        module: The net.
        folder: Of the run, whose name it is known by.
        curves: What was logged, by name.
        facts: What was trained.
        callbacks: Its callbacks in words.
        inputs: One input of the net; ``None`` if there is none.
        measure: Whether to measure latency.
        others: More nets to measure, by name, such as exported ones.
    """
    supports = supports_of_module(module)
    why = "" if supports else "the net has no sparse weights: no callback has made any."
    facts = {**facts, "Report made with": versions()}
    material = Material(_name(folder), curves, facts, callbacks, supports, why)
    return with_costs(material, module, inputs, "the batches do not begin with a tensor.", measure, others)


def with_costs(
    material: Material,
    module: nn.Module,
    inputs: Any,
    why_none: str,
    measure: bool = True,
    others: Mapping[str, nn.Module] | None = None,
) -> Material:
    """Return a run's material with what only its net itself can tell.

    Args:
        material: The material.
        module: The net; it stays as it is.
        inputs: One input of the net; ``None`` if there is none.
        why_none: Why there is none, in words.
        measure: Whether to measure latency.
        others: More nets to measure, by name, such as exported ones.
    """
    costs, left_out = costs_of_module(module, inputs, why_none)
    found = latency_of(module, inputs, others) if measure and inputs is not None else []
    if isinstance(found, LeftOut):
        left_out.append(found)
    elif not found:
        left_out.append(LeftOut("latency", why_none if measure else "`latency` is False."))
    return replace(
        material,
        costs=[*material.costs, *costs],
        latency=[] if isinstance(found, LeftOut) else found,
        left_out=[*material.left_out, *left_out],
    )


def _name(folder: Path) -> str:
    """Return the name of a run: its folder's, with the one above it where that is a version.

    >>> _name(Path("runs/quickstart/version_0"))
    'quickstart/version_0'
    """
    path = folder.absolute()
    return f"{path.parent.name}/{path.name}" if path.name.startswith("version_") else path.name
