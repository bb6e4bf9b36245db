"""
A service whose routes take batches, and write what they got to the file of $GATHERED.
"""

import json
import os

import attrs
from construct import Array, Float32b, Int8ub, Int16ub, Int32ub, PascalString, this

from protoserve import (
    Batch,
    LengthPrefixed,
    Message,
    Protocol,
    Service,
    batch_route,
    count_of,
    wire,
)


class Head(Message):
    kind: int = wire(Int8ub)
    sequence: int = wire(Int16ub, default=0)


class Reading(Message):
    """One row."""

    device: int = wire(Int32ub, doc="EUI-32 of the sensor")
    celsius: float = wire(Float32b, unit="°C")


class Flow(Message):
    packets: int = wire(Int32ub, doc="how many")
    octets: int = wire(Int16ub, unit="B")


class Export(Message):
    """As many rows as it has flows."""

    count: int = wire(Int16ub, value=count_of("flows"))
    uptime: int = wire(Int32ub, unit="ms")
    flows: list[Flow] = wire(Array(this.count, Flow.construct))


class Note(Message):
    """One row, of no fixed layout."""

    text: str = wire(PascalString(Int8ub, "utf8"))
    level: int = wire(Int8ub)


gathered = Protocol(
    "gathered",
    framing=LengthPrefixed(Int16ub),
    header=Head,
    tag="kind",
    requests={1: Reading, 2: Export, 3: Note},
)


@attrs.define
class Writer:
    """
    Writes the columns of each batch as a line.
    """

    path: str

    def write(self, batch):
        columns = {name: values.tolist() for name, values in batch.columns.items()}
        line = json.dumps([batch.messages[0].__class__.__name__, len(batch), columns])
        out = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(out, line.encode() + b"\n")
        os.close(out)

    @batch_route(max_rows=10, max_age=0.2)
    def readings(self, batch: Batch[Reading]) -> None:
        self.write(batch)

    @batch_route(max_rows=10, max_age=0.2)
    async def exports(self, batch: Batch[Export]) -> None:
        self.write(batch)

    @batch_route(max_rows=10, max_age=0.2)
    def notes(self, batch: Batch[Note]) -> None:
        self.write(batch)


app = Service(gathered, Writer(os.environ.get("GATHERED", os.devnull)))
