"""
A station is served over TCP and UDP, and simulated devices talk to it.

Each message is shown as it is decoded on either side. It ends after some seconds,
given as an argument, or at Ctrl-C.
"""

import argparse
import random
import signal
import socket
import threading
import time
from typing import Any

import attrs
from rich.console import Console
from rich.text import Text

from examples.sensor_station import Ack, Reading, sensors
from protoserve import Message, Role, Service, Session, route
from protoserve.events import NEED_DATA, MessageReceived
from protoserve.serve import Runner
from protoserve.urls import Address

console = Console(highlight=False, soft_wrap=True)


def show(transport: str, arrow: str, message: Message) -> None:
    """
    Print one message: its transport, its name, its fields.
    """
    line = Text(f"{transport:<4}", "cyan")
    line.append(f" {arrow} ")
    line.append(f"{type(message).__name__:<8}", "bold")
    for field in attrs.fields(type(message)):  # type: ignore[arg-type]
        line.append(f" {field.name}=", "dim")
        line.append(str(getattr(message, field.name)), "green")
    console.print(line)


@attrs.define
class ShownStation:
    """
    A station that shows what it is told.
    """

    taken: int = 0

    @route
    def reading(self, message: Reading, session: Session) -> Ack:
        """
        Take a reading.
        """
        self.taken += 1
        show(session.peer.transport if session.peer else "", "-->", message)
        return Ack(message.device)


def device(address: Address, number: int, stop: threading.Event) -> None:
    """
    Send readings to a station and show its answers.
    """
    chance = random.Random(number)
    kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
    session = Session(sensors, Role.CLIENT, stream=address.is_stream)
    with socket.socket(type=kind) as sock:
        sock.settimeout(2)
        sock.connect((address.host, address.port))
        while not stop.wait(chance.uniform(0.1, 0.5)):
            samples = [chance.randrange(4096) for _ in range(chance.randrange(5))]
            celsius = round(chance.uniform(18, 24) * 8) / 8
            session.send(Reading(number, celsius, samples=samples))
            for data in session.data_to_send():
                sock.send(data)
            session.receive_data(sock.recv(4096))
            while (event := session.next_event()) is not NEED_DATA:
                if isinstance(event, MessageReceived):
                    show(address.transport, "<--", event.message)


def main(seconds: float) -> None:
    """
    Run the station and its devices.
    """
    stop = threading.Event()

    def end(*_: Any) -> None:
        stop.set()

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    station = ShownStation()
    addresses = [Address("tcp", "127.0.0.1", 0), Address("udp", "127.0.0.1", 0)]
    runner = Runner(Service(sensors, station), addresses)
    for address in runner.bind():
        console.print(f"listening on {address}")
    serving = threading.Thread(target=runner.serve)
    serving.start()
    devices = [
        threading.Thread(target=device, args=(runner.bound[i % 2], 0xE0 + i, stop))
        for i in range(4)
    ]
    for thread in devices:
        thread.start()
    started = time.monotonic()
    stop.wait(seconds)
    stop.set()
    for thread in devices:
        thread.join()
    runner.stop()
    serving.join()
    passed = time.monotonic() - started
    console.print(f"{station.taken} readings in {passed:.1f} s; the station is closed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "seconds", type=float, nargs="?", default=5, help="(%(default)s)"
    )
    main(parser.parse_args().seconds)
