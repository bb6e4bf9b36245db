"""
Bytes that a peer might send: random ones, and frames that something happened to.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from hypothesis import HealthCheck, Phase, given, seed, settings

from protoserve import Direction, Protocol
from protoserve.testing import from_protocol
from tests.protocols.trials import KINDS

LONGEST = 1 << 16
"""Bytes of the longest input."""

_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xC0, 0xFE, 0xFF)
_MISTAKEN = (
    b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\x00" * 64,
    b"\xff" * 64,
)


def frames(
    protocol: Protocol, direction: Direction, count: int, start: int
) -> list[bytes]:
    """
    Make valid frames from the protocol's declaration.

    Args:
        protocol: the protocol.
        direction: which of its tables.
        count: how many examples of each message.
        start: the seed; the same one gives the same frames.
    """
    made: list[bytes] = []
    for cls in protocol.table(direction).values():

        @seed(start)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(from_protocol(protocol, direction, only=cls, kinds=KINDS))
        def collect(example):
            made.append(example.frame)

        collect()
    return made or [b""]


def inputs(chance: random.Random, seeds: Sequence[bytes]) -> Iterator[bytes]:
    """
    Give inputs without an end.
    """
    while True:
        kind = chance.random()
        if kind < 0.1:
            yield _nonsense(chance)
            continue
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 6))):
            chance.choice(_MUTATIONS)(data, chance, seeds)
        yield bytes(data[:LONGEST])


def _nonsense(chance: random.Random) -> bytes:
    size = chance.choice((0, 1, 2, 4, 8, 12, 16, 32, 64, 256))
    if chance.random() < 0.004:
        size = chance.choice((4096, LONGEST))
    kind = chance.randrange(4)
    if kind == 0:
        return chance.choice(_MISTAKEN)
    if kind == 1:
        return bytes(chance.choices(_EXTREMES, k=size))
    if kind == 2:
        return bytes(chance.choices(range(8), k=size))
    return chance.randbytes(size)


Mutation = Callable[[bytearray, random.Random, Sequence[bytes]], None]


def _place(data: bytearray, chance: random.Random) -> int:
    return chance.randrange(len(data) + 1)


def _flip(data: bytearray, chance: random.Random, _seeds: Sequence[bytes]) -> None:
    for _ in range(chance.randint(1, 8) if data else 0):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _truncate(data: bytearray, chance: random.Random, _seeds: Sequence[bytes]) -> None:
    del data[_place(data, chance) :]


def _delete(data: bytearray, chance: random.Random, _seeds: Sequence[bytes]) -> None:
    start = _place(data, chance)
    del data[start : start + chance.randint(1, 8)]


def _insert(data: bytearray, chance: random.Random, _seeds: Sequence[bytes]) -> None:
    at = _place(data, chance)
    data[at:at] = chance.randbytes(chance.randint(1, 8))


def _extreme(data: bytearray, chance: random.Random, _seeds: Sequence[bytes]) -> None:
    """
    Overwrite what may be a length or a count.
    """
    size = chance.choice((1, 2, 2, 3, 4, 8))
    at = _place(data, chance)
    top = 1 << 8 * size
    number = chance.choice((0, 1, 2, top - 1, top - 2, top // 2, top // 2 - 1, 255))
    order = chance.choice(("big", "little"))
    data[at : at + size] = (number % top).to_bytes(size, order)


def _nudge(data: bytearray, chance: random.Random, _seeds: Sequence[bytes]) -> None:
    """
    Change a number by one.
    """
    if data:
        at = chance.randrange(len(data))
        data[at] = (data[at] + chance.choice((-1, 1))) % 256


def _splice(data: bytearray, chance: random.Random, seeds: Sequence[bytes]) -> None:
    other = chance.choice(seeds)
    data[_place(data, chance) :] = other[chance.randrange(len(other) + 1) :]


def _repeat(data: bytearray, chance: random.Random, _seeds: Sequence[bytes]) -> None:
    start = _place(data, chance)
    piece = bytes(data[start : start + chance.randint(1, 16)])
    times = chance.choice((1, 2, 3, 16, 64))
    if chance.random() < 0.01:
        times = LONGEST // max(1, len(piece))
    data[start:start] = piece * times


def _flood(data: bytearray, chance: random.Random, _seeds: Sequence[bytes]) -> None:
    """
    Put in a variable-length number that does not end.
    """
    at = _place(data, chance)
    size = chance.choice((9, 10, 11, 64, 1024))
    data[at:at] = bytes((chance.choice((0x80, 0xFF)),)) * size


def _pointers(data: bytearray, chance: random.Random, _seeds: Sequence[bytes]) -> None:
    """
    Put in pointers to pointers, as name compression has them.
    """
    at = _place(data, chance)
    low = chance.choice((0, at - 2, at, 12))
    ladder = b"".join(
        (0xC000 | max(0, low + 2 * i) & 0x3FFF).to_bytes(2, "big")
        for i in range(chance.choice((1, 2, 8, 200)))
    )
    if chance.random() < 0.5:
        data[at : at + len(ladder)] = ladder
    else:
        data[at:at] = ladder


_MUTATIONS: tuple[Mutation, ...] = (
    _flip,
    _truncate,
    _delete,
    _insert,
    _extreme,
    _extreme,
    _nudge,
    _splice,
    _repeat,
    _flood,
    _pointers,
)
