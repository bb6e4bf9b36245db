"""
scapy: layers of fields.
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar

from scapy import fields as f
from scapy.layers.netflow import NetflowHeader, NetflowHeaderV5, NetflowRecordV5
from scapy.packet import Packet, bind_layers

from benchmarks.codec.case import Candidate
from benchmarks.codec.messages import choice, fixed, netflow, variable


class Telemetry(Packet):
    name = "Telemetry"
    fields_desc: ClassVar[list[Any]] = [
        f.ByteField("type", 0),
        f.ByteField("flags", 0),
        f.ShortField("seq", 0),
        f.IntField("device", 0),
        f.LongField("timestamp", 0),
        f.IEEEFloatField("temp", 0.0),
        f.IEEEFloatField("volt", 0.0),
        f.SignedShortField("delta", 0),
    ]


class Inner(Packet):
    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        return b"", s


class Pair(Inner):
    name = "Pair"
    fields_desc: ClassVar[list[Any]] = [f.ShortField("id", 0), f.IntField("value", 0)]


class Report(Packet):
    name = "Report"
    fields_desc: ClassVar[list[Any]] = [
        f.XShortField("magic", 0xABCD),
        f.ByteField("ver", 0),
        f.ShortField("seq", 0),
        f.FieldLenField("length", None, length_of="text", fmt="H"),
        f.StrLenField("text", b"", length_from=lambda p: p.length),
        f.FieldLenField("count", None, count_of="pairs", fmt="B"),
        f.PacketListField("pairs", [], Pair, count_from=lambda p: p.count),
        f.StrField("tail", b""),
    ]


class Ping(Inner):
    name = "Ping"
    fields_desc: ClassVar[list[Any]] = [f.LongField("stamp", 0), f.IntField("nonce", 0)]


class Data(Inner):
    name = "Data"
    fields_desc: ClassVar[list[Any]] = [
        f.IntField("addr", 0),
        f.FieldLenField("length", None, length_of="content", fmt="H"),
        f.StrLenField("content", b"", length_from=lambda p: p.length),
    ]


class Error(Inner):
    name = "Error"
    fields_desc: ClassVar[list[Any]] = [
        f.ShortField("code", 0),
        f.FieldLenField("length", None, length_of="text", fmt="B"),
        f.StrLenField("text", b"", length_from=lambda p: p.length),
    ]


class Choice(Packet):
    name = "Choice"
    fields_desc: ClassVar[list[Any]] = [
        f.BitField("version", 0, 4),
        f.BitField("prio", 0, 4),
        f.ByteField("hops", 0),
        f.ByteEnumField("kind", 0, {v: k for k, v in choice.KINDS.items()}),
        f.FlagsField("bits", 0, 8, [*choice.FLAGS, "r4", "r5", "r6", "r7"]),
    ]


for _kind, _body in ((1, Ping), (2, Data), (3, Error)):
    bind_layers(Choice, _body, kind=_kind)


def _report_values(o: Any) -> tuple[Any, ...]:
    pairs = [(pair.id, pair.value) for pair in o.pairs]
    magic = o.magic.to_bytes(2, "big")
    return magic, o.ver, o.seq, o.text.decode(), pairs, o.tail


def _choice_values(o: Any) -> tuple[Any, ...]:
    body = o.payload
    values: tuple[Any, ...]
    if o.kind == 1:
        values = body.stamp, body.nonce
    elif o.kind == 2:
        values = body.addr, body.content
    else:
        values = body.code, body.text.decode()
    return o.version, o.prio, o.hops, o.kind, int(o.bits), values


def _choice_objects() -> list[Any]:
    return [
        Choice(version=2, prio=5, hops=9, kind=1, bits=3)
        / Ping(stamp=1 << 40, nonce=99),
        Choice(version=1, prio=7, hops=3, kind=2, bits=8)
        / Data(addr=70_000, content=bytes(range(16))),
        Choice(version=3, prio=1, hops=200, kind=3, bits=1)
        / Error(code=404, text=b"not found"),
    ]


def _flow_values(o: Any) -> Any:
    """
    Read a packet's numbers from the bytes of its layers: the names differ.
    """
    row = struct.Struct(">" + "".join(netflow.RECORD.values()))
    head = struct.unpack(">" + "".join(netflow.HEADER.values()), bytes(o)[:24])
    assert isinstance(o.payload, NetflowHeaderV5)
    records, layer = [], o.payload.payload
    while isinstance(layer, NetflowRecordV5):
        records.append(row.unpack(bytes(layer)[:48]))
        layer = layer.payload
    return head, records


def candidates() -> dict[str, list[Candidate]]:
    """
    Give the candidates by case. What is built was not parsed before, as scapy keeps
    the bytes of what it parsed.
    """
    telemetry = Telemetry(**dict(zip(fixed.NAMES, fixed.VALUES, strict=True)))
    pairs = [Pair(id=number, value=value) for number, value in variable.PAIRS]
    report = Report(
        ver=2, seq=777, text=variable.NAME.encode(), pairs=pairs, tail=variable.TAIL
    )
    return {
        "A": [Candidate("scapy", Telemetry, bytes, objects=[telemetry])],
        "B": [Candidate("scapy", Report, bytes, _report_values, [report])],
        "C": [Candidate("scapy", Choice, bytes, _choice_values, _choice_objects())],
        "D": [Candidate("scapy", NetflowHeader, values=_flow_values)],
    }
