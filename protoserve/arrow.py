"""
Columns as an Arrow table.

Numbers keep their width and become the machine's byte order, which Arrow demands; bytes
of a fixed length stay that, lists of a fixed length are fixed-size lists, and whatever
else there is (text, addresses, enums) becomes what Arrow infers from plain values.

PyArrow comes with the extra ``protoserve[arrow]``, and is imported when it is used.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from protoserve.errors import DeclarationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Column", "legal", "table_of"]


@attrs.frozen(eq=False)
class Column:
    """
    One column, with what is said of it.
    """

    name: str
    values: NDArray[Any]
    doc: str = ""
    unit: str = ""


def table_of(columns: Iterable[Column]) -> Any:
    """
    Make a `pyarrow.Table`; docs and units are the fields' metadata, where there are any.

    Raises:
        DeclarationError: PyArrow is not installed.
    """
    try:
        import pyarrow as pa
    except ModuleNotFoundError as exc:
        raise DeclarationError(
            "Arrow tables need PyArrow; install it with pip install 'protoserve[arrow]'"
        ) from exc
    arrays, fields = [], []
    for column in columns:
        array = _array(pa, column.values)
        said = {"doc": column.doc, "unit": column.unit}
        metadata = {key: text for key, text in said.items() if text}
        arrays.append(array)
        fields.append(pa.field(column.name, array.type, metadata=metadata or None))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def legal(value: Any) -> Any:
    """
    Replace in texts what UTF-8 has no bytes for: lone surrogates, as for stray bytes.
    """
    if isinstance(value, str):
        return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, Mapping):
        return {legal(key): legal(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [legal(each) for each in value]
    return value


_SURROGATES = re.compile("[\ud800-\udfff]")


def _array(pa: Any, values: NDArray[Any]) -> Any:
    if values.ndim > 1:
        size = values.shape[-1]
        inner = _array(pa, values.reshape(-1, *values.shape[2:]))
        return pa.FixedSizeListArray.from_arrays(inner, size)
    kind = values.dtype
    if kind.kind == "V":
        return pa.array(values.tolist(), pa.binary(kind.itemsize))
    if kind.kind != "O":
        return pa.array(values.astype(kind.newbyteorder("=")))
    plain = [_plain(value) for value in values.tolist()]
    try:
        try:
            return pa.array(plain)
        except UnicodeEncodeError:
            plain = [legal(value) for value in plain]
            return pa.array(plain)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        # What has no type in common, or none that Arrow knows, is text.
        return pa.array([None if value is None else str(value) for value in plain])


def _plain(value: Any) -> Any:
    """
    Bring a value to what Arrow knows.
    """
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | int | float | bytes | bytearray):
        return value
    if attrs.has(type(value)):
        names = [field.name for field in attrs.fields(type(value))]
        return {name: _plain(getattr(value, name)) for name in names}
    return str(value)
