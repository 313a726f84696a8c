"""A sweep as its file describes it: which cells there are, and what each of them sets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from lightning_sparse.checks import near, shown
from lightning_sparse.experiments.content import mapping_in, read_content, refusal, setting_of
from lightning_sparse.experiments.names import cell_name, in_words, short_names

__all__ = ["SEED", "VARIANT", "Cell", "Sweep", "read_sweep"]

SEED = "seed_everything"
VARIANT = "variant"
WITHOUT = "without"
_OF_FILES = ("recipe", "overlays")
COLUMNS = (
    *("seconds", "status", "folder"),
    *("metric", "mean", "deviation", "runs", "failed", "cells"),
    *("against", "difference", "low", "high", "pairs"),
)
"""What the tables call what is no setting: no setting is called so."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Args:
        name: Of its folder.
        settings: What tells it from the other cells, by key.
        configs: The recipe and the overlays behind it, as `--config` takes them.
        changes: All that is set in the recipe, by key; it holds the settings too.
    """

    name: str
    settings: dict[str, Any]
    configs: tuple[str, ...]
    changes: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """Many runs of a recipe.

    Args:
        path: The file that describes it.
        out: The folder that its cells have their folders in.
        cells: In the order of the file.
        names: What each key of the settings is called, in the order of columns.
        metrics: What is tabled; the first is drawn.
        compare: The key whose values are compared with each other; ``None``: nothing is.
        against: The value that the others are compared with.
        threads: Threads of each run; ``None``: as the environment says.
        resources: What a run needs, for Ray.
    """

    path: Path
    out: Path
    cells: tuple[Cell, ...]
    names: dict[str, str]
    metrics: tuple[str, ...]
    compare: str | None
    against: Any
    threads: int | None
    resources: dict[str, float]

    def shard(self, number: int = 1, count: int = 1) -> tuple[Cell, ...]:
        """Return the cells of one of so many equal shares, counted from 1, in the order to run them.

        Seed by seed: what a sweep has done when it is stopped is then whole, but for some seeds.
        """
        seeds = list(dict.fromkeys(repr(cell.settings.get(SEED)) for cell in self.cells))
        cells = sorted(self.cells, key=lambda cell: seeds.index(repr(cell.settings.get(SEED))))
        return tuple(cells[number - 1 :: count])


def read_sweep(
    path: str | Path, settings: Sequence[str] = (), out: str | None = None, against: str | None = None
) -> Sweep:
    """Read a sweep file.

    Args:
        path: A file in YAML.
        settings: ``KEY=VALUE`` each, in addition to its `set`.
        out: In the place of its `out`.
        against: In the place of its `against`.

    Raises:
        SparsityError: If it is not there, is no YAML, has a key that is not known, a list without values,
            or two cells that are the same.
        ModuleNotFoundError: If PyYAML is not installed.
    """
    path = Path(path)
    content = read_content(path)
    content["set"] = mapping_in(path, "set", content.get("set", {})) | dict(map(setting_of, settings))
    content |= {key: given for key, given in (("out", out), ("against", against)) if given is not None}
    cells = list(_cells(content, path))
    if not cells:
        raise refusal(path, "have cells", "none. Write a `grid`, such as `grid: {seed_everything: [0, 1]}`.")
    keys = list(dict.fromkeys(key for settings, _, _ in cells for key in settings))
    keys.sort(key=lambda key: (key != VARIANT, key == SEED))  # seeds last: they are the repetitions
    metric = content.get("metric", "test/acc")
    metrics = tuple(metric) if isinstance(metric, list) else (metric,)
    names = short_names(keys, (*COLUMNS, *metrics))
    made = [
        Cell(
            cell_name({key: settings[key] for key in keys if key in settings}, names),
            settings,
            configs,
            changes,
        )
        for settings, configs, changes in cells
    ]
    _refuse_same(path, made)
    compare = _compared(content, names, made, path)
    return Sweep(
        path=path,
        out=Path(content.get("out", Path("sweeps") / path.stem)),
        cells=tuple(made),
        names=names,
        metrics=metrics,
        compare=compare,
        against=_against(content, compare, made, path),
        threads=content.get("threads"),
        resources=content.get("resources", {"cpu": content.get("threads", 1)}),
    )


def _cells(
    content: Mapping[str, Any], path: Path
) -> Iterator[tuple[dict[str, Any], tuple[str, ...], dict[str, Any]]]:
    """Return settings, configs and changes of each cell: the grid, for every variant, then the list."""
    grid = mapping_in(path, "grid", content.get("grid", {}))
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise refusal(path, f"have a list of values at `grid`: `{key}`", f"{shown(values)}.")
    variants = mapping_in(path, "variants", content.get("variants", {}))
    spelled_out = []
    if variants or grid:
        for name, bundle in (variants or {"": None}).items():
            given = dict(mapping_in(path, f"variants: {name}", bundle or {}))
            known = {VARIANT: name} if name else {}
            axes = _axes(path, name, grid, given.pop(WITHOUT, []))
            spelled_out += [
                (known | (point := dict(zip(axes, values, strict=True))), given | point)
                for values in product(*axes.values())
            ]
    for number, entry in enumerate(content.get("list", []), 1):
        settings = mapping_in(path, f"list, entry {number}", entry)
        spelled_out.append((settings, {key: value for key, value in settings.items() if key != VARIANT}))
    for settings, own in spelled_out:
        changes = content["set"] | own
        files = {key: changes.pop(key, content.get(key)) for key in _OF_FILES}
        yield settings, _configs(path, files), changes


def _axes(path: Path, variant: str, grid: dict[str, Any], without: Any) -> dict[str, Any]:
    """Return the grid of a variant: without the keys that it leaves out."""
    names = [without] if isinstance(without, str) else without
    if not isinstance(names, list) or not set(map(str, names)) <= grid.keys():
        rule = f"have keys of the grid at `variants: {variant}: {WITHOUT}`"
        raise refusal(path, rule, f"{shown(without)}. It has {', '.join(grid) or 'none'}.")
    return {key: values for key, values in grid.items() if key not in names}


def _configs(path: Path, files: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the recipe and its overlays: from beside the sweep file if they lie there, else as given."""
    if not files["recipe"]:
        raise refusal(path, "name a `recipe`", "none. It is the file that `fit --config` would take.")
    overlays = files["overlays"] or []
    given = [files["recipe"], *([overlays] if isinstance(overlays, str) else overlays)]
    if not all(isinstance(name, str) for name in given):
        raise refusal(path, "name files in `recipe` and `overlays`", f"{shown(given)}.")
    beside = [path.parent / name for name in given]
    return tuple(
        str(file.resolve()) if file.is_file() else name for file, name in zip(beside, given, strict=True)
    )


def _refuse_same(path: Path, cells: Sequence[Cell]) -> None:
    """Refuse cells that say the same, or would share a folder, also where case makes no difference."""
    found: dict[str, Cell] = {}
    for cell in cells:
        other = found.setdefault(cell.name.lower(), cell)
        if other is cell:
            continue
        if other.settings == cell.settings:
            raise refusal(path, "have each cell once", f"{cell.name} twice. Leave one of them out.")
        raise refusal(path, "give each cell a name of its own", f"two that are called {cell.name}.")


def _compared(
    content: Mapping[str, Any], names: Mapping[str, str], cells: Sequence[Cell], path: Path
) -> str | None:
    """Return the key to compare: as the file says, else the first whose values are no numbers."""
    if "compare" in content:
        asked = content["compare"]
        found = [key for key, name in names.items() if asked in (key, name)]
        if not found:
            rule = f"name one of {', '.join(names.values())} at `compare`"
            raise refusal(path, rule, f"{asked!r}{near(asked, names.values()) or '.'}")
        return found[0]
    for key in names:
        values = {repr(cell.settings.get(key)) for cell in cells}
        numbers = all(isinstance(cell.settings.get(key, 0), int | float) for cell in cells)
        if key != SEED and len(values) > 1 and not numbers:
            return key
    return None


def _against(content: Mapping[str, Any], compare: str | None, cells: Sequence[Cell], path: Path) -> Any:
    """Return the value that others are compared with: as the file says, else one that has all settings."""
    values = [cell.settings[compare] for cell in cells if compare in cell.settings] if compare else []
    if "against" not in content:
        return _with_most_counterparts(compare, cells) if compare else None
    if compare is None:
        got = f"{shown(content['against'])} alone: all settings are numbers. Name one at `compare`."
        raise refusal(path, "say what is compared if it has `against`", got)
    found = [value for value in values if content["against"] in (value, in_words(value))]
    if not found:
        raise refusal(
            path,
            f"name a value of `{compare}` at `against`",
            f"{shown(content['against'])}. It has {', '.join(dict.fromkeys(map(in_words, values)))}.",
        )
    return found[0]


def _with_most_counterparts(compare: str, cells: Sequence[Cell]) -> Any:
    """Return the first value that has a cell for as many as possible of those of other values."""
    others = [
        (cell.settings[compare], {key: value for key, value in cell.settings.items() if key != compare})
        for cell in cells
        if compare in cell.settings
    ]
    counts = [sum(rest == other for _, other in others) for _, rest in others]
    totals: dict[str, int] = {}
    for (value, _), count in zip(others, counts, strict=True):
        totals[repr(value)] = totals.get(repr(value), 0) + count
    return max((value for value, _ in others), key=lambda value: totals[repr(value)])
