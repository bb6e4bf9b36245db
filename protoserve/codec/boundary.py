"""
The one place where failures of formats become errors of ours.

Whatever a Construct object, a user's lambda or adapter raises, the caller sees a
`MalformedMessageError` or an `InvalidMessageError`, with the path, the offset
and a picture of the bytes.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

from protoserve.codec.caps import Caps, Usage
from protoserve.codec.explain import guess, hexdump
from protoserve.codec.fault import Fault, plural
from protoserve.codec.record import Record, enclosing_context, root_context
from protoserve.errors import (
    InvalidMessageError,
    MalformedMessageError,
    RemoteProtocolError,
)
from protoserve.types import BytesLike

__all__ = [
    "build_message",
    "computed_fields",
    "demand_end",
    "explained",
    "parse_message",
    "refused",
]


@contextlib.contextmanager
def explained(data: bytes, path: str) -> Iterator[None]:
    """
    Turn whatever goes wrong while some bytes are parsed into one kind of error.

    Args:
        data: the bytes, for the picture.
        path: what is being parsed, for failures that know no better place.

    Raises:
        MalformedMessageError: in place of anything but an exit or interrupt.
    """
    try:
        yield
    except Fault as fault:
        raise _malformed(fault, data) from fault
    except RemoteProtocolError:
        raise
    except Exception as exc:
        text = f"{type(exc).__name__}: {exc}"
        raise _malformed(Fault(path, 0, "valid data", text), data) from exc


def _malformed(fault: Fault, data: bytes) -> MalformedMessageError:
    return MalformedMessageError(
        fault.path,
        fault.offset,
        fault.expected,
        fault.found,
        hexdump(data, fault.offset) if data else "",
        _guess(data, fault),
    )


def _guess(data: bytes, fault: Fault) -> str | None:
    look = guess(data)
    # A text field in a binary message is no wonder; one at its start is.
    expected = fault.offset >= 16 or fault.is_told
    return None if look == "text" and expected else look


@contextlib.contextmanager
def refused(path: str) -> Iterator[None]:
    """
    Turn whatever goes wrong while a message is built into one kind of error.

    Raises:
        InvalidMessageError: in place of anything but an exit or interrupt.
    """
    try:
        yield
    except Fault as fault:
        raise InvalidMessageError(fault.path, fault.expected, fault.found) from fault
    except InvalidMessageError:
        raise
    except Exception as exc:
        text = f"{type(exc).__name__}: {exc}"
        raise InvalidMessageError(path, "values that can be built", text) from exc


def demand_end(stream: Any, context: Any, path: str, size: int) -> None:
    """
    Refuse bytes that no field has taken.

    If an optional part was given up before them, its failure is the cause to name.

    Raises:
        Fault: there are some.
    """
    offset = stream.tell()
    if offset < size:
        swallowed = context.get("_swallowed")
        if isinstance(swallowed, Fault) and swallowed.offset >= offset:
            context["_swallowed"] = None  # it is to refer to this frame
            try:
                raise swallowed
            finally:
                del swallowed
        raise Fault(
            path,
            offset,
            f"the end of the {path}",
            plural(size - offset, "more byte"),
        )


def parse_message(record: Record, data: BytesLike, caps: Caps) -> Any:
    """
    Parse one message that is all of some bytes.

    Raises:
        MalformedMessageError: anything is wrong with them.
        TypeError: they are no bytes.
    """
    path = record.record_name
    size = memoryview(data).nbytes
    with explained(b"", path):
        if size > caps.size:
            expected = f"at most {caps.size} bytes (caps=Caps(size=…) allows more)"
            raise Fault(path, caps.size, expected, str(size))
        whole = bytes(data)
    with explained(whole, path):
        stream = io.BytesIO(whole)
        context = root_context(parsing=True, _usage=Usage(caps))
        message = record._parsereport(stream, context, path)
        demand_end(stream, context, path, size)
        return message


def build_message(record: Record, message: Any) -> bytes:
    """
    Build one message by itself.

    Raises:
        InvalidMessageError: a value does not fit its format.
    """
    with refused(record.record_name):
        stream = io.BytesIO()
        context = root_context(parsing=False, _usage=Usage(record.owner._caps))
        record._build(message, stream, context, record.record_name)
        return stream.getvalue()


def computed_fields(record: Record, message: Any) -> dict[str, Any]:
    """
    Work out a message's lengths, counts and checksums.

    Raises:
        InvalidMessageError: a value does not fit its format.
    """
    path = record.record_name
    with refused(path):
        stream = io.BytesIO()
        context = enclosing_context(root_context(parsing=False), stream)
        values = record.values_of(message)
        record.build_members(values, stream, context, path)
        return values
