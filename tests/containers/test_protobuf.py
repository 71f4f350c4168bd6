"""The wire format, against what the onnx package's own protobuf writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto

from anyvit.containers.files import LocalFile
from anyvit.containers.protobuf import Message, signed
from anyvit.errors import FileError


def message(path: Path, data: bytes) -> Message:
    path.write_bytes(data)
    return Message(LocalFile(path), 0, len(data))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30), st.text(max_size=20), st.floats(width=32))
def test_fields(tmp_path_factory: pytest.TempPathFactory, numbers: list[int], text: str, real: float) -> None:
    path = tmp_path_factory.getbasetemp() / "message"
    found = message(path, AttributeProto(name=text, ints=numbers, f=real).SerializeToString())
    fields = list(found)
    assert [signed(n) for field in fields if field.number == 8 for n in found.numbers(field)] == numbers
    assert [found.text(field) for field in fields if field.number == 1] == [text]
    assert [field.size for field in fields if field.number == 2] == [4]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30))
def test_packed_numbers(tmp_path_factory: pytest.TempPathFactory, numbers: list[int]) -> None:
    path = tmp_path_factory.getbasetemp() / "packed"
    found = message(path, TensorProto(uint64_data=numbers).SerializeToString())
    (field,) = found
    assert list(found.numbers(field)) == numbers


def test_what_is_no_message(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for data in (b"\x00\x00", b"\x0b", b"\x0a\x05abc", b"\x08", b"\x08" + b"\x80" * 12):
        with pytest.raises(FileError):
            list(message(path, data))
    (field,) = found = list(message(path, b"\x0a\x02\xff\xfe"))
    with pytest.raises(FileError, match="a text"):
        message(path, b"\x0a\x02\xff\xfe").text(found[0])
    with pytest.raises(FileError, match="no numbers"):
        list(message(path, b"\x0d1234").numbers(field._replace(wire=5)))


def test_an_inner_message_ends_where_it_ends(tmp_path: Path) -> None:
    outer = message(tmp_path / "a", b"\x0a\x02\x08\x80\x10\x01")
    first, second = list(outer)
    assert (second.number, second.value) == (2, 1)
    with pytest.raises(FileError, match="ends inside"):
        list(outer.inner(first))
