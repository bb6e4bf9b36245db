"""
NetFlow v5 in a batch route: ``python -m benchmarks.telemetry.receive PORT BUFFER``.

The least that a declared collector does: it receives, and makes of every field of every
flow a column of the machine's own numbers. On SIGTERM it says how many flows there were.
"""

from __future__ import annotations

import os
import signal
import sys

import attrs
from construct import Array, Int8ub, Int16ub, Int32ub, this

from benchmarks.server.peers.running import HOST, enlarge, say
from protoserve import Batch, Message, Protocol, Service, batch_route, count_of, wire
from protoserve.serve import make_server
from protoserve.urls import Address

LIFETIME = 900


class Flow(Message):
    srcaddr: int = wire(Int32ub)
    dstaddr: int = wire(Int32ub)
    nexthop: int = wire(Int32ub)
    input: int = wire(Int16ub)
    output: int = wire(Int16ub)
    dPkts: int = wire(Int32ub)  # noqa: N815 - the standard's name
    dOctets: int = wire(Int32ub)  # noqa: N815 - likewise
    First: int = wire(Int32ub)
    Last: int = wire(Int32ub)
    srcport: int = wire(Int16ub)
    dstport: int = wire(Int16ub)
    pad1: int = wire(Int8ub)
    tcp_flags: int = wire(Int8ub)
    prot: int = wire(Int8ub)
    tos: int = wire(Int8ub)
    src_as: int = wire(Int16ub)
    dst_as: int = wire(Int16ub)
    src_mask: int = wire(Int8ub)
    dst_mask: int = wire(Int8ub)
    pad2: int = wire(Int16ub)


class Export(Message):
    version: int = wire(Int16ub)
    count: int = wire(Int16ub, value=count_of("flows"))
    uptime: int = wire(Int32ub)
    unix_secs: int = wire(Int32ub)
    unix_nsecs: int = wire(Int32ub)
    flow_sequence: int = wire(Int32ub)
    engine_type: int = wire(Int8ub)
    engine_id: int = wire(Int8ub)
    sampling: int = wire(Int16ub)
    flows: list[Flow] = wire(Array(this.count, Flow.construct))


FIELDS = [field.name for field in attrs.fields(Flow)]
netflow5 = Protocol("netflow5", requests=Export)


@attrs.define
class Flows:
    rows: int = 0
    octets: int = 0

    @batch_route(max_rows=8192, max_age=0.05)
    def export(self, batch: Batch[Export]) -> None:
        decoded = {}
        for name in FIELDS:
            values = batch[name]
            decoded[name] = values.astype(values.dtype.newbyteorder("="))
        self.octets += int(decoded["dOctets"].sum())
        self.rows += len(batch)


def main() -> None:
    signal.alarm(LIFETIME)
    port, buffer = map(int, sys.argv[1:])
    flows = Flows()

    def end(*_):
        say(str(flows.rows))
        os._exit(0)

    server = make_server(Service(netflow5, flows), Address("udp", HOST, port), "batch")
    enlarge(server.socket, buffer)
    signal.signal(signal.SIGTERM, end)
    server.serve_forever()


if __name__ == "__main__":
    main()
