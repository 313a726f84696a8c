"""The nets of one package, each cell in a process of its own."""

import argparse
import contextlib
import importlib
import logging
import math
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.nets.case import Build
from benchmarks.nets.cell import run
from benchmarks.nets.methods import METHODS

FAMILIES = {
    "torchvision": "torchvision",
    "timm": "timm",
    "transformers": "transformers",
    "diffusers": "diffusers",
    "peft": "peft",
    "torch_geometric": "torch-geometric",
    "lightly": "lightly",
    "monai": "monai",
    "segmentation": "segmentation-models-pytorch",
    "chemprop": "chemprop",
    "pytorch_forecasting": "pytorch-forecasting",
    "neuralforecast": "neuralforecast",
    "scvi": "scvi-tools",
    "bolts": "lightning-bolts",
    "optimizers": "torch",
}
"""Modules of ``families``, and the package whose nets they build."""

WAIT = 20  # times the time of the processor: others may use it too


def run_family(family: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Import a package and run its nets, each cell in a fork; in a process of its own."""
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    torch.compiler.set_stance("force_eager")  # some optimizers compile their steps, for minutes
    try:
        package = importlib.import_module(f"benchmarks.nets.families.{family}")
    except ModuleNotFoundError as error:
        print(f"{family}: left out, {error}", flush=True)
        return []
    outcomes = []
    for net, build in package.NETS.items():
        if options.nets and net not in options.nets:
            continue
        with contextlib.suppress(Exception):  # what fails does so again in its cell
            build().module.configure_optimizers()  # packages import much only now
        for method in options.methods or getattr(package, "METHODS", METHODS):
            outcome = {"package": FAMILIES[family], **_forked(net, build, method, options.timeout)}
            outcomes.append(outcome)
            _tell(outcome)
    return outcomes


def _tell(outcome: dict[str, Any]) -> None:
    counts = f"{outcome['kept']}/{outcome['total']}"
    words = (outcome["package"], outcome["net"], outcome["method"], outcome["verdict"], counts)
    print(" | ".join(words), f"| {outcome['seconds']:.1f} s", "; ".join(outcome["texts"]), flush=True)


def _forked(net: str, build: Build, method: str, timeout: float) -> dict[str, Any]:
    """Run a cell in a fork of this process, which has imported what it needs."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=_cell, args=(theirs, net, build, method, Path(folder), timeout))
        process.start()
        theirs.close()
        outcome = {
            "net": net,
            "method": method,
            "verdict": "FAULT",
            "kept": 0,
            "total": 0,
            "parameters": 0,
            "seconds": timeout,
            "texts": [],
        }
        try:
            if ours.poll(WAIT * timeout):
                outcome = ours.recv()
            else:
                outcome["texts"].append(f"not done after {WAIT * timeout:.0f} s of waiting")
        except EOFError:
            process.join()
            slow = process.exitcode == -signal.SIGXCPU
            how = f"used up {timeout:.0f} s" if slow else f"died with exit code {process.exitcode}"
            outcome["texts"].append(f"the process {how}")
        process.kill()
        process.join()
    return outcome


def _cell(pipe: Any, net: str, build: Build, method: str, folder: Path, timeout: float) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(timeout), resource.RLIM_INFINITY))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())
    os.dup2(silence, sys.stderr.fileno())
    pipe.send(asdict(run(net, build, method, folder)))
