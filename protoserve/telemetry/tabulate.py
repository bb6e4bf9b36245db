"""
Tables out of frames, by the declaration alone.

Messages whose layout the declaration gives are found a column at a time, among all frames
at once, and no object is made for one. All other frames go through a session of their
sender's, as a server's would: that keeps what later frames refer to, and tells what is
wrong with the bad ones. Messages that have a method `rows` say themselves what their rows
are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from protoserve.batch import Batch, Chunk, Source, layout_of
from protoserve.columnar import Picked, Picker, picker_of
from protoserve.errors import RemoteProtocolError
from protoserve.events import NEED_DATA, MessageReceived
from protoserve.messages import Message
from protoserve.names import snake_case
from protoserve.numbered import Numbered
from protoserve.protocol import Direction, Protocol
from protoserve.session import Peer, Role, Session
from protoserve.telemetry.rows import RowTable
from protoserve.telemetry.tables import (
    Frames,
    Origins,
    Refused,
    Sequences,
    Tables,
    Tabulator,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ["DeclaredTabulator", "table_name", "tabulator_of"]

_MOST_SESSIONS = 10_000
"""Senders whose sessions are kept; the one that was silent longest is forgotten."""
_ORIGIN = ("exporter", "received_at")


def tabulator_of(protocol: Protocol, folder: Any = None) -> Tabulator:
    """
    Make what makes tables of a protocol's frames: its own, or the one by declaration.

    Args:
        protocol: what is spoken.
        folder: where its state is kept, a `Path`; `None`: nowhere.
    """
    if protocol.tabulator is not None:
        made: Tabulator = protocol.tabulator(folder)
        return made
    return DeclaredTabulator(protocol)


def table_name(cls: type) -> str:
    """
    Give the name of the table of a message's, or of a row class's, rows.
    """
    own = getattr(cls, "_table", "") if issubclass(cls, Message) else ""
    return own or getattr(cls, "__table__", "") or snake_case(cls.__name__)


def has_rows(cls: type[Message]) -> bool:
    """
    Say whether a message says itself what its rows are.
    """
    is_field = any(field.name == "rows" for field in attrs.fields(cls))  # type: ignore[arg-type]
    return not is_field and callable(getattr(cls, "rows", None))


@attrs.define(eq=False)
class _Found:
    """
    The tables of one call, as they grow.
    """

    frames: Frames
    parts: dict[str, list[pa.Table]] = attrs.field(factory=dict)
    refused: list[Refused] = attrs.field(factory=list)
    sequences: list[Sequences] = attrs.field(factory=list)

    origins: Origins = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.origins = Origins(self.frames)

    def add(self, name: str, table: pa.Table, places: NDArray[np.int64]) -> None:
        """
        Add rows, and where they come from.
        """
        taken = set(table.column_names)
        for column, values in self.origins.columns(places).items():
            free = column
            while free in taken:
                free += "_"
            table = table.append_column(free, values)
        self.parts.setdefault(name, []).append(table)

    def tables(self) -> dict[str, pa.Table]:
        """
        Join the parts of each table.
        """
        import pyarrow as pa

        return {
            name: parts[0]
            if len(parts) == 1
            else pa.concat_tables(parts, promote_options="permissive")
            for name, parts in self.parts.items()
        }


class DeclaredTabulator:
    """
    Makes tables of the frames of any declared protocol.
    """

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._classes = tuple(protocol.table(Direction.REQUEST).values())
        self._sources = {
            c: Source(protocol, c, layout_of(protocol, c)) for c in self._classes
        }
        self._pickers: list[tuple[type[Message], Picker]] = []
        for cls, source in self._sources.items():
            picker = picker_of(protocol, protocol.framing, source.layout)
            if picker is not None and not has_rows(cls):
                self._pickers.append((cls, picker))
        self._sessions: OrderedDict[tuple[str, Any], Session] = OrderedDict()
        self._row_tables: dict[type, RowTable] = {}

    def tables(self, frames: Frames) -> Tables:
        """
        Make tables of frames.
        """
        found = _Found(frames)
        self._tabulate(frames, found)
        return Tables(found.tables(), refused=found.refused, sequences=found.sequences)

    def tick(self, now: float) -> Tables:
        """
        Nothing waits here.
        """
        del now
        return Tables()

    def preface(self, peer: Peer) -> Sequence[bytes]:
        """
        Each frame can be read by itself.
        """
        del peer
        return ()

    def close(self) -> Tables:
        """
        Nothing waits, and nothing is kept.
        """
        self._sessions.clear()
        return Tables()

    # By columns ------------------------------------------------------------

    def _tabulate(self, frames: Frames, found: _Found) -> None:
        left = np.ones(len(frames), np.bool_)
        for cls, picker in self._pickers:
            picked = picker.pick(frames.data, frames.starts, frames.lengths)
            if picked is not None and len(picked.places):
                left[picked.places] = False
                self._add_columns(cls, picked, found)
        rest = np.flatnonzero(left)
        if len(rest):
            self._parse(frames, rest, found)

    def _add_columns(self, cls: type[Message], picked: Picked, found: _Found) -> None:
        frames, places = found.frames, picked.places
        chunk = Chunk(
            picked.heads,
            picked.rows,
            picked.counts,
            frames.times[places],
            frames.senders[places],
            frames.exporters.__getitem__,
        )
        batch: Batch[Any] = Batch(self._sources[cls], [chunk])
        counts = picked.counts
        rows = places if counts is None else np.repeat(places, counts)
        if len(rows):
            found.add(table_name(cls), batch.to_arrow(), rows)
        self._count(cls, batch, places, found)

    def _count(
        self,
        cls: type[Message],
        batch: Batch[Any],
        places: NDArray[np.int64],
        found: _Found,
    ) -> None:
        """
        Take down the senders' own numbers.
        """
        numbered = self._numbered(cls)
        if numbered is None:
            return

        def column(name: str) -> NDArray[np.int64]:
            return _as_numbers(batch._source.column(batch, name)[0])

        streams = np.zeros(len(places), "i8")
        for name in numbered.streams:
            streams = streams * 65_599 + column(name)
        step = numbered.step
        steps = np.full(len(places), step) if isinstance(step, int) else column(step)
        found.sequences.append(
            Sequences(
                found.frames.senders[places],
                streams,
                column(numbered.field),
                steps,
                numbered.bits,
            )
        )

    def _numbered(self, cls: type[Message]) -> Numbered | None:
        numbered = self._protocol.numbered
        if isinstance(numbered, Mapping):
            return numbered.get(cls)
        return numbered

    # One by one ------------------------------------------------------------

    def _parse(self, frames: Frames, places: NDArray[np.int64], found: _Found) -> None:
        messages: dict[type[Message], list[Any]] = {}
        rows: dict[type, tuple[list[Any], list[int]]] = {}
        origins: dict[type[Message], list[int]] = {}
        for place in places.tolist():
            peer = frames.exporters[int(frames.senders[place])]
            session = self._session(peer)
            session.receive_data(frames.frame(place))
            events, error = _events(session)
            if error is not None:
                found.refused.append(Refused(place, "malformed", error))
                continue
            for event in events:
                message = event.message
                cls = type(message)
                if has_rows(cls):
                    try:
                        made = list(message.rows())
                    except Exception as exc:
                        found.refused.append(Refused(place, "malformed", exc))
                        break
                    for row in made:
                        values, owners = rows.setdefault(type(row), ([], []))
                        values.append(row)
                        owners.append(place)
                messages.setdefault(cls, []).append((event.header, message))
                origins.setdefault(cls, []).append(place)
        for cls, pairs in messages.items():
            sources = np.array(origins[cls], "i8")
            chunk = Chunk(
                pairs,
                None,
                None,
                frames.times[sources],
                frames.senders[sources],
                frames.exporters.__getitem__,
            )
            source = attrs.evolve(self._sources[cls], layout=None)
            batch: Batch[Any] = Batch(source, [chunk])
            if not has_rows(cls):
                found.add(table_name(cls), batch.to_arrow(), sources)
            self._count(cls, batch, sources, found)
        for kind, (values, owners) in rows.items():
            maker = self._row_tables.get(kind)
            if maker is None:
                maker = self._row_tables[kind] = RowTable(kind)
            found.add(table_name(kind), maker.table(values), np.array(owners, "i8"))

    def _session(self, peer: Peer) -> Session:
        sessions, key = self._sessions, (peer.transport, peer.address)
        session = sessions.get(key)
        if session is None or session.closed:
            framing = self._protocol.framing
            session = sessions[key] = Session(
                self._protocol, Role.SERVER, peer, stream=False, framing=framing
            )
            if len(sessions) > _MOST_SESSIONS:
                sessions.popitem(last=False)
        else:
            sessions.move_to_end(key)
        return session


def _events(session: Session) -> tuple[list[MessageReceived], Exception | None]:
    """
    Give what a datagram held, or what was wrong with it: it is taken whole, or not.
    """
    found: list[MessageReceived] = []
    error: Exception | None = None
    while (event := session.next_event()) is not NEED_DATA:
        if isinstance(event, MessageReceived):
            found.append(event)
        else:
            error = error or getattr(event, "error", None) or RemoteProtocolError()
            if session.closed:
                break
    return found, error


def _as_numbers(values: NDArray[Any]) -> NDArray[np.int64]:
    if values.dtype.kind in "iub":
        return values.astype("i8")
    return np.array([hash(value) for value in values.tolist()], "i8")
