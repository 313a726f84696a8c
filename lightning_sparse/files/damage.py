"""Files whose bytes are not those that were written: found by the checksums of the archive.

``torch.save`` writes a zip archive with a CRC-32 of each record, and ``torch.load`` does not look at them: a
flipped bit becomes a wrong weight. Records are read once more here, before anybody trusts them, which takes
about as long as reading the file (0.3 s per GB on one core, if it is in memory).
"""

import zipfile
from typing import IO

__all__ = ["damage_in", "foreign_archive", "has_checksums"]

_CHUNK = 1 << 20
_FOLDER = 0x10
"""An attribute for which torch, unlike zipfile, reads no bytes of a record, and takes what is in memory."""

_TENSORS = "/data/"
"""What the names of records with the numbers of a tensor have in them, behind the archive's own name."""


def has_checksums(file: IO[bytes]) -> bool:
    """Tell whether an open file is an archive whose records have checksums; its position stays.

    The format before torch 1.6 is no archive. An archive saved after ``set_crc32_options(False)`` has zeros
    in the place of all checksums; in any other archive that cannot happen.
    """
    position = file.tell()
    try:
        if file.read(2) != b"PK":
            return False
        file.seek(position)
        with zipfile.ZipFile(file) as archive:
            return any(record.CRC for record in archive.infolist())
    except Exception:  # its table of contents is damaged, in whatever way zipfile stumbles over
        return True
    finally:
        file.seek(position)


def damage_in(file: IO[bytes], tensors: bool = True) -> str | None:
    """Say what is wrong with the bytes of an open file of ``torch.save``; its position stays.

    Bits that nobody reads (padding, dates, permissions) may differ without harm.

    Args:
        file: Open for reading, and seekable.
        tensors: Whether the numbers of tensors are compared too; without them only a few kB are read.

    Returns:
        What is damaged, None if nothing is or if the file has no checksums.
    """
    position = file.tell()
    if not file.read(1):
        return "it is empty and cannot be read"
    file.seek(position)
    if not has_checksums(file):
        return None
    record = "its table of contents"
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                record = repr(entry.filename)
                if entry.external_attr & _FOLDER:
                    return f"{record} is marked as a folder"
                if tensors or _TENSORS not in entry.filename:
                    _read_through(archive, entry)
    except Exception:  # whatever zipfile stumbles over, the archive is not as it was written
        return f"{record} cannot be read as it was written"
    finally:
        file.seek(position)
    return None


def foreign_archive(file: IO[bytes]) -> str | None:
    """Say what an open zip archive is that ``torch.save`` has not written, None of any other file."""
    position = file.tell()
    try:
        with zipfile.ZipFile(file) as archive:
            ends = {name.partition("/")[2] for name in archive.namelist()}
    except Exception:  # no archive, or one that is damaged
        return None
    finally:
        file.seek(position)
    if "constants.pkl" in ends:
        return "a TorchScript archive"
    return None if "data.pkl" in ends else "a zip archive of something else"


def _read_through(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Read a record to its end, where zipfile compares the checksum."""
    with archive.open(entry) as record:
        while record.read(_CHUNK):
            pass
