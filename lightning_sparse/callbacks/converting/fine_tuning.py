"""Fine-tuning of a pretrained net by a sparse change of its weights."""

from typing import Any, Literal, TypeAlias

from lightning_sparse.callbacks.converting.base import Conversion
from lightning_sparse.checks import SparsityError, check_choice
from lightning_sparse.files.from_file import FromFile
from lightning_sparse.functional.allocation import ALLOCATIONS
from lightning_sparse.functional.saliency import Gradient, Magnitude, PruningMethod, Random, Ranking
from lightning_sparse.layers.backends import Backend
from lightning_sparse.layers.offsets import PretrainedOffset

__all__ = ["SparseFineTuning"]

SupportName: TypeAlias = Literal["random", "magnitude", "gradient"]


class SparseFineTuning(Conversion):
    """Freeze a pretrained net, and train a sparse change S of its weights: layers compute ``(W0 + S) x``.

    Linear and convolutional layers keep their weight W0, frozen, and get k values at k positions, which start
    at zero. Gradients, optimizer state and what processes exchange are as small as S. The positions stay,
    unless `RigLCallback` or `SETCallback` stands beside it without a density of its own and moves them.
    `merge_` adds S to the weights, and gives the module the layers that it had. The weights must be there
    when layers are replaced: loaded in ``__init__`` or ``configure_model``, not in ``setup``.

    Args:
        density: Share of all selected weights that S changes, a fraction in (0, 1]; ``floor(density * N +
            0.5)`` of N, exactly.
        support: Which weights S changes: ``"random"`` ones, those of the largest ``"magnitude"``, those of
            the largest ``"gradient"`` over four batches of the training data, taken before optimizers exist;
            or a method such as ``Gradient(num_batches=16, allocation="global")``.
        allocation: How S's entries are shared out over layers, for a ``support`` by name: ``"erk"`` gives a
            linear layer a share as its inputs and outputs together, as LoRA of one rank does; ``"uniform"``,
            ``"epl"`` or ``"epf"``; ``"global"`` ranks all layers together. ``None``: ``"erk"``, or what a
            method object says.
        train: Patterns on names of parameters, or of modules for all that they hold: what is trained in full
            beside S, such as ``["head", "*.bias"]``. Layers whose weight is named stay as they are.
        backend: How the layers multiply by S, as `Conversion` has it.
        min_weights_per_layer: Entries that S has at least in each layer.
        **selection: ``include`` (``None``: the weights of linear and convolutional layers, frozen ones too),
            ``exclude``, ``density_overrides`` and ``seed`` (of random supports), as `Sparsifier` has them.

    Raises:
        SparsityError: As from `Conversion`; or if a pattern of ``train`` matches nothing.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655), equation 2, with the
        pretrained weights as the offset. Fixed supports as here are those of Bhardwaj et al., "Sparse High
        Rank Adapters", NeurIPS 2024 (arXiv:2406.13175).

    >>> import torch
    >>> SparseFineTuning(density=0.01).planned_budgets({"fc.weight": torch.Size([300, 784])})
    {'fc.weight': 2352}
    """

    def __init__(
        self,
        density: float,
        support: SupportName | PruningMethod = "random",
        allocation: Ranking | None = None,
        *,
        train: list[str] | None = None,
        backend: Backend = "auto",
        min_weights_per_layer: int = 1,
        **selection: Any,
    ) -> None:
        method = _method(support, allocation)
        super().__init__(
            density,
            "erk" if allocation in (None, "global") else allocation,
            offset=PretrainedOffset(),
            support=method,
            alpha=1.0,
            alpha_requires_grad=True,
            train=[] if train is None else train,
            backend=backend,
            min_weights_per_layer=min_weights_per_layer,
            **selection,
        )


def _method(support: SupportName | PruningMethod, allocation: Ranking | None) -> PruningMethod | None:
    """Return what scores the weights; ``None`` for random supports within a budget for each layer."""
    if isinstance(support, FromFile):
        raise SparsityError(
            "`support` must be a method that scores weights, got FromFile. Load a fine-tuned module with "
            "`load_from_checkpoint`."
        )
    if isinstance(support, PruningMethod):
        if allocation is not None:
            raise SparsityError(
                f"`allocation` must be None beside a method object, which has its own, got {allocation!r} "
                f"beside {support!r}. Leave it out."
            )
        return support
    check_choice("support", support, ("random", "magnitude", "gradient"))
    check_choice("allocation", allocation, ("global", *ALLOCATIONS, None))
    ranking = allocation or "erk"
    if support == "random":
        return Random(ranking) if ranking == "global" else None
    return Magnitude(ranking) if support == "magnitude" else Gradient(allocation=ranking)
