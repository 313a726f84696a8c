"""How much one pruning of a schedule removes."""

from collections.abc import Sequence

from lightning_sparse.functional.asni import removed_shares
from lightning_sparse.trainer.packages import rank_zero_warn

__all__ = ["warn_of_steep_search"]

MUCH = 0.5
"""Share of what is left. The recipes of the paper's searches remove at most 0.34 at once."""


def warn_of_steep_search(callback: str, alive: int, path: Sequence[int], search_epochs: int) -> None:
    """Warn of a search that is too short for its sigmoid: nearly all weights then go in one pruning.

    Args:
        callback: Name of who prunes.
        alive: Number of weights at the start.
        path: Number of weights after the pruning of each epoch.
        search_epochs: Length of the search.
    """
    before, removed = [alive, *path[:-1]], removed_shares(alive, path)
    epoch = max(range(len(path)), key=removed.__getitem__)
    if removed[epoch] > MUCH:
        rank_zero_warn(
            f"{callback} prunes {removed[epoch]:.0%} of what is left at once, after epoch {epoch}: from "
            f"{before[epoch]:,} weights to {path[epoch]:,}. Raise `search_epochs`, {search_epochs} now (or "
            "`max_epochs`, of which they are a part), and with it `gamma` where you have set it."
        )
