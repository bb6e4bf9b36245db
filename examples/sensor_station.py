"""
A station that takes sensors' readings: the smallest whole service.

Run it with ``protoserve run examples.sensor_station:app --listen
tcp://127.0.0.1:9000``, or by itself with a port as its argument.
"""

import argparse

import attrs
from construct import Array, Float32b, Int8ub, Int16ub, Int32ub, this

from protoserve import (
    LengthPrefixed,
    Message,
    Protocol,
    Request,
    Service,
    count_of,
    route,
    wire,
)
from protoserve.server import ThreadingTCPServer


class Ack(Message):
    """
    The station took the reading.
    """

    device: int = wire(Int32ub)


class Reading(Request[Ack]):
    """
    One burst of measurements.
    """

    device: int = wire(Int32ub, doc="EUI-32 of the sensor")
    celsius: float = wire(Float32b, unit="°C", default=0.0)
    count: int = wire(Int8ub, value=count_of("samples"))
    samples: list[int] = wire(Array(this.count, Int16ub), factory=list)


class Header(Message):
    """
    What every message starts with.
    """

    kind: int = wire(Int8ub)
    sequence: int = wire(Int16ub, default=0)


sensors = Protocol(
    "sensors",
    framing=LengthPrefixed(Int16ub, max_size=4096),
    header=Header,
    tag="kind",
    requests={1: Reading},
    responses={0x81: Ack},
    correlate="sequence",
)


@attrs.define
class Station:
    """
    Remembers the last temperature of each device.
    """

    last: dict[int, float] = attrs.field(factory=dict)

    @route
    def reading(self, message: Reading) -> Ack:
        """
        Take a reading.
        """
        self.last[message.device] = message.celsius
        return Ack(message.device)


app = Service(sensors, Station())


def main(port: int) -> None:
    """
    Serve on the loopback until interrupted.
    """
    with ThreadingTCPServer(("127.0.0.1", port), app.RequestHandlerClass) as server:
        server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, nargs="?", default=9000, help="(%(default)s)")
    try:
        main(parser.parse_args().port)
    except (OSError, OverflowError) as error:  # the port is taken, or is none
        parser.error(str(error))
    except KeyboardInterrupt:
        pass
