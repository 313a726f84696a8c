"""A recipe before its first step, with several methods at several densities, each looked at once."""

import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lightning_sparse.callbacks.diagnosing import QUIET, look_at_start
from lightning_sparse.checks import SparsityError
from lightning_sparse.data.labelled import LabelledImages
from lightning_sparse.data.synthetic import SyntheticDataModule
from lightning_sparse.experiments.names import cell_name
from lightning_sparse.experiments.settings import Config
from lightning_sparse.files.writing import whole_file
from lightning_sparse.functional.isolation import left_as_found
from lightning_sparse.reporting.diagnosis import Diagnosis, Statistics
from lightning_sparse.reporting.diagnosis.spectrum import logits_of
from lightning_sparse.trainer.packages import LightningDataModule, LightningModule, Trainer
from lightning_sparse.trainer.parts import called_net

__all__ = ["Build", "Case", "Look", "Looked", "look_at_all"]

Build: TypeAlias = Callable[[Config], tuple[Trainer, LightningModule, LightningDataModule | None]]
"""Builds the objects of a recipe, and seeds as it says."""

BATCHES = 4
"""So many batches of made-up images there are for methods that score by data."""
MADE_UP = "made-up images (a random prototype per class, plus noise)"


@dataclass(frozen=True)
class Look:
    """How nets are looked at.

    Args:
        inputs: ``"data"`` of the recipe, or ``"noise"``: made-up images of the same shape.
        count: Of how many inputs Jacobians are taken.
        statistics: Of batch normalisation in the Jacobian.
        shape: Of one made-up image; ``None``: as the data or the module say.
    """

    inputs: Literal["data", "noise"] = "data"
    count: int = 8
    statistics: Statistics = "running"
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Case:
    """A net to look at.

    Args:
        method: What makes it sparse, as it is called in tables and figures.
        density: Share of its weights that is kept; ``None``: as the recipe says.
        recipe: All of it.
    """

    method: str
    density: float | None
    recipe: Config

    @property
    def name(self) -> str:
        """Of its file."""
        settings = {"method": self.method, **({} if self.density is None else {"density": self.density})}
        return cell_name(settings, {name: name for name in settings})


@dataclass(frozen=True)
class Looked:
    """What came of a case.

    Args:
        case: What was looked at.
        found: What was seen; ``None`` if the method could not make the net sparse.
        seconds: Of CPU that it took.
        error: Why nothing was seen.
        is_old: Whether it was read from a file of an earlier call.
    """

    case: Case
    found: Diagnosis | None
    seconds: float
    error: str = ""
    is_old: bool = False


def look_at_all(
    cases: Sequence[Case], look: Look, out: Path, build: Build, anew: bool = False
) -> Iterator[Looked]:
    """Look at one net after the other, and yield what came of each.

    Each is kept in a file in ``out``, and not looked at again as long as nothing of it has changed. A method
    that fails, as FORCE does where all its scores are zero, does not stop the others.

    Args:
        cases: The nets.
        look: How they are looked at.
        out: Folder of the files.
        build: Builds the objects of a recipe.
        anew: Look at all of them again.
    """
    loaded: dict[str, LabelledImages] = {}
    for case in cases:
        path = out / "cases" / f"{case.name}.json"
        key = _key(case, look)
        old = None if anew else _read(path, key, case)
        if old is not None:
            yield old
            continue
        started = time.process_time()
        found, error = None, ""
        parts = _parts(case, look, build, loaded)  # what is wrong with the recipe is wrong for all
        try:
            found = look_at_start(*parts[:3], look.count, look.statistics, parts[3])
        except SparsityError as refusal:
            error = str(refusal)
        seconds = time.process_time() - started
        content = {"of": key, "seconds": seconds, "error": error, "found": found and found.content()}
        with whole_file(path, ".json") as (unfinished, _):
            unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
        yield Looked(case, found, seconds, error)


def _key(case: Case, look: Look) -> Any:
    """Return what decides the result, as JSON has it."""
    return json.loads(json.dumps({"recipe": case.recipe, "look": asdict(look)}, default=str))


def _read(path: Path, key: Any, case: Case) -> Looked | None:
    """Return what an earlier call has found; ``None`` if there is nothing, or it is of something else."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # half of a file is as good as none
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["of"] == key:
            found = content["found"] and Diagnosis.from_content(content["found"])
            return Looked(case, found, content["seconds"], content["error"], is_old=True)
    return None


def _parts(
    case: Case, look: Look, build: Build, loaded: dict[str, LabelledImages]
) -> tuple[Trainer, LightningModule, LightningDataModule, str]:
    """Return what a fit of the recipe takes, and what its inputs are in words."""
    recipe = copy.deepcopy(case.recipe)
    recipe["trainer"] = {**recipe.get("trainer", {}), **QUIET, "devices": 1}
    trainer, module, data = build(recipe)
    if isinstance(data, LabelledImages):  # read once, or listed: what it draws does not depend on that
        data = loaded.setdefault(json.dumps(recipe["data"], default=str), data)
        if look.inputs == "data":
            _read_in(data)
    if look.inputs == "noise":
        data, source = _made_up(module, data, look.shape), MADE_UP
    elif data is None:
        raise SparsityError(
            "`RECIPE` must name its `data`, got none. Or take made-up images: --inputs noise."
        )
    else:
        source = f"images of the first batch of {type(data).__name__}"
    return trainer, module, data, source


def _read_in(data: LabelledImages) -> None:
    """Read images now, or list their files: no method is to blame where they are missing."""
    try:
        data.prepare_data()
        data.setup("fit")
    except (SparsityError, OSError) as missing:
        raise SparsityError(
            f"{missing} Or take made-up images, which need no data: --inputs noise."
        ) from missing


def _made_up(
    module: LightningModule, data: LightningDataModule | None, shape: tuple[int, ...] | None
) -> SyntheticDataModule:
    """Return images in the shape of the data, without reading these."""
    known = getattr(data, "input_shape", None)  # data of ours know it before anything is loaded
    example = module.example_input_array
    if shape is None and known is None and isinstance(example, Tensor):
        known = tuple(example.shape[1:])
    found = shape or known
    if found is None or len(found) != 3:
        raise SparsityError(
            f"`--inputs` noise needs to know the shape of an image, got {found}. Give --input-size 1,3,32,32."
        )
    if next(module.parameters(), None) is None:
        module.configure_model()
    net = called_net(module, module.parameters(), "give --inputs data")
    with left_as_found(net, training=False), torch.no_grad():
        logits = logits_of(net(torch.zeros(1, *found)))
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise SparsityError(
            f"`--inputs` noise needs a net that returns a number for each class, got {tuple(logits.shape)}. "
            "Give --inputs data."
        )
    batch = getattr(data, "batch_size", 32)
    classes = min(int(logits.shape[1]), batch)
    return SyntheticDataModule(
        found, classes, size=max(classes, BATCHES * batch), batch_size=batch, val_fraction=0.0
    )
