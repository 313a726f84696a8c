"""States of callbacks in checkpoints: what must be in them."""

from collections.abc import Mapping

from lightning_sparse.checks import SparsityError, shown

__all__ = ["refuse_other_layout"]

_WAY_OUT = (
    "Use the version of this package that wrote it, or load only the weights (`load_state_dict`) and start "
    "a new run."
)


def refuse_other_layout(callback: str, state: object, kinds: Mapping[str, type]) -> None:
    """Refuse a state that another class has saved, or this one in another version.

    Args:
        callback: Whose state it is meant to be.
        state: What the checkpoint has under the callback's key.
        kinds: Class of each entry that must be there; ``object`` if it may be of any.

    Raises:
        SparsityError: It names what is missing, or of another kind.
    """
    if not isinstance(state, Mapping):
        raise SparsityError(
            f"The checkpoint's state of {callback} must be a dict, got {shown(state)}. {_WAY_OUT}"
        )
    for name, kind in kinds.items():
        if name not in state:
            raise SparsityError(
                f"The checkpoint's state of {callback} lacks {name!r}: another class or version wrote it (it "
                f"has {', '.join(map(str, list(state)[:5])) or 'nothing'}). {_WAY_OUT}"
            )
        if not isinstance(state[name], kind):
            raise SparsityError(
                f"{name!r} in the checkpoint's state of {callback} must be of type {kind.__name__}, got "
                f"{shown(state[name])}: another class or version wrote it. {_WAY_OUT}"
            )
