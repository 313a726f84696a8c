"""What masks and layers have in common: the arguments that select, and what a resumed run must share."""

from collections.abc import Mapping, Sequence

from lightning_sparse.checks import SparsityError, check_count, check_densities, check_density, check_patterns

__all__ = ["check_selection", "refuse_changed_config", "selection_config"]


def selection_config(
    include: Sequence[str] | None, exclude: Sequence[str], density_overrides: Mapping[str, float]
) -> dict[str, str | None]:
    """Return the arguments that select weights as plain values, to compare when a run is resumed."""
    shared = {
        "include": sorted(include or []),
        "exclude": sorted(exclude),
        "density_overrides": {name: float(density) for name, density in density_overrides.items()},
    }
    return {name: str(value) if value else None for name, value in shared.items()}


def refuse_changed_config(config: Mapping[str, object], saved: Mapping[str, object]) -> None:
    """Raise ValueError if a resumed run has other arguments than the checkpoint was made with."""
    for name, value in config.items():
        if name in saved and saved[name] != value:
            raise SparsityError(
                f"`{name}` is {value!r}, but the checkpoint was made with {saved[name]!r}. Resume with "
                "that value, or load only the weights (`load_state_dict`) and start a new run."
            )


def check_selection(
    density: object, include: object, exclude: object, density_overrides: object, seed: object
) -> None:
    """Refuse arguments out of range that most callbacks share."""
    check_density("density", density)
    check_patterns("include", include)
    check_patterns("exclude", exclude)
    check_densities("density_overrides", density_overrides)
    if seed is not None:
        check_count("seed", seed, 0)
