"""Weights of a module that move in a hyperplane, ``w = d + U theta``, of which theta is trained.

They stay ordinary parameters of the module, with their names, so forward and backward are those of the dense
net. The optimizer holds theta in their place. Before its step the gradient of theta is made from theirs, as
``U' g``; after it they are set to ``d + U theta``. So there is nothing to convert back.
"""

import weakref
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.checks import SparsityError, check_count, check_kind
from lightning_sparse.functional.hyperplane import (
    KEEP_MIB,
    RandomBasis,
    check_size,
    is_kept,
    size_in_words,
)
from lightning_sparse.selection import select_trained
from lightning_sparse.weights.handover import Handover
from lightning_sparse.weights.places import Places
from lightning_sparse.weights.stepping import Handle, when_stepped

__all__ = ["Hyperplane", "hyperplane_of", "project_", "register"]


class Hyperplane:
    """The weights of a module that move in ``d + U theta``.

    Args:
        module: Holds the weights.
        weights: Those that move, by name; all on one device.
        dimension: Number k of entries of theta.
        seed: Of U.
        keep_mib: U is kept if it takes at most so many MiB; else each product draws it anew.

    Attributes:
        weights: The weights by name: the parameters of the module itself.
        theta: What is trained, ``(k,)``: zero at first. In float64 if a weight is, else in float32.
        start: d, the weights where theta is zero, in one vector, ``(n,)``.
        basis: U.
    """

    def __init__(
        self, module: nn.Module, weights: Mapping[str, nn.Parameter], dimension: int, seed: int, keep_mib: int
    ) -> None:
        check_size(dimension, sum(weight.numel() for weight in weights.values()), keep_mib)
        first = next(iter(weights.values()))
        double = any(weight.dtype == torch.float64 for weight in weights.values())
        dtype, device = torch.float64 if double else torch.float32, first.device
        self.weights = dict(weights)
        self.theta = nn.Parameter(torch.zeros(dimension, dtype=dtype, device=device))
        self.start = _flat(weights.values(), self.theta)
        keep = is_kept(dimension, len(self.start), keep_mib)
        self.basis = RandomBasis(len(self.start), dimension, seed, keep=keep, device=device)
        self._places = Places(module, weights)
        self._handover: Handover | None = None
        self._handles: list[Handle] = []
        self._guard: list[Handle] = []
        self._written = self.theta._version
        self._versions: list[int] = []

    @property
    def attached(self) -> bool:
        """Whether an optimizer is training theta, and its steps are followed."""
        return bool(self._handles)

    @property
    def has_gradients(self) -> bool:
        """Whether the weights have gradients of which theta's has not been made yet."""
        return any(weight.grad is not None for weight in self.weights.values())

    @torch.no_grad()
    def pull_(self) -> None:
        """Add ``U' g`` to the gradient of theta, g being that of the weights, which is taken away.

        Without gradients of weights nothing changes.

        Raises:
            SparsityError: If theta has changed since the weights were written, so that their gradient is that
                of another place, or if the module has other weights by now.
        """
        if not self.has_gradients:
            return
        if self._places.changed:
            raise SparsityError(
                "The module must keep the weights that move in its hyperplane, got others in their place "
                "(`load_state_dict(assign=True)`, or a new layer). Change layers before training starts."
            )
        if self.theta._version != self._written:
            raise SparsityError(
                "The optimizer must change theta only in its step, got gradients of weights from before a "
                "change: SAM and the like evaluate the net in between. Use an ordinary optimizer."
            )
        none = {name: torch.zeros_like(w) for name, w in self.weights.items() if w.grad is None}
        gradients = [none[name] if w.grad is None else w.grad for name, w in self.weights.items()]
        with torch.autocast(self.theta.device.type, enabled=False):
            gradient = self.basis.transposed_times(_flat(gradients, self.theta))
        self.theta.grad = gradient if self.theta.grad is None else self.theta.grad.add_(gradient)
        for weight in self.weights.values():
            weight.grad = None

    @torch.no_grad()
    def push_(self) -> None:
        """Set the weights to ``d + U theta``."""
        with torch.autocast(self.theta.device.type, enabled=False):
            point = self.start + self.basis.times(self.theta)
        done = 0
        for weight in self.weights.values():
            weight.copy_(point[done : done + weight.numel()].view(weight.shape))
            done += weight.numel()
        self._written = self.theta._version

    @torch.no_grad()
    def move_to_(self, theta: Tensor, start: Tensor) -> None:
        """Take over a theta and a d, as a checkpoint has them, and set the weights accordingly.

        Raises:
            SparsityError: If they are of other sizes.
        """
        for name, mine, its in (("theta", self.theta, theta), ("start", self.start, start)):
            if mine.shape != its.shape:
                raise SparsityError(
                    f"`{name}` must have {len(mine):,} entries, got {its.numel():,}: it was saved for other "
                    "weights. Use the net and the arguments that it was saved with."
                )
            mine.copy_(its)
        self.push_()

    def attach_(self, optimizer: Optimizer) -> None:
        """Let an optimizer train theta in the place of the weights, in whatever loop it is used.

        Raises:
            SparsityError: If that cannot be: see `Handover`.
        """
        self.release_()
        self._handover = Handover(optimizer, self.weights, self.theta)
        self._handles = when_stepped(optimizer, self._before_step, self._after_step)

    def detach_(self) -> None:
        """Let go of the optimizer, which keeps theta, as its state is saved; its next step is an error.

        What is kept of U is freed, and a CPU can go on.
        """
        self._let_go_()
        if self._handover is not None:
            self._guard = when_stepped(self._handover.optimizer, _refuse_step)
        self.basis.forget_()
        self.theta.data, self.start = self.theta.data.cpu(), self.start.cpu()

    def release_(self) -> None:
        """Let the optimizer train the weights again, each by itself; they stay where they are."""
        self._let_go_()
        if self._handover is not None:
            self._handover.take_back_()
        self._handover = None

    def _let_go_(self) -> None:
        for handle in (*self._handles, *self._guard):
            handle.remove()
        self._handles, self._guard = [], []

    def _before_step(self, optimizer: Optimizer) -> None:
        self.pull_()
        self._versions = [weight._version for weight in self.weights.values()]

    def _after_step(self, optimizer: Optimizer) -> None:
        if self._versions != [weight._version for weight in self.weights.values()]:
            raise SparsityError(
                f"`optimizer` must hold weights in its groups only, got {type(optimizer).__name__}, which "
                "has changed weights that move in a hyperplane. Take one of PyTorch's own optimizers."
            )
        self.push_()  # always: fused optimizers change theta without a new version

    def __str__(self) -> str:
        return f"{size_in_words(len(self.theta), len(self.start))} {self.basis}"


def _refuse_step(optimizer: Optimizer) -> None:
    """Refuse to train a theta that nobody writes into weights any more."""
    raise SparsityError(
        f"The optimizer must train the weights, got {type(optimizer).__name__}, which holds theta of an "
        "earlier fit with HyperplaneProjection: no weight would change. Make a new optimizer, or fit with "
        "that callback again."
    )


def project_(
    module: nn.Module,
    optimizer: Optimizer,
    dimension: int,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    seed: int | None = None,
    keep_mib: int = KEEP_MIB,
) -> Hyperplane:
    """Restrict training to a random hyperplane: what `HyperplaneProjection` does, without a Trainer.

    The weights are ``d + U theta``: d is where they are now, U is dense and random with columns of length
    one, and of all that the optimizer trains the ``dimension`` entries of theta. The module keeps its
    parameters, with their names; the optimizer holds theta in their place. `Hyperplane.release_` undoes it.

    The gradient of theta is made in the optimizer's step. Whoever needs it before, to clip it or for a
    ``GradScaler``, calls `Hyperplane.pull_` after backward. Gradients of weights that are not to count are
    cleared by ``module.zero_grad()``.

    Args:
        module: Any module, on the device where it is trained.
        optimizer: A new one, which holds the weights, in groups with the same options. That of an earlier
            hyperplane of the module gets its weights back first.
        dimension: Number k of trained numbers.
        include: Patterns on names of parameters: only what matches one of them moves. ``None``: everything
            that is trained, biases and norms too, as in the paper.
        exclude: Patterns of parameters to leave alone: they are trained by themselves.
        seed: Of U. ``None``: that of torch's generator.
        keep_mib: U is kept if it takes at most so many MiB (``4 n k`` bytes), else it is drawn anew in each
            product, in blocks of 4 MiB, which takes about thirteen times as long.

    Returns:
        Hyperplane: It has ``theta``, and ``start``, which is d.

    Raises:
        SparsityError: If an argument is out of range, a pattern matches nothing, U has more entries than can
            be drawn in each step, or the optimizer cannot train theta.

    Source:
        Li et al., "Measuring the Intrinsic Dimension of Objective Landscapes", ICLR 2018 (arXiv:1804.08838).

    Examples:
        >>> net = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 5))
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> hyperplane = project_(net, optimizer, dimension=30, seed=0)
        >>> net(torch.ones(4, 20)).square().mean().backward()
        >>> optimizer.step()
        >>> print(hyperplane)
        30 numbers are trained in place of 265 weights (11.3208%). U: 31,800 bytes, kept.
        >>> [p.shape for p in optimizer.param_groups[0]["params"]]
        [torch.Size([30])]
    """
    check_kind("module", module, nn.Module)
    check_kind("optimizer", optimizer, Optimizer)
    check_count("dimension", dimension)
    check_count("keep_mib", keep_mib, 0)
    if seed is not None:
        check_count("seed", seed, 0)
    weights = select_trained(module, include, exclude)
    if (earlier := hyperplane_of(module)) is not None:
        earlier.release_()
    own = torch.initial_seed() if seed is None else seed
    hyperplane = Hyperplane(module, weights, dimension, own, keep_mib)
    hyperplane.attach_(optimizer)
    register(module, hyperplane)
    return hyperplane


_hyperplanes: "weakref.WeakKeyDictionary[nn.Module, Hyperplane]" = weakref.WeakKeyDictionary()


def hyperplane_of(module: nn.Module) -> Hyperplane | None:
    """Return the hyperplane that weights of a module move in, None if they are free."""
    return _hyperplanes.get(module)


def register(module: nn.Module, hyperplane: Hyperplane | None) -> None:
    """Note the hyperplane that weights of a module move in from now on, or that there is none any more."""
    _hyperplanes.pop(module, None)
    if hyperplane is not None:
        _hyperplanes[module] = hyperplane


def _flat(tensors: Iterable[Tensor], like: Tensor) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1).to(like) for tensor in tensors])
