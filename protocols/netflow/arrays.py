"""
Values of fields, thousands at a time: stretches of records to columns of Arrow.

Integers are copied once, in the machine's byte order. Addresses and other text become
dictionaries: each different value is written once, and the rows have its number. That
is what makes readable addresses cheap (traffic repeats them), and stores take it as text.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from socket import AF_INET6, inet_ntop
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from protocols.netflow.elements import UNTYPED
from protocols.netflow.values import NTP_EPOCH, YEAR_10000, read

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["array", "array_type", "listed", "wire_type"]

TEXT = pa.dictionary(pa.int32(), pa.string())

_TYPES: dict[str, pa.DataType] = {
    UNTYPED: pa.binary(),
    "string": TEXT,
    "boolean": pa.bool_(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "macAddress": TEXT,
    "ipv4Address": TEXT,
    "ipv6Address": TEXT,
    "dateTimeSeconds": pa.timestamp("s", "UTC"),
    "dateTimeMilliseconds": pa.timestamp("ms", "UTC"),
    "dateTimeMicroseconds": pa.timestamp("us", "UTC"),
    "dateTimeNanoseconds": pa.timestamp("ns", "UTC"),
    **{f"unsigned{bits}": getattr(pa, f"uint{bits}")() for bits in (8, 16, 32, 64)},
    **{f"signed{bits}": getattr(pa, f"int{bits}")() for bits in (8, 16, 32, 64)},
}


def array_type(kind: str) -> pa.DataType:
    """
    Give the type of a column.
    """
    return _TYPES[kind]


def wire_type(kind: str, length: int) -> str | tuple[str, int]:
    """
    Give the NumPy type of a field's bytes.
    """
    if kind.startswith("float"):
        return f">f{length}"
    if kind.endswith(("64", "32", "16", "8")) and length in (1, 2, 4, 8):
        return f">{'i' if kind.startswith('s') else 'u'}{length}"
    if kind == "ipv4Address":
        return ">u4"
    if kind.startswith("dateTime"):
        return ">u4" if kind == "dateTimeSeconds" else ">u8"
    return ("u1", length)


def array(kind: str, values: NDArray[Any]) -> pa.Array:
    """
    Make a column of one fixed field of many records.

    Args:
        kind: the field's type.
        values: the field, as `wire_type` says, in any stride.
    """
    make = _MAKERS.get(kind)
    return _integers(kind, values) if make is None else make(values)


def listed(kind: str, values: Sequence[bytes]) -> pa.Array:
    """
    Make a column of a variable field of many records.
    """
    kept = _TYPES[kind]
    found: list[Any] = [read(kind, value) for value in values]
    if kind.endswith(("64", "32", "16", "8")) and not kind.startswith("float"):
        found = [None if v is None or not _fits(v, kept) else v for v in found]
    if kept == TEXT:
        return pa.array(found, pa.string()).dictionary_encode()
    return pa.array(found, kept)


def _limits(kind: str) -> tuple[np.dtype[Any], int, int]:
    bits = int(kind.removeprefix("unsigned").removeprefix("signed"))
    dtype = np.dtype(f"{'i' if kind.startswith('s') else 'u'}{bits // 8}")
    limits = np.iinfo(dtype)
    return dtype, int(limits.min), int(limits.max)


def _fits(value: int, kept: pa.DataType) -> bool:
    limits = np.iinfo(kept.to_pandas_dtype())
    return int(limits.min) <= value <= int(limits.max)


def _integers(kind: str, values: NDArray[Any]) -> pa.Array:
    dtype, least, most = _limits(kind)
    if values.ndim > 1:
        values = _widened(values, kind.startswith("s"))
    if values.dtype.itemsize <= dtype.itemsize:
        return pa.array(values.astype(dtype))
    outside = (values > most) | (values < least)  # the field is longer than its type
    return pa.array(values.astype(dtype), mask=outside if outside.any() else None)


def _widened(values: NDArray[Any], signed: bool) -> NDArray[Any]:
    """
    Make integers of 3, 5, 6 or 7 bytes.
    """
    size = values.shape[-1]
    whole = np.zeros((len(values), 8), "u1")
    if signed:
        whole[...] = np.where(values[:, :1] >= 128, 255, 0)
    whole[:, 8 - size :] = values
    return whole.view(">i8" if signed else ">u8")[:, 0]


def _floats(kind: str) -> Callable[[NDArray[Any]], pa.Array]:
    dtype = np.dtype("f4" if kind == "float32" else "f8")

    def make(values: NDArray[Any]) -> pa.Array:
        with np.errstate(over="ignore", invalid="ignore"):
            return pa.array(values.astype(dtype))

    return make


def _booleans(values: NDArray[Any]) -> pa.Array:
    plain = values[:, 0]
    return pa.array(plain == 1, mask=(plain != 1) & (plain != 2))


def _bytes(values: NDArray[Any]) -> pa.Array:
    count, size = values.shape
    offsets = pa.py_buffer(np.arange(count + 1, dtype=np.int32) * np.int32(size))
    content = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.binary(), count, [None, offsets, content])


def _encoded(values: NDArray[Any], text: Callable[[bytes], str]) -> pa.Array:
    """
    Make text of bytes of a fixed length, each different value once.
    """
    count, size = values.shape
    content = pa.py_buffer(np.ascontiguousarray(values))
    fixed = pa.Array.from_buffers(pa.binary(size), count, [None, content])
    found = fixed.dictionary_encode()
    words = pa.array([text(each) for each in found.dictionary.to_pylist()], pa.string())
    if len(words) != len(words.unique()):  # different zeros at the end, perhaps
        again = words.dictionary_encode()
        return pa.DictionaryArray.from_arrays(
            again.indices.take(found.indices), again.dictionary
        )
    return pa.DictionaryArray.from_arrays(found.indices, words, safe=False)


def _string(data: bytes) -> str:
    return str(read("string", data))


def _mac(data: bytes) -> str:
    return data.hex(":")


def _ipv6(data: bytes) -> str:
    return inet_ntop(AF_INET6, data)


def _ipv4(values: NDArray[Any]) -> pa.Array:
    found = pa.array(values.astype("u4")).dictionary_encode()
    return pa.DictionaryArray.from_arrays(
        found.indices, _dotted(found.dictionary.to_numpy()), safe=False
    )


@functools.cache
def _halves() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """
    Make the text of two octets, with a dot behind and without, as eight letters.

    Letters that are zero count for nothing, wherever they are.
    """
    octets = np.array([str(octet) for octet in range(256)], "S3").view(np.uint8)
    words = np.zeros((256, 256, 8), np.uint8)
    words[:, :, :3] = octets.reshape(256, 1, 3)
    words[:, :, 4:7] = octets.reshape(1, 256, 3)
    words[:, :, 3] = ord(".")
    last = words.copy()
    words[:, :, 7] = ord(".")
    return words.view(np.uint64).ravel(), last.view(np.uint64).ravel()


def _dotted(addresses: NDArray[np.uint32]) -> pa.Array:
    """
    Write IPv4 addresses, without a Python object for each.
    """
    count = len(addresses)
    first, last = _halves()
    words = np.empty((count, 2), np.uint64)
    words[:, 0] = first[addresses >> np.uint32(16)]
    words[:, 1] = last[addresses & np.uint32(0xFFFF)]
    letters = words.view(np.uint8)
    used = letters != 0
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(used.sum(axis=1), out=offsets[1:])
    return pa.StringArray.from_buffers(
        count, pa.py_buffer(offsets), pa.py_buffer(letters[used])
    )


def _moments(kind: str) -> Callable[[NDArray[Any]], pa.Array]:
    kept = _TYPES[kind]

    def seconds(values: NDArray[Any]) -> pa.Array:
        return pa.array(values.astype("i8")).cast(kept)

    def milliseconds(values: NDArray[Any]) -> pa.Array:
        wrong = values >= YEAR_10000 * 1000
        plain = values.astype("u8").view("i8")
        return pa.array(plain, mask=wrong if wrong.any() else None).cast(kept)

    def ntp(values: NDArray[Any]) -> pa.Array:
        per_second = np.uint64(10**6 if kind.endswith("Microseconds") else 10**9)
        plain = values.astype("u8")
        whole = ((plain >> np.uint64(32)) - np.uint64(NTP_EPOCH)) & np.uint64(2**32 - 1)
        scaled = (plain & np.uint64(2**32 - 1)) * per_second
        part = scaled + np.uint64(2**31) >> np.uint64(32)
        return pa.array((whole * per_second + part).view("i8")).cast(kept)

    made = {"dateTimeSeconds": seconds, "dateTimeMilliseconds": milliseconds}
    return made.get(kind, ntp)


_MAKERS: dict[str, Callable[[NDArray[Any]], pa.Array]] = {
    UNTYPED: _bytes,
    "string": functools.partial(_encoded, text=_string),
    "boolean": _booleans,
    "float32": _floats("float32"),
    "float64": _floats("float64"),
    "macAddress": functools.partial(_encoded, text=_mac),
    "ipv4Address": _ipv4,
    "ipv6Address": functools.partial(_encoded, text=_ipv6),
    **{
        kind: _moments(kind)
        for kind in (
            "dateTimeSeconds",
            "dateTimeMilliseconds",
            "dateTimeMicroseconds",
            "dateTimeNanoseconds",
        )
    },
}
