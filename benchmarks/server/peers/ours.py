"""
A declared service for streams in whichever mode: messages, routes, the usual limits.
"""

from __future__ import annotations

import types
from typing import Any

import attrs
from construct import Bytes, Int8ub, Int16ub, Int32ub

from benchmarks.server.peers.running import HOST, Options, ready
from benchmarks.server.shape import SMALL, Shape
from protoserve import LengthPrefixed, Message, Protocol, Request, Service, route, wire
from protoserve.serve import Runner
from protoserve.urls import Address

MAX_SIZE = 4 << 20


class Head(Message):
    kind: int = wire(Int8ub)
    ident: int = wire(Int32ub, default=0)


class Pong(Message):
    body: bytes = wire(Bytes(8))


class Ping(Request[Pong]):
    body: bytes = wire(Bytes(8))


small = Protocol(
    "small",
    framing=LengthPrefixed(Int16ub),
    header=Head,
    tag="kind",
    correlate="ident",
    requests={1: Ping},
    responses={0x81: Pong},
)


@attrs.define
class Station:
    @route
    def ping(self, message: Ping) -> Pong:
        return Pong(message.body)


def service_of(shape: Shape) -> Service:
    """
    Make the service for frames of a shape.
    """
    if shape == SMALL:
        return Service(small, Station())
    head = _class(
        "Head",
        Message,
        {
            "__annotations__": {"kind": int, "ident": int},
            "kind": wire({1: Int8ub, 2: Int16ub}[shape.kind]),
            "ident": wire(Int32ub, default=0),
        },
    )
    requests, responses, methods = {}, {}, {}
    for kind in range(1, shape.kinds + 1):
        reply = _message(f"Reply{kind}", Message, shape)
        request = _message(f"Ask{kind}", Request[reply], shape)
        requests[kind] = request
        responses[kind | shape.reply_bit] = reply
        methods[f"ask{kind}"] = _route(request, reply, shape)
    protocol = Protocol(
        "shaped",
        framing=LengthPrefixed(
            {2: Int16ub, 4: Int32ub}[shape.prefix], max_size=MAX_SIZE
        ),
        header=head,
        tag="kind",
        correlate="ident",
        requests=requests,
        responses=responses,
    )
    return Service(protocol, attrs.define(type("Shaped", (), methods))())


def _names(shape: Shape) -> list[str]:
    return [f"f{i}" for i in range(shape.fields)] or ["body"]


def _message(name: str, base: Any, shape: Shape) -> Any:
    form, kind = (Int16ub, int) if shape.fields else (Bytes(shape.body), bytes)
    names = _names(shape)
    body: dict[str, Any] = {field: wire(form) for field in names}
    body["__annotations__"] = dict.fromkeys(names, kind)
    return _class(name, base, body)


def _class(name: str, base: Any, body: dict[str, Any]) -> Any:
    body["__module__"] = __name__
    return types.new_class(name, (base,), {}, lambda found: found.update(body))


def _route(request: Any, reply: Any, shape: Shape) -> Any:
    values = ", ".join(f"message.{name}" for name in _names(shape))
    method = eval(f"lambda self, message: reply({values})", {"reply": reply})
    method.__name__ = method.__qualname__ = request.__name__.lower()
    method.__module__ = __name__
    method.__annotations__ = {"message": request, "return": reply}
    return route(method)


def streams(options: Options, mode: str) -> None:
    """
    Serve frames.
    """
    runner = Runner(
        service_of(options.shape), [Address("tcp", HOST, options.port)], mode
    )
    runner.bind()
    ready()
    runner.serve()
