"""
Each line that ends in the marker is wrong: type checkers must say so, there only.
"""

from construct import Array, Int8ub, Int16ub, Int32ub, this

from protoserve import Message, Protocol, Request, count_of, wire
from protoserve.client import Client


class Ack(Message):
    device: int = wire(Int32ub)


class Point(Message, frozen=True):
    x: int = wire(Int8ub)


class Reading(Request[Ack]):
    device: int = wire(Int32ub)
    count: int = wire(Int8ub, value=count_of("samples"))
    samples: list[int] = wire(Array(this.count, Int16ub), factory=list)


reading = Reading(7)
print(reading.devcie)  # E: no such field
Reading("seven")  # E: wrong type of an argument
Reading(devcie=7)  # E: no such argument
Reading()  # E: an argument is missing
Reading(7, count=3)  # E: a computed field is no argument
Reading(7, samples=3)  # E: wrong type of an argument
Reading.parse("text")  # E: wrong type of an argument
text: str = reading.device  # E: wrong type
Point(1).x = 2  # E: frozen


class Wrong(Request[int]):  # E: not answered by a message
    device: int = wire(Int32ub)


class Misspelt(Message):
    device: int = wire(Int32ub, dflt=3)  # E: no such option
    other: int = wire(Int32ub, default="three")  # E: wrong type of a default


client = Client(Protocol("empty"), "udp://127.0.0.1:9000")
client.call(Ack(7))  # E: not a request
number: int = client.call(reading)  # E: the answer is an Ack
client.call(reading, tiemout=3)  # E: no such option
