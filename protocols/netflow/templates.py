"""
Templates: what the records behind them look like.

A template set is read here for both ways of decoding. What cannot be a template is
refused with its reason before anything is kept: fields without length, more fields than
anyone needs, fields past the set's end, records that fit no datagram. Only a scope may have
no length, and says nothing then: Juniper's firewalls send such options. A template is kept
as its field specifiers came, which compare quickly and take little memory; the `Layout`
that records are read by is made of them when it is needed, and equal templates of any
number of exporters share it.

NetFlow v9 counts a template's scope in bytes and knows no enterprises and no withdrawals
(RFC 3954 sections 5.2 and 6.1); IPFIX counts fields (RFC 7011 sections 3.4 and 8.1).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import attrs

from protocols.netflow.elements import Element, element, scope
from protocols.netflow.values import plain_kind, read, write

__all__ = [
    "IPFIX",
    "MOST_FIELDS",
    "PADDING",
    "V9",
    "VARIABLE",
    "Column",
    "Field",
    "Layout",
    "Template",
    "Withdrawal",
    "layout_of",
    "read_templates",
    "records",
    "variable_length",
]

V9, IPFIX = 9, 10
MOST_FIELDS = 512
"""Fields of one template; the longest that exporters are known to send have some 100."""
VARIABLE = 0xFFFF
"""A field's length where each record says its own (RFC 7011 section 7)."""

PADDING = "padding"
"""The type of fields that mean nothing."""

_LONGEST = 65_507
"""Bytes of a UDP datagram's payload."""
_ENTERPRISE = 0x8000


class Field(NamedTuple):
    """
    A field specifier.
    """

    element: int
    length: int
    enterprise: int = 0


class Column(NamedTuple):
    """
    What a field becomes: a column of a table, a value of a record.
    """

    name: str
    kind: str
    length: int
    is_known: bool = True
    """Whether its name is one of a limited number."""


@attrs.frozen
class Withdrawal:
    """
    An exporter takes a template back, or all of a kind.
    """

    id: int | None
    """Which one; `None`: all of them."""
    is_options: bool = False


@attrs.frozen
class Template:
    """
    What a template set says of one kind of record.
    """

    id: int
    specifiers: bytes = attrs.field(repr=False)
    """Its field specifiers, as they came."""
    version: int = IPFIX
    scopes: int | None = None
    """For options: how many of the fields say what they are about; else `None`."""

    @classmethod
    def of(
        cls,
        number: int,
        fields: Sequence[Field | tuple[int, int]],
        *,
        version: int = IPFIX,
        scopes: int | None = None,
    ) -> Template:
        """
        Make a template of its fields.

        >>> Template.of(256, [(8, 4), (12, 4)]).names
        ('sourceIPv4Address', 'destinationIPv4Address')
        """
        packed = b""
        for each in fields:
            field = Field(*each)
            flag = _ENTERPRISE if field.enterprise else 0
            packed += struct.pack(">HH", field.element | flag, field.length)
            if field.enterprise:
                packed += struct.pack(">I", field.enterprise)
        return cls(number, packed, version, scopes)

    @property
    def fields(self) -> tuple[Field, ...]:
        """
        Its field specifiers.
        """
        return tuple(_fields(self.specifiers, self.version))

    @property
    def names(self) -> tuple[str, ...]:
        """
        What its records' values are called.
        """
        columns = self.layout.columns
        return tuple(column.name for column in columns if column.kind != PADDING)

    @property
    def layout(self) -> Layout:
        """
        How its records are read.
        """
        return layout_of(self.specifiers, self.version, self.scopes)

    def definition(self) -> bytes:
        """
        Give the template record, as a template set has it.
        """
        count = len(self.fields)
        if self.scopes is None:
            head = struct.pack(">HH", self.id, count)
        elif self.version == V9:
            sizes = 4 * self.scopes, 4 * (count - self.scopes)
            head = struct.pack(">HHH", self.id, *sizes)
        else:
            head = struct.pack(">HHH", self.id, count, self.scopes)
        return head + self.specifiers

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """
        Make the data of a set of its records.

        Args:
            rows: values by the names in `names`.

        Raises:
            ValueError: a value is missing, or does not fit its field.
        """
        parts = []
        for row in rows:
            for column in self.layout.columns:
                if column.kind == PADDING:
                    parts.append(bytes(column.length))
                    continue
                if column.name not in row:
                    raise ValueError(f"template {self.id} needs {column.name}")
                is_variable = column.length == VARIABLE
                length = None if is_variable else column.length
                try:
                    data = write(column.kind, row[column.name], length)
                except (ValueError, OSError, struct.error) as exc:
                    raise ValueError(f"{column.name}: {exc}") from exc
                if is_variable:
                    size = len(data)
                    short = size < 255
                    parts.append(bytes([size]) if short else b"\xff" + size.to_bytes(2))
                parts.append(data)
        return b"".join(parts)


@attrs.frozen(eq=False)
class Layout:
    """
    How records are read: stretches of fixed length, and variable fields between them.
    """

    columns: tuple[Column, ...]
    table: str
    """The table that the records are rows of."""
    version: int
    stretches: tuple[int, ...]
    """
    Bytes of fixed fields before each variable field, and behind the last one.
    """

    @property
    def is_fixed(self) -> bool:
        """
        Whether all records have the same length.
        """
        return len(self.stretches) == 1

    @property
    def least(self) -> int:
        """
        Bytes of the shortest record.
        """
        return sum(self.stretches) + len(self.stretches) - 1


@functools.lru_cache(maxsize=512)
def layout_of(specifiers: bytes, version: int, scopes: int | None) -> Layout:
    """
    Make the layout of a template's records.
    """
    names: dict[str, int] = {}
    columns, stretches = [], [0]
    for i, (number, length, enterprise) in enumerate(_fields(specifiers, version)):
        if version == V9 and scopes is not None and i < scopes:
            found: Element = scope(number)
        else:
            found = element(enterprise, number)
        name, kind, is_known = found
        if not length or (name == "paddingOctets" and length != VARIABLE):
            kind = PADDING
        elif length != VARIABLE:
            kind = plain_kind(kind, length)
            if kind != found.kind:  # no value of that type is so long
                name, is_known = f"{name}_bytes", False
        again = names[name] = names.get(name, 0) + 1
        if again > 1:
            name, is_known = f"{name}_{again}", False
        columns.append(Column(name, kind, length, is_known))
        if length == VARIABLE:
            stretches.append(0)
        else:
            stretches[-1] += length
    table = "flows" if scopes is None else "options"
    return Layout(tuple(columns), table, version, tuple(stretches))


def _fields(specifiers: bytes, version: int) -> Iterator[Field]:
    at = 0
    while at < len(specifiers):
        number, length = struct.unpack_from(">HH", specifiers, at)
        at += 4
        if version == IPFIX and number & _ENTERPRISE:
            (enterprise,) = struct.unpack_from(">I", specifiers, at)
            at += 4
            yield Field(number & ~_ENTERPRISE, length, enterprise)
        else:
            yield Field(number, length)


def read_templates(
    data: bytes, version: int, set_id: int
) -> list[Template | Withdrawal]:
    """
    Read the templates of a set, without its head of four bytes.

    Args:
        data: what is in the set.
        version: `V9` or `IPFIX`.
        set_id: the set's id: 0 and 1 for v9, 2 and 3 for IPFIX.

    Raises:
        ValueError: something is no template; none of the set is to be used.
    """
    # Exporters send the same over and over, and those of one kind the same as each other.
    read = _read_once if len(data) <= _SHORT else _read
    return list(read(data, version, set_id))


def _read(data: bytes, version: int, set_id: int) -> tuple[Template | Withdrawal, ...]:
    is_options = set_id in (1, 3)
    head = 6 if is_options else 4
    found: list[Template | Withdrawal] = []
    at, end = 0, len(data)
    while end - at >= 4:
        number, count = struct.unpack_from(">HH", data, at)
        if not number and not any(data[at:]):
            break  # padding
        if version == IPFIX and not count:
            if number == set_id:
                found.append(Withdrawal(None, is_options))
            else:
                found.append(Withdrawal(_checked(number), is_options))
            at += 4
            continue
        _checked(number)
        if end - at < head:
            raise ValueError(f"template {number} is cut in its head")
        scopes = None
        if is_options:
            (third,) = struct.unpack_from(">H", data, at + 4)
            if version == V9:
                if count % 4 or third % 4:
                    text = (
                        f"expected lengths in whole fields, found {count} and {third}"
                    )
                    raise ValueError(f"options template {number}: {text}")
                scopes, count = count // 4, (count + third) // 4
            else:
                scopes = third
                if not 1 <= scopes <= count:
                    text = f"expected a scope of 1 to {count} fields, found {scopes}"
                    raise ValueError(f"options template {number}: {text}")
        at += head
        stop = _end_of_fields(data, at, count, scopes or 0, version, number)
        found.append(Template(number, data[at:stop], version, scopes))
        at = stop
    return tuple(found)


_SHORT = 2048
"""Bytes of template sets that are remembered with what is in them."""
_read_once = functools.lru_cache(maxsize=512)(_read)


def _checked(number: int) -> int:
    if number < 256:
        raise ValueError(f"expected a template id from 256 on, found {number}")
    return number


def _end_of_fields(
    data: bytes, at: int, count: int, scopes: int, version: int, number: int
) -> int:
    """
    Find where a template's fields end, and whether records can be like that.
    """
    if not 1 <= count <= MOST_FIELDS:
        text = f"expected 1 to {MOST_FIELDS} fields, found {count}"
        raise ValueError(f"template {number}: {text}")
    size = 0
    for i in range(count):
        wide = 8 if version == IPFIX and data[at : at + 1] >= b"\x80" else 4
        if len(data) - at < wide:
            text = f"expected {count} fields, found the set's end behind {i}"
            raise ValueError(f"template {number}: {text}")
        length = int.from_bytes(data[at + 2 : at + 4])
        if not length and i >= scopes:
            raise ValueError(f"template {number}: field {i} has no length")
        size += 1 if version == IPFIX and length == VARIABLE else length
        at += wide
    if not size:
        raise ValueError(f"template {number}: its records have no length")
    if size > _LONGEST:
        text = f"expected records that fit a datagram, found {size} bytes"
        raise ValueError(f"template {number}: {text}")
    return at


def records(layout: Layout, data: bytes) -> list[dict[str, Any]]:
    """
    Read the records of a data set, without its head of four bytes.

    Less than a record at the end is padding (RFC 7011 section 3.3.1).

    Raises:
        ValueError: a variable field goes past the set's end.
    """
    rows = []
    at, end, least = 0, len(data), layout.least
    while end - at >= least:
        row = {}
        for column in layout.columns:
            length = column.length
            if length == VARIABLE:
                at, length = variable_length(data, at)
            if at + length > end:
                raise ValueError(f"{column.name} goes past the end of its set")
            if column.kind != PADDING:
                row[column.name] = read(column.kind, data[at : at + length])
            at += length
        rows.append(row)
    return rows


def variable_length(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """
    Read the length in front of a variable field; say where the field begins.

    Raises:
        ValueError: there is none.
    """
    try:
        if data[at] < 255:
            return at + 1, data[at]
        return at + 3, data[at + 1] << 8 | data[at + 2]
    except IndexError:
        raise ValueError("a variable field has no length") from None
