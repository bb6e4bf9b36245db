"""
A protocol of sensors, for collectors and workers that tests start.

Its records are of a fixed layout, so columns are taken as they come; notes vary.
"""

import os
from pathlib import Path

import attrs
from construct import (
    Array,
    Float32b,
    GreedyRange,
    Int8ub,
    Int16ub,
    Int32ub,
    PascalString,
    this,
)

from protoserve import (
    Batch,
    LengthPrefixed,
    Message,
    Numbered,
    Protocol,
    Service,
    batch_route,
    count_of,
    wire,
)
from protoserve.telemetry.tables import column


class Header(Message):
    kind: int = wire(Int8ub)
    sequence: int = wire(Int32ub, default=0)


class Sample(Message):
    channel: int = wire(Int8ub)
    volts: float = wire(Float32b, unit="V", doc="as measured")


class Reading(Message, table="readings"):
    device: int = wire(Int32ub)
    count: int = wire(Int8ub, value=count_of("samples"))
    samples: list[Sample] = wire(Array(this.count, Sample.construct), factory=list)


@attrs.frozen
class Line:
    __table__ = "lines"

    device: int
    text: str = column(doc="what was noted")


class Notes(Message):
    device: int = wire(Int16ub)
    texts: list[str] = wire(GreedyRange(PascalString(Int8ub, "utf-8")), factory=list)

    def rows(self):
        for text in self.texts:
            if text == "fail":
                raise ValueError("a line that fails")
            yield Line(self.device, text)


class Status(Message):
    device: int = wire(Int32ub)
    name: str = wire(PascalString(Int8ub, "utf-8"))


stations = Protocol(
    "stations",
    framing=LengthPrefixed(Int16ub, max_size=4096),
    header=Header,
    tag="kind",
    requests={1: Reading, 2: Notes, 3: Status},
    numbered={Reading: Numbered("sequence", streams=("device",))},
)


def reading(device, sequence=0, volts=(1.0, 2.0)):
    """
    Make the datagram of a reading.
    """
    samples = [Sample(number, value) for number, value in enumerate(volts)]
    return framed(Reading(device, samples=samples), 1, sequence)


def framed(message, kind, sequence=0):
    """
    Make a datagram.
    """
    return bytes(Header(kind, sequence)) + bytes(message)


@attrs.define
class Keeper:
    """
    Writes down which devices' readings it was given, a line for each.
    """

    @batch_route(max_rows=4096, max_age=0.1)
    def readings(self, batch: Batch[Reading]) -> None:
        lines = [
            f"{device} {peer.host}\n"
            for device, peer in zip(batch["device"].tolist(), batch.peers, strict=True)
        ]
        with Path(os.environ["KEEPER_FILE"]).open("a") as file:
            file.write("".join(lines))


app = Service(stations, Keeper())
