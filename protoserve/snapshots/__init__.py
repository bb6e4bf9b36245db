"""
Snapshots: a protocol's wire layout as a file, to compare a later one with.

A snapshot is what ``describe --json`` says of a protocol, for people who read the
file's history, and beside each message its `format`: the codec's plan, from which
`protoserve.compat` tells what breaks. The order of everything is that of the
declaration, so that a file only changes where the declaration did.
"""

from __future__ import annotations

import json
from typing import Any

import attrs

from protoserve.bounds import bounds_of
from protoserve.codec.computed import Computed
from protoserve.framing.base import Framing
from protoserve.messages import Message
from protoserve.protocol import Protocol
from protoserve.snapshots.described import message_as_plain, protocol_as_plain
from protoserve.snapshots.formats import Formats, names_of
from protoserve.tags import field_of

__all__ = ["VERSION", "Snapshot", "SnapshotError", "read_snapshot", "snapshot_of"]

_KEYS = {
    *("protocol", "framing", "header", "trailer", "tag", "correlate"),
    *("requests", "responses", "states", "messages"),
}

VERSION = 1
"""Is counted up when the form of a snapshot changes."""

Snapshot = dict[str, Any]


class SnapshotError(ValueError):
    """
    A text is no snapshot; the message says what is wrong with it.
    """


def snapshot_of(protocol: Protocol) -> Snapshot:
    """
    Take a protocol's snapshot, in terms of JSON.
    """
    names = names_of(protocol)
    formats = Formats(names)
    plain = protocol_as_plain(protocol)
    framing = protocol.framing
    plain |= {
        "header": None if protocol.header is None else names[protocol.header],
        "trailer": None if protocol.trailer is None else names[protocol.trailer],
        "framing": None if framing is None else _framing(framing, formats),
        "tag": formats.value(protocol.tag),
        "correlate": formats.value(protocol.correlate),
        "requests": [],
        "responses": [],
        "states": {
            state: {names[cls]: following for cls, following in moves.items()}
            for state, moves in (protocol.states or {}).items()
        },
    }
    for way, table in protocol._tables.items():
        plain[f"{way.value}s"] = [
            {"tag": formats.value(tag), "message": names[cls]}
            for tag, cls in table.items()
        ]
    plain["messages"] = [_message(cls, formats) for cls in names]
    return {"snapshot": VERSION, **plain}


def _framing(framing: Framing, formats: Formats) -> dict[str, Any]:
    plain = formats.value(framing)
    kind = {"kind": type(framing).__name__}
    return plain | kind if isinstance(plain, dict) else {**kind, "options": plain}


def _message(cls: type[Message], formats: Formats) -> dict[str, Any]:
    told = message_as_plain(cls)
    attributes: Any = attrs.fields(cls)  # type: ignore[arg-type] # the metaclass made it one
    return told | {
        "message": formats.names[cls],
        "defaults": {
            a.name: _default(a.default, formats)
            for a in attributes
            if a.init and a.default is not attrs.NOTHING
        },
        "takes": {
            a.name: bounds
            for a in attributes
            if (bounds := _bounds(cls, a)) is not None
        },
        "caps": attrs.asdict(cls._caps),
        "format": formats.of(cls._record),
    }


def _default(default: Any, formats: Formats) -> Any:
    """
    Write a default; one that is made anew each time by what makes it.
    """
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type] # a function to mypy
        return f"{formats.value(default.factory)}()"
    if isinstance(default, Message):
        return repr(default)
    return formats.value(default)


def _bounds(cls: type[Message], attribute: Any) -> dict[str, Any] | None:
    """
    Give what a field's checks leave of the values that its format can hold.
    """
    field = field_of(cls, attribute.name)
    if isinstance(field.computed, Computed):
        return None
    natural = attrs.asdict(bounds_of(field.construct, None))
    bounds = attrs.asdict(bounds_of(field.construct, attribute.validator))
    narrower = {k: None if v == natural[k] else v for k, v in bounds.items()}
    if not any(v is not None for v in narrower.values()):
        return None
    return {**narrower, "others": list(bounds["others"])}


def read_snapshot(text: str) -> Snapshot:
    """
    Read a snapshot from its file's text.

    Raises:
        SnapshotError: it is none, or one of another version.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise SnapshotError(f"expected a snapshot, which is JSON: {exc}") from exc
    if not isinstance(found, dict) or "snapshot" not in found:
        raise SnapshotError('expected a snapshot: an object with a key "snapshot"')
    if found["snapshot"] != VERSION:
        raise SnapshotError(
            f"expected a snapshot of version {VERSION}, found {found['snapshot']!r}; "
            "take it again"
        )
    missing = sorted(_KEYS - found.keys())
    if missing:
        raise SnapshotError(f"the snapshot has no {missing[0]!r}")
    return found
