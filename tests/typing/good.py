"""
Everything here is right: type checkers must find nothing, and know the types.
"""

import enum
from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import attrs
from construct import Array, Bytes, Const, Float32b, Int8ub, Int16ub, Int32ub, this

from protoserve import (
    Batch,
    Frame,
    LengthPrefixed,
    Limits,
    Message,
    Protocol,
    Request,
    Service,
    Session,
    UnknownMessageError,
    batch_route,
    checksum_of,
    checksums,
    count_of,
    length_of,
    on_error,
    route,
    unknown,
    wire,
)
from protoserve.client import AsyncClient, Client
from protoserve.testing import TestClient, live


class Color(enum.IntEnum):
    RED = 1


class Ack(Message):
    device: int = wire(Int32ub)


class Nak(Message, error=True):
    reason: int = wire(Int8ub)


class Point(Message, frozen=True):
    x: int = wire(Int8ub)
    y: int = wire(Int8ub, default=0)


class Reading(Request[Ack]):
    device: int = wire(Int32ub, doc="EUI-32 of the sensor")
    celsius: float = wire(Float32b, unit="°C", default=0.0)
    count: int = wire(Int8ub, value=count_of("samples"))
    samples: list[int] = wire(Array(this.count, Int16ub), factory=list)


class Sized(Message):
    magic: bytes = wire(Const(b"MZ"), init=False)
    length: int = wire(Int16ub, value=length_of("payload", plus=2))
    color: Color = wire(Int8ub, enum=Color)
    payload: bytes = wire(Bytes(this.length - 2))
    where: Point = wire(Point, default=Point(0))
    crc: int = wire(Int16ub, value=checksum_of("payload", using=checksums.crc16_x25))


class Named(Request[Ack | Nak], kw_only=True):
    a: int = wire(Int8ub, default=1)
    b: int = wire(Int8ub)


class Header(Message):
    kind: int = wire(Int8ub)
    sequence: int = wire(Int16ub, default=0)


sensors = Protocol(
    "sensors",
    framing=LengthPrefixed(Int16ub, max_size=4096),
    header=Header,
    tag="kind",
    requests={1: Reading, 2: Named},
    responses={0x81: Ack, 0x82: Nak},
    correlate="sequence",
)


@attrs.define
class Station:
    last: dict[int, float] = attrs.field(factory=dict)

    @route
    def reading(self, message: Reading, session: Session) -> Ack:
        self.last[message.device] = message.celsius
        session.send(Ack(1))
        return Ack(message.device)

    @route
    async def named(self, message: Named, frame: Frame) -> AsyncIterator[Ack]:
        yield Ack(len(frame.data) + message.a)

    @unknown
    def nothing(self, error: UnknownMessageError, header: Header) -> Nak | None:
        return Nak(header.kind)

    @on_error(ValueError)
    def failed(self, error: ValueError) -> Iterator[Nak]:
        yield Nak(len(str(error)))


app = Service(sensors, Station(), limits=Limits(idle=None))

reading = Reading(7)
assert_type(reading, Reading)
assert_type(Reading.parse(b""), Reading)
assert_type(bytes(reading), bytes)
assert_type(reading.device, int)
assert_type(reading.samples, list[int])
assert_type(Reading(device=7, celsius=21.5, samples=[1, 2]).celsius, float)
assert_type(Named(b=2), Named)
assert_type(Sized(Color.RED, b"x", where=Point(1, y=2)).where.x, int)


@attrs.define
class Collector:
    @batch_route(max_rows=100, max_age=0.5)
    def points(self, batch: Batch[Point]) -> None:
        assert_type(len(batch), int)
        assert_type(batch.messages[0], Point)
        assert_type(list(batch.columns), list[str])


def ask() -> None:
    with Client(sensors, "tcp://127.0.0.1:9000", timeout=1.0) as client:
        assert_type(client.call(reading), Ack)
        assert_type(client.call(Named(b=2), timeout=2.0), Ack | Nak)
        assert_type(next(client.stream(reading)), Ack)
        assert_type(list(client.call_many([Reading(7)], window=8)), list[Ack])
        assert_type(client.exchange(reading), Message)
        assert_type(client.stats.late, int)


async def ask_awaited() -> None:
    async with AsyncClient(sensors, "udp://127.0.0.1:9000", retries=2) as client:
        assert_type(await client.call(reading), Ack)
        assert_type(await client.call(Named(b=2)), Ack | Nak)
        async for answer in client.call_many([Reading(7)]):
            assert_type(answer, Ack)


def try_out(app: Service) -> None:
    with TestClient(app, split=False) as client, live(app, mode="loop") as server:
        assert_type(client.call(reading), Ack)
        assert_type(list(client.call_many([Reading(7)])), list[Ack])
        assert_type(client.receive(), Message)
        assert_type(server.client().call(Named(b=2)), Ack | Nak)
