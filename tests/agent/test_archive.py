"""What may pass into a container as a tar, and as what it arrives."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator

import pytest

from agent_worker.runtimes.archive import Owner, checked
from agent_worker.runtimes.contract import FileRefused

OWNER = Owner(1000, 1001)


def _tar(*entries: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as tar:
        for entry in entries:
            tar.addfile(entry, io.BytesIO(b"x" * entry.size))
    return packed.getvalue()


def _entry(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0, mode: int = 0o644
) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size, entry.mode = kind, link, size, mode
    return entry


async def _passed(archive: bytes, piece: int = 700) -> bytes:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(archive), piece):
            yield archive[at : at + piece]

    return b"".join([one async for one in checked(pieces(), OWNER)])


@pytest.mark.parametrize(
    "entry",
    [
        _entry("/etc/passwd"),
        _entry("../up"),
        _entry("a/../../up"),
        _entry("a/./../../up", tarfile.DIRTYPE),
        _entry("link", tarfile.SYMTYPE, "/etc"),
        _entry("link", tarfile.SYMTYPE, "../up"),
        _entry("a/link", tarfile.SYMTYPE, "../../up"),
        _entry("hard", tarfile.LNKTYPE, "/etc/passwd"),
        _entry("a/hard", tarfile.LNKTYPE, "../up"),
        _entry("disk", tarfile.BLKTYPE),
        _entry("null", tarfile.CHRTYPE),
        _entry("pipe", tarfile.FIFOTYPE),
        _entry("/" + "long/" * 60 + "name"),
        _entry("x/" + "../" * 60 + "name"),
    ],
    ids=lambda entry: f"{entry.type!r} {entry.name[:20]} {entry.linkname}",
)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
async def test_what_leads_out_of_the_folder_or_is_a_device_is_refused(entry: tarfile.TarInfo, form: int) -> None:
    with pytest.raises(FileRefused):
        await _passed(_tar(_entry("good", size=10), entry, form=form))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("piece", [1, 511, 100_000])
async def test_all_else_passes_as_the_users_without_special_bits(form: int, piece: int) -> None:
    long = "folder/" + "é" * 40 if form != tarfile.USTAR_FORMAT else "folder/short"
    entries = [
        _entry("folder", tarfile.DIRTYPE, mode=0o1777),
        _entry(long, size=5, mode=0o4755),
        _entry("folder/link", tarfile.SYMTYPE, "../folder/other"),
        _entry("folder/hard", tarfile.LNKTYPE, long),
        _entry("empty"),
    ]
    with tarfile.open(fileobj=io.BytesIO(await _passed(_tar(*entries, form=form), piece))) as tar:
        found = tar.getmembers()
    assert [(one.name, one.type, one.size, one.linkname) for one in found] == [
        (one.name, one.type, one.size, one.linkname) for one in entries
    ]
    assert {(one.uid, one.gid, one.uname) for one in found} == {(1000, 1001, "")}
    assert [one.mode for one in found[:2]] == [0o777, 0o755]


@pytest.mark.parametrize("archive", [b"x" * 1024, _tar(_entry("a", size=5000))[:2000], b"\1" * 100, b""])
async def test_what_is_no_whole_tar_is_refused(archive: bytes) -> None:
    with pytest.raises(FileRefused):
        await _passed(archive)
