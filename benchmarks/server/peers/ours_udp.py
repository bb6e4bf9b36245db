"""
A declared service for datagrams in whichever mode: messages, routes, the usual limits.

The socket gets a larger buffer, as everyone's does here, so that a queue can be filled.
"""

from __future__ import annotations

import attrs
from construct import Float64b, Int8ub, Int16ub, Int32ub, Int64sb

import protoserve
from benchmarks.server.peers.running import HOST, Options, Tally, enlarge, ready
from protoserve import Message, Protocol, Request, Service, route, wire
from protoserve.serve import make_server
from protoserve.urls import Address


class Reading(Message):
    """
    All eight fields, for those who only take them.
    """

    seq: int = wire(Int32ub)
    device: int = wire(Int16ub)
    kind: int = wire(Int8ub)
    flags: int = wire(Int8ub)
    value: float = wire(Float64b)
    at: int = wire(Int64sb)
    low: int = wire(Int32ub)
    high: int = wire(Int32ub)


telemetry = Protocol("telemetry", requests=Reading)


@attrs.define
class Collector:
    tally: Tally

    @route
    def reading(self, message: Reading) -> None:
        self.tally.add(message.seq)


class Label(Message):
    seq: int = wire(Int32ub)
    device: int = wire(Int16ub)
    kind: int = wire(Int8ub)
    flags: int = wire(Int8ub)


class Stored(Message):
    value: float = wire(Float64b)
    at: int = wire(Int64sb)
    low: int = wire(Int32ub)
    high: int = wire(Int32ub)


class Sample(Request[Stored]):
    value: float = wire(Float64b)
    at: int = wire(Int64sb)
    low: int = wire(Int32ub)
    high: int = wire(Int32ub)


sampling = Protocol(
    "sampling",
    header=Label,
    tag="kind",
    correlate="seq",
    requests={3: Sample},
    responses={0x83: Stored},
)


@attrs.define
class Store:
    @route
    def sample(self, message: Sample) -> Stored:
        return Stored(message.value, message.at, message.low, message.high)


def _datagrams(
    service: Service, options: Options, mode: str, *, gro: bool = False
) -> None:
    server = make_server(service, Address("udp", HOST, options.port), mode)
    server.gro = gro
    enlarge(server.socket, options.buffer)
    ready()
    server.serve_forever()


def ingest(options: Options, mode: str) -> None:
    """
    Take datagrams: a message and a route's call each.
    """
    _datagrams(Service(telemetry, Collector(Tally(options.every))), options, mode)


def answer(options: Options, mode: str) -> None:
    """
    Answer datagrams.
    """
    _datagrams(Service(sampling, Store()), options, mode)


def coalesced(options: Options, mode: str) -> None:
    """
    Likewise as `batches`, with datagrams that the kernel may put together.
    """
    batches(options, mode, gro=True)


def batches(options: Options, mode: str, *, gro: bool = False) -> None:
    """
    Take datagrams: a route that is called with columns.
    """

    @attrs.define
    class Columns:
        tally: Tally

        @protoserve.batch_route(max_rows=1024, max_age=0.05)
        def readings(self, batch: protoserve.Batch[Reading]) -> None:
            self.tally.add(int(batch["seq"][-1]), len(batch))

    service = Service(telemetry, Columns(Tally(options.every)))
    _datagrams(service, options, mode, gro=gro)
