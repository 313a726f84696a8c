"""Safetensors files with a record: read as they were written, or not at all."""

import json

import pytest
import torch
from safetensors.torch import save_file

from lightning_sparse.checks import SparsityError
from lightning_sparse.files.tensors import checksum, read_tensors, write_tensors

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).view(2, 3),
    "none": torch.zeros(0, dtype=torch.bfloat16),
    "one": torch.tensor(3),
    "flags": torch.tensor([True, False]),
}
CONTENT = {"names": ["x", "y"], "count": 3, "is": True, "nothing": None}


def written(path, kind="mine", version=1):
    write_tensors(TENSORS, CONTENT, path, kind, version)
    return path


def test_tensors_and_values_come_back(tmp_path):
    tensors, content = read_tensors(written(tmp_path / "new" / "file"), "mine", 1)
    assert content == CONTENT
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert all(tensors[name].dtype == tensor.dtype for name, tensor in TENSORS.items())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_a_file_can_be_read_by_whoever_can_read_others(tmp_path):
    (tmp_path / "other").touch()
    write_tensors({"a": torch.ones(2)}, {}, tmp_path / "net", "kind", 1)
    assert (tmp_path / "net").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_the_same_content_makes_the_same_bytes(tmp_path):
    assert len({written(tmp_path / str(i)).read_bytes() for i in range(9)}) == 1


def test_tensors_that_share_memory_or_are_strided(tmp_path):
    whole = torch.arange(6.0).view(2, 3)
    write_tensors({"a": whole, "b": whole[0], "c": whole.T}, {}, tmp_path / "file", "mine", 1)
    tensors, _ = read_tensors(tmp_path / "file", "mine", 1)
    assert torch.equal(tensors["c"], whole.T)
    assert torch.equal(tensors["b"], whole[0])


def test_checksums_are_of_type_shape_and_numbers():
    a = torch.arange(6.0).view(2, 3)
    assert checksum(a) == checksum(a.T.contiguous().T) == checksum(torch.nn.Parameter(a.clone()))
    others = [
        a.view(3, 2),
        a.double(),
        a.T,
        a + 1,
        a.to(torch.int32),
        a[:, :0],
        torch.tensor(-0.0),
        torch.tensor(0.0),
    ]
    assert len({checksum(other) for other in [a, *others]}) == 9


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "is no safetensors file, or a damaged one"),
        (
            lambda path: path.write_bytes(b"PK some archive or other"),
            "is no safetensors file, or a damaged one",
        ),
        (lambda path: torch.save({"a": 1}, path), "is no safetensors file, or a damaged one"),
        (lambda path: save_file({"a": torch.zeros(1)}, path), "of kind 'mine', got another safetensors file"),
        (
            lambda path: save_file({"a": torch.zeros(1)}, path, {"lightning_sparse": "[1]"}),
            "what it says of itself cannot be read",
        ),
        (
            lambda path: save_file({"a": torch.zeros(1)}, path, {"lightning_sparse": "{"}),
            "what it says of itself cannot be read",
        ),
        (lambda path: written(path, kind="other"), "of kind 'mine', got 'other'"),
        (lambda path: written(path, version=3), r"of version 2 or older, got 3\. Read it with the version"),
        (lambda path: written(path, version=0), "what it says of itself was changed"),
        (lambda path: path.mkdir(), "`path` must be a file, got .* which is a folder"),
        (lambda path: None, "`path` must be a file, got .* which does not exist"),
    ],
)
def test_other_files_are_refused(tmp_path, write, message):
    write(tmp_path / "file")
    with pytest.raises(SparsityError, match=message):
        read_tensors(tmp_path / "file", "mine", 2)


def test_older_files_are_read(tmp_path):
    assert read_tensors(written(tmp_path / "file"), "mine", 2)[1] == CONTENT


def rewritten(path, tensors=None, change=lambda record: None):
    """Write a file anew with the record it had, or a changed one."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()["lightning_sparse"])
    change(record)
    save_file(TENSORS if tensors is None else tensors, path, {"lightning_sparse": json.dumps(record)})


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({name: tensor for name, tensor in TENSORS.items() if name != "one"}, "one"),
        ({**TENSORS, "more": torch.zeros(1)}, "more"),
        ({**TENSORS, "a": TENSORS["a"] + 1e-7}, "a"),
        ({**TENSORS, "a": TENSORS["a"].view(3, 2)}, "a"),
        ({**TENSORS, "one": torch.tensor(3.0)}, "one"),
    ],
)
def test_other_tensors_than_were_written_are_refused(tmp_path, tensors, named):
    rewritten(written(tmp_path / "file"), tensors)
    with pytest.raises(SparsityError, match=f"is damaged: '{named}' is not what was written"):
        read_tensors(tmp_path / "file", "mine", 1)


def test_another_record_than_was_written_is_refused(tmp_path):
    rewritten(written(tmp_path / "file"))
    read_tensors(tmp_path / "file", "mine", 1)
    rewritten(tmp_path / "file", change=lambda record: record["content"].update(count=4))
    with pytest.raises(SparsityError, match="is damaged: what it says of itself was changed"):
        read_tensors(tmp_path / "file", "mine", 1)
