import pytest
import torch

from lightning_sparse.checks import SparsityError
from lightning_sparse.export import export
from lightning_sparse.files.writing import whole_file, write_whole


def test_folders_are_made_and_nothing_else_is_left(tmp_path):
    write_whole({"a": torch.arange(3)}, tmp_path / "new" / "file.pt")
    assert torch.load(tmp_path / "new" / "file.pt", weights_only=True)["a"].tolist() == [0, 1, 2]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.pt"]


def test_who_fails_while_writing_leaves_the_older_file_whole(tmp_path, monkeypatch):
    write_whole({"a": 1}, tmp_path / "file.pt")

    def stops_half_way(_, path):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", stops_half_way)
    with pytest.raises(OSError, match="no space left"):
        write_whole({"a": 2}, tmp_path / "file.pt")
    assert torch.load(tmp_path / "file.pt", weights_only=True) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["file.pt"]


def test_a_path_that_cannot_be_written_is_named_by_its_argument(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "under.pt", "s3://bucket/file.pt"):
        with pytest.raises(SparsityError, match=r"^`path` must be a file that can be written, got"):
            write_whole({}, path)
    with pytest.raises(SparsityError, match=r"^`out` must be"), whole_file(tmp_path, argument="out"):
        pass


def test_only_a_path_without_an_ending_gets_one(tmp_path):
    names = {"net": "net.pt", "net.pth": "net.pth", "net_0.05": "net_0.05.pt"}
    for name, expected in names.items():
        with whole_file(tmp_path / name, ".pt") as (unfinished, finished):
            unfinished.touch()
            assert not finished.exists()
            assert unfinished.suffix == ".pt"
        assert finished == tmp_path / expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names.values())


def test_files_have_the_permissions_that_the_user_gives_new_ones(tmp_path):
    (tmp_path / "plain").touch()
    net = torch.nn.Linear(3, 2)
    for format_ in ("dense", "safetensors"):  # the writer of safetensors lets only the owner read
        path = export(net, tmp_path / format_, format_)
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
