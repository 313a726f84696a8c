"""What every pruning method is: scores, over what they are ranked, and along which path of densities."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, final

import torch
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError, check_choice
from lightning_sparse.functional.allocation import ALLOCATIONS, AllocationName
from lightning_sparse.functional.saliency.iterative import PAPER, Arithmetic, PathName
from lightning_sparse.functional.shards.layout import Shards
from lightning_sparse.registry import add_row
from lightning_sparse.types import Loss, Masks, Scores

__all__ = [
    "METHODS",
    "Average",
    "Conformance",
    "PruningMethod",
    "PruningProblem",
    "Ranking",
    "one_process",
    "register_method",
]

Ranking: TypeAlias = AllocationName | Literal["global"]
"""``"global"`` ranks the scores of all layers together; else each layer has its own budget."""

Conformance: TypeAlias = Literal["paper", "reference"]
"""Whether a method keeps to its paper and to exact counts, or to the authors' code, rounding and all."""

Average: TypeAlias = Callable[[Tensor], Tensor]
"""Takes the mean of a tensor over all processes."""


def one_process(tensor: Tensor) -> Tensor:
    """Return the mean over one process."""
    return tensor


def _no_losses(_: int) -> Sequence[Loss]:
    raise SparsityError("This method needs a loss; give `losses` to the problem.")


def _no_inputs() -> Any:
    raise SparsityError("This method needs an input of the net; give `inputs` to the problem.")


@dataclass(frozen=True)
class PruningProblem:
    """What a method may look at.

    Args:
        module: The net. Leave it as found.
        weights: The weights to score, parameters of ``module``, by name.
        generator: For random draws; they are made on its device.
        masks: What earlier iterations have left; ``None`` in the first.
        losses: Gives the losses of the next so many batches.
        net: The part of ``module`` to call with ``inputs``. ``None``: ``module`` itself.
        inputs: Gives an input of the net: a tensor, a tuple (positional) or a dict (by keyword).
        average: Takes the mean of a tensor over all processes.
        cools: Whether outputs of the last layer may be divided by a temperature: they are logits of a loss
            that is the net's own.
        shards: Which rows of each weight this process holds; ``None`` where it holds all of them. Weights are
            then ``DTensor``, and a score may be one, or that of a whole weight.
    """

    module: nn.Module
    weights: Mapping[str, Tensor]
    generator: torch.Generator
    masks: Masks | None = None
    losses: Callable[[int], Sequence[Loss]] = _no_losses
    net: nn.Module | None = None
    inputs: Callable[[], Any] = _no_inputs
    average: Average = one_process
    cools: bool = True
    shards: Shards | None = None


class PruningMethod(ABC):
    """Scores weights; the highest scores are kept.

    Attributes of an instance are its options: they make up its ``repr``, which resumed runs compare.

    Args:
        allocation: How the budget is shared out between layers: ``"global"`` (all scores ranked together),
            ``"uniform"``, ``"erk"``, ``"epl"`` or ``"epf"``.
    """

    needs_loss: ClassVar[bool] = False
    """Whether it asks for losses; what cannot give any is then refused before data is touched."""
    needs_forward: ClassVar[bool] = False
    """Whether it calls the module itself, not only its loss."""
    takes_shards: ClassVar[bool] = False
    """Whether its scores, in the paper's way, are right where each process holds some rows of a weight."""
    reference: ClassVar[Arithmetic] = PAPER
    """How the authors' code rounds."""
    conformance: Conformance = "paper"
    """Whether it rounds as the paper says, or as the authors' code does."""
    num_batches: int = 1
    """How many batches it looks at in one iteration."""
    iterations: int = 1
    """How often weights are scored and pruned."""
    schedule: PathName = "exponential"
    """How the density falls from iteration to iteration."""

    def __init__(self, allocation: Ranking = "global") -> None:
        check_choice("allocation", allocation, ("global", *ALLOCATIONS))
        self.allocation = allocation

    @abstractmethod
    def scores(self, problem: PruningProblem) -> Scores:
        """Return a score for each of the problem's weights."""

    @final
    def path(self, density: float) -> list[float]:
        """Return the densities to prune to, one after the other; scores are taken anew for each."""
        return self._arithmetic.path(density, self.iterations, self.schedule)

    @final
    def budget(self, num_weights: int, density: float) -> int:
        """Return how many of ``num_weights`` a density keeps."""
        return self._arithmetic.budget(num_weights, density)

    @property
    def least_per_layer(self) -> int:
        """How many weights every layer keeps at least unless told otherwise; the authors' codes have none."""
        return 1 if self.conformance == "paper" else 0

    @property
    def _arithmetic(self) -> Arithmetic:
        return PAPER if self.conformance == "paper" else self.reference

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(repr(self))


METHODS: dict[str, Callable[[], PruningMethod]] = {}
"""Every method with a name, as what makes it with its default options."""

_Maker = TypeVar("_Maker", bound=Callable[[], PruningMethod])


def register_method(name: str) -> Callable[[_Maker], _Maker]:
    """Give a method a name; a decorator of its class, or of a function that makes one.

    Args:
        name: From then on good wherever a method is asked for.

    Raises:
        SparsityError: If another method has that name.
    """

    def register(maker: _Maker) -> _Maker:
        add_row(METHODS, name, maker)
        return maker

    return register
