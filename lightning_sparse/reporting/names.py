"""What logged names mean: which are metrics of training and validation, and which tell of sparsity.

Whoever logs under other names has this one file to change.
"""

import re
from collections.abc import Mapping

from lightning_sparse.reporting.layers import OF_LAYERS
from lightning_sparse.reporting.runs import Curve

__all__ = [
    "MOVEMENTS",
    "centroids_in",
    "densities",
    "metrics_in",
    "movements_in",
    "series",
    "tells_of_sparsity",
]

SPARSITIES = ("sparsity", "trainable_sparsity")
"""Groups of one minus the density: of weights that are sparse, and of trained values beside a dense part."""

MOVEMENTS = ("churn", "survived", "explored")

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
_BASES = {"acc": "accuracy", "accuracy": "accuracy", "acc1": "accuracy", "top1": "accuracy", "loss": "loss"}


def series(curves: Mapping[str, Curve], kind: str) -> tuple[Curve, dict[str, Curve]]:
    """Return what was logged of all layers together, and of each, under a name such as ``"sparsity"``.

    >>> series({"sparsity/total": {0: 0.5}, "sparsity/a": {0: 0.4}, "loss": {0: 1.0}}, "sparsity")
    ({0: 0.5}, {'a': {0: 0.4}})
    >>> series({"rigl/churn": {0: 0.5}, "rigl_layers/churn/a": {0: 0.4}}, "rigl/churn")
    ({0: 0.5}, {'a': {0: 0.4}})
    """
    total = curves.get(f"{kind}/total", curves.get(kind, {}))
    first, slash, rest = kind.partition("/")
    for group in (f"{first}{OF_LAYERS}/{rest}{slash}", f"{kind}/"):  # apart from totals, or beside them
        layers = {name.removeprefix(group): c for name, c in curves.items() if name.startswith(group)}
        layers.pop("total", None)
        if layers:
            return total, layers
    return total, {}


def densities(curves: Mapping[str, Curve]) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """Return the logged densities: those of all layers together, by what they are of, and those of layers.

    Layers may be logged only when they change, and the total always: in between a layer stays as it was.

    >>> densities({"sparsity/total": {0: 0.75, 1: 0.75}, "sparsity_layers/a": {0: 0.75}})
    ({'all layers': {0: 0.25, 1: 0.25}}, {'a': {0: 0.25, 1: 0.25}})
    """
    found = {kind: series(curves, kind) for kind in SPARSITIES}
    words = {"sparsity": "all layers", "trainable_sparsity": "all trained values"}
    totals = {words[kind]: _one_minus(total) for kind, (total, _) in found.items() if total}
    if len(totals) == 1:
        totals = {"all layers": next(iter(totals.values()))}
    layers = {
        name: _one_minus(_carried(curve, total))
        for total, of_kind in found.values()
        for name, curve in of_kind.items()
    }
    return totals, layers


def movements_in(curves: Mapping[str, Curve]) -> dict[str, str]:
    """Return under which names churn, survival and exploration were logged, such as ``"rigl/churn"``.

    >>> movements_in({"rigl/churn": {0: 0.1}, "rigl/churn/net.0": {0: 0.1}, "rigl/moved": {0: 3.0}})
    {'churn': 'rigl/churn'}
    """
    found = (re.fullmatch(rf"[^/]+/({'|'.join(MOVEMENTS)})(?:/total)?", name) for name in curves)
    return {one[1]: one[0].removesuffix("/total") for one in found if one}


def tells_of_sparsity(name: str) -> bool:
    """Tell whether a logged name is of sparsity and not a metric by which nets are compared.

    >>> [tells_of_sparsity(name) for name in ("sparsity/total", "rigl_layers/churn/a", "val/f1")]
    [True, True, False]
    """
    group = name.partition("/")[0]
    return group in (*SPARSITIES, "asni", "centroids") or group.endswith(OF_LAYERS)


def centroids_in(curves: Mapping[str, Curve]) -> dict[str, tuple[float, float]]:
    """Return the last centroids that ASNI's search has logged, c+ and c- by layer.

    >>> centroids_in({"centroids/a/plus": {0: 0.5, 1: 0.25}, "centroids/a/minus": {0: -0.5}})
    {'a': (0.25, -0.5)}
    """
    ends = {name: curve[max(curve)] for name, curve in curves.items() if curve}
    found = (re.fullmatch(r"centroids/(.+)/plus", name) for name in ends)
    layers = [one[1] for one in found if one and f"centroids/{one[1]}/minus" in ends]
    return {layer: (ends[f"centroids/{layer}/plus"], ends[f"centroids/{layer}/minus"]) for layer in layers}


def metrics_in(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Return what was logged in training and validation, by metric, then by ``"train"`` and ``"val"``.

    Of a name that ends in ``_step`` and one in ``_epoch`` the latter is meant. Accuracy and loss come first.

    >>> metrics_in({"val/acc": {0: 0.5}, "train_loss_epoch": {0: 1.0}, "loss_step": {0: 2.0}, "lr": {0: 0.1}})
    {'accuracy': {'val': {0: 0.5}}, 'loss': {'train': {0: 1.0}}}
    """
    found: dict[str, dict[str, Curve]] = {"accuracy": {}, "loss": {}}
    for name in sorted(curves, key=lambda name: name.endswith("_epoch")):
        if (meant := _metric(name)) is not None and curves[name]:
            found.setdefault(meant[0], {})[meant[1]] = curves[name]
    return {metric: splits for metric, splits in found.items() if splits}


def _metric(name: str) -> tuple[str, str] | None:
    """Return metric and split of a logged name; ``None`` if it is neither of training nor of validation.

    >>> _metric("valid_f1"), _metric("loss"), _metric("test/acc"), _metric("sparsity/net.train")
    (('f1', 'val'), ('loss', 'train'), None, None)
    """
    words = re.split(r"[/_]", name.removesuffix("_epoch"))
    if words[-1] == "step" or words[0] == "test" or tells_of_sparsity(name):
        return None
    if len(words) == 1:
        return (_BASES[words[0].lower()], "train") if words[0].lower() in _BASES else None
    for place in (0, -1):
        if (split := _SPLITS.get(words[place].lower())) is not None:
            rest = words[1:] if place == 0 else words[:-1]
            base = "_".join(rest)
            return _BASES.get(base.lower(), base), split
    return None


def _carried(curve: Curve, total: Curve) -> Curve:
    """Return a curve with a value in every epoch of the total's from its first one on: the last there was."""
    filled: Curve = {}
    for epoch in sorted({*curve, *total}):
        if epoch in curve or filled:
            filled[epoch] = curve[epoch] if epoch in curve else filled[max(filled)]
    return filled


def _one_minus(curve: Curve) -> Curve:
    return {epoch: 1 - value for epoch, value in curve.items()}
