"""Argument checks that the data modules share."""

__all__ = ["check_at_least", "check_share"]


def check_at_least(name: str, value: float, minimum: float) -> None:
    """Raise a ValueError unless ``value`` is at least ``minimum``."""
    if not value >= minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")


def check_share(name: str, value: float) -> None:
    """Raise a ValueError unless ``value`` is a share in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"`{name}` must be at least 0 and below 1, got {value}. It is a share, not a count.")
