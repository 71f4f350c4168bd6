"""The zip directory against the standard library, forged and damaged archives, and the writer's bytes."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvit.containers import zips
from anyvit.containers.files import LocalFile
from anyvit.containers.placing import put
from anyvit.errors import AnyvitError, FileError, UnsafeError
from anyvit.lazy import from_array

DATA = {"a/b.npy": b"x" * 1000, "c": b"", "täglich": bytes(range(256)) * 3}


def archive(path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, data in DATA.items():
            target.writestr(name, data)
        target.writestr("folder/", b"")
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_agrees_with_the_standard_library(tmp_path: Path, compression: int) -> None:
    path = archive(tmp_path / "a.zip", compression)
    file, found = LocalFile(path), zips.members(path)
    with zipfile.ZipFile(path) as oracle:
        infos = {info.filename: info for info in oracle.infolist() if not info.is_dir()}
    assert list(found) == list(infos)
    for name, member in found.items():
        info = infos[name]
        assert (member.size, member.compressed_size, member.crc) == (info.file_size, info.compress_size, info.CRC)
        assert member.compression == info.compress_type
        assert zips.read(file, member) == DATA[name]
        if member.compression == zips.STORED:
            assert path.read_bytes()[member.offset : member.offset + member.size] == DATA[name]
    assert list(zips.damaged(file, found.values())) == []
    assert zips.first_name(path) == ("a/b.npy",)


def test_a_flipped_bit_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip")
    file = LocalFile(path)
    member = zips.members(path)["a/b.npy"]
    data = bytearray(path.read_bytes())
    data[member.offset + 10] ^= 4
    path.write_bytes(data)
    assert [note.names for note in zips.damaged(LocalFile(path), zips.members(path).values())] == [("a/b.npy",)]
    with pytest.raises(FileError, match=r"damaged.*a/b\.npy"):
        zips.read(LocalFile(path), zips.members(path)["a/b.npy"])
    assert file.size == len(data)


def test_a_cut_archive_says_so(tmp_path: Path) -> None:
    whole = archive(tmp_path / "a.zip").read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "cut.zip"
        path.write_bytes(whole[:length])
        with pytest.raises(FileError, match="end of the zip archive is missing"):
            zips.members(path)


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip")
    data = path.read_bytes()
    at = data.index(b"PK\1\2")
    entry = zips._ENTRY.unpack_from(data, at)
    # The first member claims 60 bytes more than lie before the second.
    grown = zips._ENTRY.pack(*entry[:8], entry[8] + 60, entry[9] + 60, *entry[10:])
    path.write_bytes(data[:at] + grown + data[at + len(grown) :])
    with pytest.raises(UnsafeError, match="overlap"):
        zips.members(path)


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("a.npy", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            target.writestr("a.npy", b"2")
    with pytest.raises(UnsafeError, match=r"one name: a\.npy"):
        zips.members(path)


def test_a_local_header_that_differs_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"a/b.npy", b"z/b.npy", 1))
    with pytest.raises(UnsafeError, match="own header"):
        zips.members(path)


def test_bytes_before_the_archive_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip")
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    with pytest.raises(UnsafeError, match="not where its end says"):
        zips.members(path)


def test_a_stored_member_of_two_sizes_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip")
    data = path.read_bytes()
    at = data.index(b"PK\1\2")
    entry = zips._ENTRY.unpack_from(data, at)
    forged = zips._ENTRY.pack(*entry[:9], entry[9] + 1, *entry[10:])
    path.write_bytes(data[:at] + forged + data[at + len(forged) :])
    with pytest.raises(UnsafeError, match=r"two sizes: a/b\.npy"):
        zips.members(path)


def test_a_bomb_stops_at_the_claimed_size(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(50 << 20)) + packer.flush()
    path = tmp_path / "bomb"
    path.write_bytes(packed)
    member = zips.Member("a", 0, 1000, len(packed), 0, zips.DEFLATED)
    with pytest.raises(UnsafeError, match="unpacks to more"):
        zips.read(LocalFile(path), member)
    with pytest.raises(UnsafeError, match="implausibly large"):
        zips.read(LocalFile(path), member, limit=999)


def test_other_compressions_and_encryption_are_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", zipfile.ZIP_LZMA)
    found = zips.members(path)
    with pytest.raises(FileError, match="method 14"):
        zips.read(LocalFile(path), found["a/b.npy"])
    data = bytearray(archive(tmp_path / "b.zip").read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(FileError, match=r"encrypted: a/b\.npy"):
        zips.members(path)


def test_random_damage_never_escapes_the_errors(tmp_path: Path) -> None:
    whole = archive(tmp_path / "a.zip", zipfile.ZIP_DEFLATED).read_bytes()
    rng = random.Random(0)
    path, refused = tmp_path / "b.zip", 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            for member in zips.members(path).values():
                zips.read(LocalFile(path), member)
        except AnyvitError:
            refused += 1
    assert refused > 100


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20).filter(
        lambda name: not name.endswith("/")), st.binary(max_size=300), max_size=6),
    st.sampled_from([1, 8, 64]),
)  # fmt: skip
def test_what_is_written_is_read(files: dict[str, bytes], align: int) -> None:
    def build() -> bytes:
        with TemporaryFile(buffering=0) as file:
            writer, places = zips.Writer(file), []
            for i, (name, data) in enumerate(files.items()):
                if i % 2:
                    writer.add(name, data, align=align)
                else:
                    lazy = from_array(np.frombuffer(data[7:], "uint8"))
                    places.append(writer.place(name, lazy, before=data[:7], align=align))
            put(file, places[::-1])
            writer.close()
            file.seek(0)
            return file.read()

    raw = build()
    assert raw == build()
    with zipfile.ZipFile(io.BytesIO(raw)) as oracle:
        assert oracle.testzip() is None
        assert {name: oracle.read(name) for name in files} == files
        assert {info.date_time for info in oracle.infolist()} <= {(1980, 1, 1, 0, 0, 0)}


def test_alignment(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with path.open("wb") as file:
        writer = zips.Writer(file)
        for i in range(70):
            writer.add("n" * (i + 1), b"x", align=64)
        writer.close()
    assert {member.offset % 64 for member in zips.members(path).values()} == {0}


def test_numbers_of_more_than_32_bits() -> None:
    entry = zips._central(b"big", 5 << 30, 6 << 30, 7)
    fields = zips._ENTRY.unpack_from(entry)
    assert fields[8:10] == (0xFFFFFFFF, 0xFFFFFFFF) and fields[16] == 0xFFFFFFFF
    [(header, member)] = zips._entries(LocalFile(__file__), entry, 1)
    assert (header, member.size, member.compressed_size, member.crc) == (5 << 30, 6 << 30, 6 << 30, 7)
    with pytest.raises(UnsafeError, match="lacks its 64-bit sizes: big"):
        list(zips._entries(LocalFile(__file__), entry.replace(struct.pack("<2H", 1, 24), struct.pack("<2H", 2, 24)), 1))


def test_more_members_than_16_bits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "_MANY", 3)  # the 64-bit directory, without writing 65,535 members
    path = tmp_path / "many.zip"
    with path.open("wb") as file:
        writer = zips.Writer(file)
        for i in range(5):
            writer.add(str(i), b"")
        writer.close()
    assert path.read_bytes().count(b"PK\6\6") == 1
    with zipfile.ZipFile(path) as oracle:
        assert len(oracle.namelist()) == 5
    assert len(zips.members(path)) == 5


def test_a_name_stands_once(tmp_path: Path) -> None:
    with (tmp_path / "a.zip").open("wb") as file:
        writer = zips.Writer(file)
        writer.add("a", b"x")
        with pytest.raises(ValueError, match="two members called 'a'"):
            writer.add("a", b"y")
