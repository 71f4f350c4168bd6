"""The globals that a checkpoint's pickle may call, and the plain data that becomes of them.

Nothing here runs code of the file: each builder makes a description (a tensor, an array, a number, a container) from
the arguments. A builder that meets arguments it does not know raises, and the pickle counts as damaged.

Source: torch 2.6 `torch/_utils.py` and `torch/_tensor.py` for the arguments of torch's rebuild functions;
numpy 2.0 `numpy/_core/src/multiarray/methods.c` and `descriptor.c` for the states of arrays and types.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from anyvit.containers.inert import Inert
from anyvit.containers.opcodes import Global, Span, hashable
from anyvit.containers.unpickle import Builder, Machine
from anyvit.dtypes import ITEMSIZE

AXES_LIMIT = 32
"""Most axes of a tensor; numpy before 2.0 has no more."""


class Storage(NamedTuple):
    """A run of bytes that tensors look into: its key, element type, size and first byte within the run of that key."""

    key: str
    dtype: str
    size: int
    start: int = 0


class Strided(NamedTuple):
    """A torch tensor: elements of a storage. Offset and strides count elements; `flips` holds "conj" or "neg"."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    flips: tuple[str, ...] = ()

    def set_state(self, state: Any) -> None:
        """Attributes that a tensor carries (hooks, marks of a parallel layout) say nothing of its values."""


class NumpyType:
    """A numpy element type: its code ("f4") and byte order."""

    __slots__ = ("code", "order", "plain")

    def __init__(self, code: str) -> None:
        self.code, self.order, self.plain = code, "<", True

    def set_state(self, state: Any) -> None:
        """Takes byte order and fields; a type with fields is none that a tensor can have."""
        self.order = state[1]
        self.plain = state[2] is None and state[3] is None

    @property
    def dtype(self) -> str | None:
        """The name of the element type, or None where a tensor cannot have it."""
        return _NUMPY.get(self.code) if self.plain else None


class Array:
    """A numpy array: its bytes lie in the pickle (a span), or were decoded from text there."""

    __slots__ = ("data", "fortran", "kind", "shape")

    def __init__(
        self, shape: Any = (), kind: NumpyType | None = None, data: bytes | Span | None = None, fortran: bool = False
    ) -> None:
        self.shape, self.kind, self.data, self.fortran = _axes(shape), kind, data, fortran

    def set_state(self, state: Any) -> None:
        """Takes (version, shape, type, is it in Fortran's order, bytes); a list of objects instead of bytes is kept."""
        shape, kind, fortran, data = state[-4:]
        if type(kind) is not NumpyType:
            raise TypeError("an array without a type")
        if isinstance(data, str):
            data = data.encode("latin-1")
        self.shape, self.kind, self.fortran, self.data = _axes(shape), kind, bool(fortran), data


_NUMPY = {
    "b1": "bool", "u1": "uint8", "i1": "int8", "u2": "uint16", "i2": "int16", "u4": "uint32", "i4": "int32",
    "u8": "uint64", "i8": "int64", "f2": "float16", "f4": "float32", "f8": "float64", "c8": "complex64",
    "c16": "complex128", "V2": "bfloat16",
} | {f"ml_dtypes.{name}": name for name in ITEMSIZE if name.startswith(("bfloat", "float8"))}  # fmt: skip

_KINDS = {
    "Bool": "bool", "Byte": "uint8", "Char": "int8", "Short": "int16", "Int": "int32", "Long": "int64",
    "Half": "float16", "BFloat16": "bfloat16", "Float": "float32", "Double": "float64", "ComplexFloat": "complex64",
    "ComplexDouble": "complex128", "Untyped": "uint8", "_Untyped": "uint8",
    "QUInt8": "uint8", "QInt8": "int8", "QInt32": "int32",
}  # fmt: skip

STORAGES: Mapping[str, str] = {
    f"{module}.{kind}Storage": dtype
    for module in ("torch", "torch.cuda", "torch.storage")
    for kind, dtype in _KINDS.items()
}
"""The element type of each storage class; where the class says none, bytes."""

_SCALARS = {
    "bool": "?", "uint8": "B", "int8": "b", "uint16": "H", "int16": "h", "uint32": "I", "int32": "i", "uint64": "Q",
    "int64": "q", "float16": "e", "float32": "f", "float64": "d",
}  # fmt: skip


def storage_dtype(kind: Any) -> str:
    """The element type of a storage's class, as named in a persistent id.

    Raises:
        ValueError: it is no storage class.
    """
    dtype = STORAGES.get(kind.type) if type(kind) is Global else None
    if dtype is None:
        raise ValueError(f"a storage of the unknown type {str(kind)[:80]}")
    return dtype


def torch_dtype(value: Any) -> str:
    """The element type that a global such as torch.bfloat16 names.

    Raises:
        ValueError: it names none.
    """
    name = value.type.removeprefix("torch.") if type(value) is Global else ""
    if name not in ITEMSIZE:
        raise ValueError(f"the unknown element type {str(value)[:80]}")
    return name


def _axes(value: Any) -> tuple[int, ...]:
    if type(value) is int:
        value = (value,)
    if type(value) not in (tuple, list) or len(value) > AXES_LIMIT:
        raise ValueError("axes that are no list of sizes")
    for size in value:
        if type(size) is not int or size < 0:
            raise ValueError("an axis without a size")
    return tuple(value)


def _strided(storage: Any, offset: Any, shape: Any, stride: Any, dtype: str | None, metadata: Any = None) -> Strided:
    if type(storage) is not Storage or type(offset) is not int or offset < 0:
        raise ValueError("a tensor without a storage or with an impossible offset")
    shape, stride = _axes(shape), _axes(stride)
    if len(shape) != len(stride):
        raise ValueError("a tensor with as many strides as it has no axes")
    flips = tuple(key for key in ("conj", "neg") if type(metadata) is dict and metadata.get(key))
    return Strided(storage, offset, shape, stride, dtype or storage.dtype, flips)


def _tensor(m: Machine, args: tuple[Any, ...]) -> Any:
    # (storage, offset, size, stride, requires_grad, hooks, metadata); the first version of it ends after the stride
    storage, offset, shape, stride = args[:4]
    return _strided(storage, offset, shape, stride, None, args[6] if len(args) > 6 else None)


def _tensor_v3(m: Machine, args: tuple[Any, ...]) -> Any:
    storage, offset, shape, stride = args[:4]
    return _strided(storage, offset, shape, stride, torch_dtype(args[6]), args[7] if len(args) > 7 else None)


def _first(m: Machine, args: tuple[Any, ...]) -> Any:
    return args[0]


def _typed(m: Machine, args: tuple[Any, ...]) -> Any:
    """A tensor subclass: (function, class, its arguments, state)."""
    function, kind, inner, state = args
    value = m.call(function, inner)
    if type(value) is Inert:
        return Inert(kind.type if type(kind) is Global else value.type, (value,), state)
    return value


def _reconstructor(m: Machine, args: tuple[Any, ...]) -> Any:
    """How protocols 0 and 1 make any object: (class, builtin base, what the base is made of)."""
    kind, _, content = args
    return Inert(kind.type if type(kind) is Global else "object", (), None, content)


def _dict(m: Machine, args: tuple[Any, ...]) -> Any:
    """OrderedDict(), OrderedDict([[key, value], …]), Counter({…}); a defaultdict's factory is of no use."""
    if not args:
        return {}
    given = [value for value in args if type(value) is not Global and value is not None]
    if not given:
        return {}
    m.charge(len(given[0]))
    pairs = given[0].items() if type(given[0]) is dict else given[0]
    return {hashable(key): value for key, value in pairs}


def _list(m: Machine, args: tuple[Any, ...]) -> Any:
    return list(_sequence(m, args))


def _tuple(m: Machine, args: tuple[Any, ...]) -> Any:
    return tuple(_sequence(m, args))


def _sequence(m: Machine, args: tuple[Any, ...]) -> Any:
    value = args[0] if args else ()
    if type(value) not in (list, tuple):
        raise TypeError(f"a list made of a {type(value).__name__}")
    m.charge(len(value))
    return value


def _complex(m: Machine, args: tuple[Any, ...]) -> Any:
    real, imaginary = (float(part) for part in args)
    return complex(real, imaginary)


def _encoded(m: Machine, args: tuple[Any, ...]) -> Any:
    """Protocols below 3 write bytes as text: _codecs.encode(text, "latin1"), bytes(text, "latin1"), bytes(), …"""
    value = args[0] if args else b""
    if type(value) is str and len(args) > 1 and args[1] not in ("latin1", "latin-1"):
        return Inert("_codecs.encode", args)
    return m.bytes_of(value)


def _text(m: Machine, args: tuple[Any, ...]) -> Any:
    return ":".join(_words(m, args))


def _words(m: Machine, args: tuple[Any, ...]) -> list[str]:
    words = [str(part) for part in args[:256] if type(part) in (str, int)]
    m.charge(sum(len(word) for word in words))
    return words


def _path(m: Machine, args: tuple[Any, ...]) -> Any:
    """A path is pickled as its parts; the first may be the root."""
    parts = _words(m, args)
    root = parts.pop(0) if parts and parts[0][-1:] in ("/", "\\") else ""
    return Inert("pathlib.Path", args, root + "/".join(parts))


def _paths(kind: str) -> Builder:
    def build(m: Machine, args: tuple[Any, ...]) -> Any:
        m.foreign[kind] = None
        path = _path(m, args)
        path.type = kind
        return path

    return build


def _numpy_type(m: Machine, args: tuple[Any, ...]) -> Any:
    kind = args[0]
    if type(kind) not in (Global, str):
        return Inert("numpy.dtype", args)
    return NumpyType(kind.type if type(kind) is Global else kind)


def _reconstruct(m: Machine, args: tuple[Any, ...]) -> Any:
    kind = args[0]
    if type(kind) is Global and kind.type != "numpy.ndarray":
        return Inert(kind.type, args[1:])
    return Array()


def _from_buffer(m: Machine, args: tuple[Any, ...]) -> Any:
    data, kind, shape, order = args
    if type(kind) is not NumpyType:
        raise TypeError("an array without a type")
    return Array(shape, kind, m.bytes_of(data), order == "F")


def _scalar(m: Machine, args: tuple[Any, ...]) -> Any:
    """numpy.core.multiarray.scalar(type, bytes) as a Python number or text."""
    kind, raw = args[0], args[1] if len(args) > 1 else b""
    if type(kind) is not NumpyType or not isinstance(raw, bytes | str):
        return Inert("numpy.generic", args)
    data = raw.encode("latin-1") if isinstance(raw, str) else raw
    order = ">" if kind.order == ">" else "<"
    if code := _SCALARS.get(kind.dtype or ""):
        return struct.unpack(order + code, data)[0]
    if kind.dtype == "bfloat16":
        return struct.unpack(">f", (data if order == ">" else data[::-1]) + b"\0\0")[0]
    if kind.dtype in ("complex64", "complex128"):
        return complex(*struct.unpack(order + ("2f" if kind.dtype == "complex64" else "2d"), data))
    if kind.code[:1] == "U":
        m.charge(len(data))
        return data.decode("utf-32-be" if order == ">" else "utf-32-le").rstrip("\0")
    return Inert("numpy.generic", args)


def _kept(kind: str) -> Builder:
    """A known function whose result is no plain tensor; it stays inert and is not called foreign."""
    return lambda m, args: Inert(kind, args)


def _known() -> dict[str, Builder | None]:
    """Names that stand for themselves: element types, storage classes, layouts, plain classes."""
    words = [*ITEMSIZE, "qint8", "quint8", "qint32", "float", "double", "half", "int", "long", "short", "complex32"]
    words += ["strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "jagged", "Tensor"]
    words += ["per_tensor_affine", "per_channel_affine", "contiguous_format", "channels_last", "preserve_format"]
    names = [f"torch.{word}" for word in words] + ["torch.storage.TypedStorage", "numpy.ndarray"]
    names += [*STORAGES, *(f"ml_dtypes.{name}" for name in ITEMSIZE)]
    names += [f"builtins.{name}" for name in ("int", "float", "str", "bool", "long", "object", "slice", "type")]
    names += ["torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch._tensor.Tensor"]
    return dict.fromkeys(names)


def _builders() -> dict[str, Builder | None]:
    table: dict[str, Builder | None] = {
        **_known(),
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_tensor_v3": _tensor_v3,
        "torch._tensor._rebuild_from_type": _typed,
        "torch._tensor._rebuild_from_type_v2": _typed,
        "torch.Size": _tuple,
        "torch.device": _text,
        "torch.serialization._get_layout": _text,
        "copyreg._reconstructor": _reconstructor,
        "torch.jit._pickle.restore_type_tag": _first,
        "collections.OrderedDict": _dict,
        "collections.defaultdict": _dict,
        "collections.Counter": _dict,
        "collections.deque": _list,
        "builtins.dict": _dict,
        "builtins.list": _list,
        "builtins.set": _list,
        "builtins.tuple": _tuple,
        "builtins.frozenset": _tuple,
        "builtins.complex": _complex,
        "builtins.bytes": _encoded,
        "builtins.bytearray": _encoded,
        "_codecs.encode": _encoded,
        "numpy.dtype": _numpy_type,
    }
    for name in ("_rebuild_parameter", "_rebuild_parameter_with_state", "_rebuild_device_tensor_from_cpu_tensor",
                 "_rebuild_device_tensor_from_numpy", "_rebuild_xla_tensor"):  # fmt: skip
        table[f"torch._utils.{name}"] = _first
    for name in SPECIAL:
        table[name] = _kept(name)
    for name in ("intlist", "doublelist", "boollist", "tensorlist"):
        table[f"torch.jit._pickle.build_{name}"] = _list
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray._reconstruct"] = _reconstruct
        table[f"{core}.multiarray.scalar"] = _scalar
        table[f"{core}.numeric._frombuffer"] = _from_buffer
    for package in ("pathlib", "pathlib._local"):  # Python 3.13 moved the classes
        for name in ("PurePosixPath", "PosixPath", "PureWindowsPath", "WindowsPath", "Path"):
            table[f"{package}.{name}"] = _paths(f"{package}.{name}")
    return table


SPECIAL: Mapping[str, str] = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta",
    "torch._utils._rebuild_wrapper_subclass": "wrapper",
}
"""Tensors that are no plain run of numbers, and the word for what they are."""
BUILDERS: Mapping[str, Builder | None] = _builders()
"""What becomes of each known global when it is called."""
