"""
Kaitai Struct's runtime, with classes as its compiler writes them; it only parses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kaitaistruct import KaitaiStream, KaitaiStruct

from benchmarks.codec.case import Candidate
from benchmarks.codec.messages import choice, netflow, variable

NAME = "kaitaistruct, classes as its compiler writes them"
READS = {"B": "read_u1", "H": "read_u2be", "I": "read_u4be"}


class _Generated(KaitaiStruct):
    def __init__(self, _io: Any, _parent: Any = None, _root: Any = None) -> None:
        super().__init__(_io)
        self._parent = _parent
        self._root = _root or self
        self._read()

    def _read(self) -> None:
        raise NotImplementedError


class Telemetry(_Generated):
    def _read(self) -> None:
        self.type = self._io.read_u1()
        self.flags = self._io.read_u1()
        self.seq = self._io.read_u2be()
        self.device = self._io.read_u4be()
        self.timestamp = self._io.read_u8be()
        self.temp = self._io.read_f4be()
        self.volt = self._io.read_f4be()
        self.delta = self._io.read_s2be()


class Pair(_Generated):
    def _read(self) -> None:
        self.id = self._io.read_u2be()
        self.value = self._io.read_u4be()


class Report(_Generated):
    def _read(self) -> None:
        self.magic = self._io.read_bytes(2)
        if self.magic != variable.MAGIC:
            raise ValueError(self.magic)
        self.ver = self._io.read_u1()
        self.seq = self._io.read_u2be()
        self.length = self._io.read_u2be()
        self.name = self._io.read_bytes(self.length).decode("UTF-8")
        self.count = self._io.read_u1()
        self.pairs = []
        for _ in range(self.count):
            self.pairs.append(Pair(self._io, self, self._root))
        self.tail = self._io.read_bytes_full()


class Header(_Generated):
    def _read(self) -> None:
        self.version = self._io.read_bits_int_be(4)
        self.prio = self._io.read_bits_int_be(4)
        self.hops = self._io.read_bits_int_be(8)


class Ping(_Generated):
    def _read(self) -> None:
        self.stamp = self._io.read_u8be()
        self.nonce = self._io.read_u4be()


class Data(_Generated):
    def _read(self) -> None:
        self.addr = self._io.read_u4be()
        self.length = self._io.read_u2be()
        self.payload = self._io.read_bytes(self.length)


class Error(_Generated):
    def _read(self) -> None:
        self.code = self._io.read_u2be()
        self.length = self._io.read_u1()
        self.text = self._io.read_bytes(self.length).decode("UTF-8")


class Packet(_Generated):
    def _read(self) -> None:
        self.hdr = Header(self._io, self, self._root)
        self._io.align_to_byte()
        self.kind = KaitaiStream.resolve_enum(choice.Kind, self._io.read_u1())
        self.flags = self._io.read_u1()
        on = self.kind
        if on == choice.Kind.ping:
            self.body = Ping(self._io, self, self._root)
        elif on == choice.Kind.data:
            self.body = Data(self._io, self, self._root)
        elif on == choice.Kind.error:
            self.body = Error(self._io, self, self._root)


def _numbers(name: str, fields: Mapping[str, str]) -> Any:
    lines = [f"self.{field} = self._io.{READS[c]}()" for field, c in fields.items()]
    names: dict[str, Any] = {}
    exec("def _read(self):\n    " + "\n    ".join(lines), names)
    return type(name, (_Generated,), {"_read": names["_read"]})


FlowHeader = _numbers("FlowHeader", netflow.HEADER)
FlowRecord = _numbers("FlowRecord", netflow.RECORD)


class Flows(_Generated):
    def _read(self) -> None:
        self.hdr = FlowHeader(self._io, self, self._root)
        self.records = []
        for _ in range(self.hdr.count):
            self.records.append(FlowRecord(self._io, self, self._root))


def candidates() -> dict[str, list[Candidate]]:
    """
    Give the candidates by case.
    """
    classes = {"A": Telemetry, "B": Report, "C": Packet, "D": Flows}
    return {key: [Candidate(NAME, cls.from_bytes)] for key, cls in classes.items()}
