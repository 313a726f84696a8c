"""Tensors in a safetensors file, with a record of what they are: written whole, and read only as written.

Such a file has no checksums, and room for text beside the tensors. What a file is, what its writer has to say
of it and the checksum of every tensor stand there as JSON, under one key: the order of several would change
from one run to the next.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8

from lightning_sparse.checks import SparsityError, check_path, first_line, shown
from lightning_sparse.files.reading import shown_source, unopened
from lightning_sparse.files.record import RECORD
from lightning_sparse.files.writing import whole_file

__all__ = ["checksum", "read_tensors", "write_tensors"]

_WAY_OUT = "Use another file."


def checksum(tensor: Tensor) -> str:
    """Return a checksum of a tensor's type, shape and numbers, wherever it is and however it is laid out.

    >>> import torch
    >>> checksum(torch.zeros(2)) == checksum(torch.zeros(2, dtype=torch.int32))
    False
    """
    numbers = tensor.detach().cpu().contiguous().reshape(-1)
    digest = blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
    digest.update(numbers.view(uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(
    tensors: Mapping[str, Tensor], content: Mapping[str, Any], path: str | Path, kind: str, version: int
) -> None:
    """Write tensors and plain values to a file; an older file stays whole until the new one is.

    Args:
        tensors: By name; on any device, with any strides.
        content: Dicts, lists, texts, integers and booleans, as JSON has them.
        path: Its folder is made if it is not there.
        kind: What the file is.
        version: Of its layout.

    Raises:
        SparsityError: If no file can be written there, or safetensors has no such type of tensors.
    """
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    content = {**content, "tensors": {name: checksum(tensor) for name, tensor in copies.items()}}
    record = {"kind": kind, "version": version, "checksum": _checksum_of(content), "content": content}
    with whole_file(path) as (unfinished, _):
        try:
            save_file(copies, unfinished, {RECORD: json.dumps(record)})
        except KeyError as error:
            raise SparsityError(
                f"`module` must hold tensors of types that safetensors has, got some of {error.args[0]}. "
                "Convert them."
            ) from None


def read_tensors(path: str | Path, kind: str, version: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and plain values of a file, once each is what was written.

    Args:
        path: A file of `write_tensors`.
        kind: What it has to be.
        version: The newest layout that can be read.

    Returns:
        Tensors by name, on the CPU, and what was written beside them.

    Raises:
        SparsityError: If there is no such file, or it is none of these, newer, damaged or incomplete.
    """
    check_path("path", path)
    name = f"`path` {shown_source(path)}"
    with _explained(path), safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(RECORD)
        record = _record(text, name, kind, version)
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    content: dict[str, Any] = record["content"]
    sums = content.pop("tensors")
    for key in [*sums, *tensors]:
        if key not in tensors or key not in sums or checksum(tensors[key]) != sums[key]:
            raise SparsityError(f"{name} is damaged: {key!r} is not what was written. {_WAY_OUT}")
    return tensors, content


def _record(text: str | None, name: str, kind: str, version: int) -> dict[str, Any]:
    """Return what stands beside the tensors, once it is of this kind and as it was written."""
    try:
        record = json.loads(text or "{}")
        found = {key: record.get(key) for key in ("kind", "version")}
    except (ValueError, AttributeError):
        raise SparsityError(f"{name} is damaged: what it says of itself cannot be read. {_WAY_OUT}") from None
    if found["kind"] != kind:
        got = "another safetensors file" if text is None else shown(found["kind"])
        raise SparsityError(f"{name} must be a file of kind {kind!r}, got {got}. {_WAY_OUT}")
    if isinstance(found["version"], int) and found["version"] > version:
        raise SparsityError(
            f"{name} must be of version {version} or older, got {found['version']}. Read it with the version "
            "of this package that wrote it, or a later one."
        )
    if found["version"] not in range(1, version + 1) or record.get("checksum") != _checksum_of(
        record.get("content")
    ):
        raise SparsityError(f"{name} is damaged: what it says of itself was changed. {_WAY_OUT}")
    return dict(record)


def _checksum_of(content: object) -> str:
    return blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """Turn what safetensors and the system say of a file into one line that names it."""
    try:
        yield
    except OSError as error:
        raise unopened(path, "path", error) from None
    except SafetensorError as error:
        raise SparsityError(
            f"`path` {shown_source(path)} is no safetensors file, or a damaged one ({first_line(error)}). "
            f"{_WAY_OUT}"
        ) from None
