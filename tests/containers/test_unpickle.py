"""The pickle interpreter: it agrees with pickle on plain data, and forged streams end in an error."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvit.containers.flatten import flatten
from anyvit.containers.inert import Inert
from anyvit.containers.opcodes import Global, Span
from anyvit.containers.rebuild import BUILDERS
from anyvit.containers.unpickle import Machine
from anyvit.errors import FileError, UnsafeError


def load(data: bytes) -> Any:
    return Machine(data, BUILDERS).run()[0]


PAIRS = st.tuples(st.integers(), st.text(max_size=3))
KEYS = st.one_of(st.text(max_size=6), st.integers(), st.booleans(), st.none(), PAIRS)
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(max_size=40)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.lists(inner, max_size=4).map(tuple), st.dictionaries(KEYS, inner, max_size=5)
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(value=PLAIN, protocol=st.integers(0, 5))
def test_plain_data_of_every_protocol(value: Any, protocol: int) -> None:
    assert load(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(6))
def test_sizes_at_the_borders_of_opcodes(protocol: int) -> None:
    value = [0, 255, 256, 65535, 65536, 1 << 31, -1, -(1 << 31), 1 << 63, 1 << 2000, "x" * 255, "x" * 256, "x" * 70000,
             list(range(2000)), {str(i): i for i in range(2000)}, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4),
             ]  # fmt: skip
    assert load(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_long_byte_strings_stay_where_they_are(protocol: int) -> None:
    value = bytes(range(256)) * 4
    data = pickle.dumps([value, bytearray(value) if protocol == 5 else value[1:]], protocol)
    spans = load(data)
    assert all(type(span) is Span for span in spans)
    assert data[spans[0].offset : spans[0].offset + spans[0].size] == value


@pytest.mark.parametrize("protocol", range(6))
def test_shared_and_cyclic_objects(protocol: int) -> None:
    shared: list[Any] = [1]
    cycle: dict[str, Any] = {"a": shared, "b": shared}
    cycle["self"] = cycle
    value = load(pickle.dumps(cycle, protocol))
    assert value["a"] is value["b"] and value["self"] is value
    assert flatten(value, "x").extras["self"].type == "cycle"


class Plain:
    pass


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a, self.b = 1, 2


class Sub(dict):  # type: ignore[type-arg]
    pass


class SubList(list):  # type: ignore[type-arg]
    pass


class Named:
    def __new__(cls, *args: int, **named: int) -> Named:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[int], dict[str, int]]:
        return (1,), {"b": 2}


@pytest.mark.parametrize("protocol", range(2, 6))
def test_objects_become_what_the_file_says_of_them(protocol: int) -> None:
    plain, sub, items = Plain(), Sub(k=1), SubList([5])
    plain.x = [1, plain]  # type: ignore[attr-defined]
    sub.note = "n"  # type: ignore[attr-defined]
    machine = Machine(pickle.dumps([plain, Slotted(), sub, items, Named(), Plain], protocol), BUILDERS)
    first, slotted, mapping, row, named, kind = machine.run()[0]
    assert isinstance(first, Inert) and first.state["x"][1] is first
    assert slotted.state == {"a": 1, "b": 2}
    assert mapping.items == {"k": 1} and mapping.state == {"note": "n"} and row.items == [5]
    assert type(kind) is Global and kind.type == first.type == f"{__name__}.Plain"
    assert protocol < 4 or named.args == (1, {"b": 2})
    assert f"{__name__}.Sub" in machine.foreign


def test_old_protocols_make_objects_by_a_helper() -> None:
    plain = Plain()
    plain.x = 1  # type: ignore[attr-defined]
    assert load(pickle.dumps(plain, 0)).state == {"x": 1}
    assert load(pickle.dumps(Sub(k=1), 1)).type == f"{__name__}.Sub"


OPS: dict[str, bytes] = {
    "empty": b"",
    "nothing on the stack": b".",
    "no stop": b"N",
    "unknown opcode": b"\xffN.",
    "extension": b"\x82\x01.",
    "buffer": b"\x97.",
    "protocol": b"\x80\x09N.",
    "memo": b"h\x05.",
    "call of a number": b"K\x01)R.",
    "call of a list": b"])R.",
    "arguments that are no tuple": b"cos\nsystem\nK\x01R.",
    "append to a number": b"K\x01K\x02a.",
    "set in a list": b"]K\x01K\x02s.",
    "key without value": b"}(K\x01u.",
    "list as a key": b"}]K\x01s.",
    "mark missing": b"K\x01t.",
    "attributes of a number": b"K\x01}b.",
    "attributes of a class": b"cargparse\nNamespace\n}X\x01\0\0\0aK\x01sb.",
    "persistent id": b"K\x01Q.",
    "text too long": b"X\xff\xff\xff\x7fabc.",
    "text far too long": b"\x8d" + struct.pack("<Q", 1 << 60) + b"abc.",
    "bytes too long": b"B\xff\xff\xff\x7fabc.",
    "bytearray too long": b"\x96" + struct.pack("<Q", 1 << 62) + b"abc.",
    "frame too long": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
    "negative long": b"\x8b" + struct.pack("<i", -1) + b".",
    "long long": b"\x8b" + struct.pack("<i", 1 << 30) + b".",
    "digits": b"I" + b"9" * 5000 + b"\n.",
    "no number": b"Ixyz\n.",
    "endless line": b"I" + b"9" * 70000,
    "global without end": b"cos",
    "global of numbers": b"K\x01K\x02\x93.",
    "not utf-8": b"X\x01\0\0\0\xff.",
    "bytearray of a size": b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "list of a text": b"cbuiltins\nlist\nX\x01\0\0\0a\x85R.",
    "tensor of nothing": b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "array without type": b"cnumpy.core.multiarray\n_reconstruct\n)R.",
    "scalar of the wrong size": b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\0\0\0f4\x85RC\x01a\x86R.",
}


@pytest.mark.parametrize("data", OPS.values(), ids=list(OPS))
def test_forged_streams_raise_a_file_error(data: bytes) -> None:
    with pytest.raises(FileError) as caught:
        load(data)
    assert len(str(caught.value)) <= 2000


def test_a_memo_index_takes_no_memory() -> None:
    assert load(b"K\x07r\xff\xff\xff\xff0j\xff\xff\xff\xff.") == 7


def test_deep_nesting_neither_crashes_nor_hangs() -> None:
    for data in (b"]" * 100_000 + b"a" * 99_999 + b".", b")" + b"\x85" * 100_000 + b"."):
        value = load(data)
        with pytest.raises(UnsafeError):
            flatten(value, "x")
    with pytest.raises(FileError):
        load(b"}" + b")" + b"\x85" * 200_000 + b"Ns.")
    with pytest.raises(FileError):
        load(b"(" * 200_000)


def test_exponential_references_are_refused() -> None:
    data = b"]q\0" + b"".join(b"](h%ch%ce" % (i, i) + b"q%c0" % (i + 1) for i in range(60)) + b"h\x3c."
    machine = Machine(data, BUILDERS)
    value, _ = machine.run()
    with pytest.raises(UnsafeError, match=r"at most 100 levels, 1\d{4} values"):
        flatten(value, "x", machine.count)


def test_nothing_of_the_file_changes_the_builders() -> None:
    before = dict(BUILDERS)
    for data in (b"ccollections\nOrderedDict\n}X\x04\0\0\0popX\x01\0\0\0asb.", b"ctorch\nSize\n(NN}tb."):
        with pytest.raises(FileError):
            load(data)
    assert dict(BUILDERS) == before


def test_attributes_cannot_reach_into_python() -> None:
    value = load(b"cbuiltins\ngetattr\n(cbuiltins\nobject\nX\x0e\0\0\0__subclasses__tR)R.")
    assert isinstance(value, Inert) and value.type == "builtins.getattr()"


def test_messages_of_inert_objects_stay_short() -> None:
    value = load(b"ca\nB\n)R}X\x01\0\0\0x" + b"]" * 50_000 + b"a" * 49_999 + b"sb.")
    assert repr(value) == "Inert('a.B', 1 attributes)"


def test_surrogates_can_be_printed(tmp_path: Path) -> None:
    value = load(pickle.dumps("a\ud800", 2))
    assert value.encode() == b"a\\ud800"


@pytest.mark.parametrize("name", ["builtins\nlist", "builtins\ntuple", "builtins\nbytes", "pathlib\nPosixPath"])
def test_copies_of_memoised_parts_are_paid_for(name: str) -> None:
    part = b"](" + b"N" * 50_000 + b"e" if name.endswith(("list", "tuple")) else b"X\x50\xc3\0\0" + b"a" * 50_000
    data = part + b"q\x000c" + name.encode() + b"\nq\x010" + b"h\1h\0\x85R0" * 1000 + b"N."
    with pytest.raises(UnsafeError, match="copies"):
        load(data)


def test_wide_keys_are_refused() -> None:
    data = b"}(" + b"N" * 40 + b"tNs."
    with pytest.raises(FileError):
        load(data)
    assert load(b"}(K\x01K\x02tNs.") == {(1, 2): None}


def test_long_names_are_refused() -> None:
    with pytest.raises(FileError):
        load(b"c" + b"a" * 2000 + b"\nB\n.")
    machine = Machine(pickle.dumps({"a" * 2000: [[]]}, 2), BUILDERS)
    with pytest.raises(UnsafeError):
        flatten(machine.run()[0], "x")
