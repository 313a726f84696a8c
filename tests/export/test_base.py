"""Formats: found by name, added by users, written whole."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.export import EXPORT_FORMATS, ExportFormat, export, register_format


@pytest.fixture
def net():
    return nn.Linear(3, 2)


@pytest.fixture
def zipped():
    """A format of a user's own, in one class."""

    @register_format
    @dataclass(frozen=True)
    class Zipped(ExportFormat):
        name = "zipped"
        suffix = ".npz"
        compress: bool = True

        def write(self, module, path):
            save = np.savez_compressed if self.compress else np.savez
            save(path, **{name: value.numpy() for name, value in module.state_dict().items()})

    yield Zipped
    del EXPORT_FORMATS["zipped"]


def test_a_format_of_a_users_own_by_name_and_with_options(net, zipped, tmp_path):
    for asked in ("zipped", zipped(compress=False)):
        path = export(net, tmp_path / "net", asked)
        assert path == tmp_path / "net.npz"
        np.testing.assert_array_equal(np.load(path)["weight"], net.weight.detach())
    assert [path.name for path in tmp_path.iterdir()] == ["net.npz"]


def test_a_name_is_taken_once(zipped):
    with pytest.raises(SparsityError, match=r"`name` must be new, got 'dense'"):

        @register_format
        class Other(ExportFormat):
            name = "dense"
            suffix = ".pt"

            def write(self, module, path):
                pass


def test_an_unknown_format_names_a_near_one(net, tmp_path):
    with pytest.raises(
        SparsityError, match=r"^`format` must be one of dense.*, got 'dens'; did you mean dense\?"
    ):
        export(net, tmp_path / "net.pt", "dens")
    with pytest.raises(SparsityError, match=r"^`format` must be one of dense.*, got None"):
        export(net, tmp_path / "net.pt", None)
    with pytest.raises(SparsityError, match=r"^`module` must be an instance of Module, got 'net'"):
        export("net", tmp_path / "net.pt")


def test_a_path_that_cannot_be_written(net, tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "net.pt", "s3://bucket/net.pt", ""):
        with pytest.raises(SparsityError, match=r"^`path` must be a (file that can be written|path), got"):
            export(net, path)


def test_a_missing_package_is_named_with_its_command(net, tmp_path, zipped, monkeypatch):
    monkeypatch.setattr(zipped, "needs", ("no_such_package",))
    with pytest.raises(ModuleNotFoundError, match="for export as 'zipped': pip install no_such_package"):
        export(net, tmp_path / "net", "zipped")


def test_a_failing_format_leaves_the_older_file_whole(net, tmp_path, zipped, monkeypatch):
    path = export(net, tmp_path / "new" / "net.npz", "zipped")
    before = path.read_bytes()

    def fails(self, module, path):
        path.write_bytes(b"half")
        raise RuntimeError("half way")

    monkeypatch.setattr(zipped, "write", fails)
    with pytest.raises(RuntimeError, match="half way"):
        export(net, path, "zipped")
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["net.npz"]


def test_the_file_does_without_this_package(net, tmp_path):
    torch.testing.assert_close(torch.load(export(net, tmp_path / "net"), weights_only=True), net.state_dict())


def test_what_a_format_has_to_say_is_told_once_the_file_is_there(net, tmp_path, zipped, monkeypatch):
    def writes(self, module, path):
        path.write_bytes(b"whole")
        return ["one", "two"]

    monkeypatch.setattr(zipped, "write", writes)
    told = []
    export(
        net,
        tmp_path / "net",
        "zipped",
        tell=lambda line: told.append((line, (tmp_path / "net.npz").is_file())),
    )
    assert told == [("one", True), ("two", True)]
    assert export(net, tmp_path / "silent", "zipped").name == "silent.npz"
    with pytest.raises(SparsityError, match=r"^`tell` must be a function or a class, got 3"):
        export(net, tmp_path / "net", "zipped", tell=3)
