"""
What is asked of servers: the rows of the table.
"""

from __future__ import annotations

from typing import Literal

import attrs

from benchmarks.server.shape import SMALL, Shape

Kind = Literal["stream", "answer", "ingest", "idle"]


@attrs.frozen
class Load:
    """
    One way to load a server.
    """

    key: str
    title: str
    seen: str
    """What a reader sees in the table, in one sentence."""
    kind: Kind
    generator: tuple[str, ...]
    """The program; ``PORT`` stands for the server's."""
    references: tuple[str, str, str]
    """The servers that all are compared with: in C, the standard library's, by hand."""
    unit: str = "requests"
    """What there is a number of."""
    by_time: bool = False
    """Whether the time of one request is looked at, not the work done."""
    shape: Shape = SMALL

    warm: int = 1
    """How many requests have to be answered before it is measured."""

    def command(self, port: int) -> list[str]:
        """
        Give the program that makes the load, and its arguments.
        """
        return [str(port) if word == "PORT" else word for word in self.generator]


_STREAMS = ("C, epoll", "ThreadingTCPServer", "by hand, uvloop")
_DATAGRAMS = ("C, recvmmsg", "UDPServer", "by hand, recvmmsg")


LOADS = (
    Load(
        "udp-ingest",
        "Datagrams of 32 bytes taken from a full queue",
        "How many queued datagrams of eight fields a receiver takes, decodes and hands "
        "on in a second of its processor time.",
        "ingest",
        ("load_udp", "fill", "PORT", "8"),
        _DATAGRAMS,
        "datagrams",
    ),
    Load(
        "udp-answer",
        "Datagrams answered, 64 outstanding",
        "How many datagrams a server answers in a second of its processor time while "
        "eight clients have eight requests outstanding each.",
        "answer",
        ("load_udp", "answer", "PORT", "8", "8"),
        _DATAGRAMS,
    ),
    Load(
        "tcp-64x1",
        "64 connections, one request outstanding on each",
        "How many 15-byte requests a server answers in a second of its processor time "
        "when each has to be read and answered by itself.",
        "stream",
        ("load_tcp", "PORT", "64", "1"),
        _STREAMS,
    ),
    Load(
        "tcp-64x32",
        "64 connections, 32 requests outstanding on each",
        "The same when many requests arrive together, so that a server gains by "
        "answering all frames of one read with one write.",
        "stream",
        ("load_tcp", "PORT", "64", "32"),
        _STREAMS,
    ),
    Load(
        "tcp-1x1",
        "One connection, one request outstanding",
        "How long a single client waits for its reply, most of it for the two wake-ups "
        "between the cores; the ratios are of that time (p50), so less is better.",
        "stream",
        ("load_tcp", "PORT", "1", "1"),
        _STREAMS,
        by_time=True,
    ),
    Load(
        "churn",
        "Connections made, used for one request and closed, 16 at a time",
        "How many connections a server accepts, answers once and forgets in a second "
        "of its processor time.",
        "stream",
        ("load_churn", "PORT", "16"),
        _STREAMS,
    ),
    Load(
        "idle",
        "Idle connections that have made one request",
        "How much memory of its own a server needs for each open connection.",
        "idle",
        ("load_idle", "PORT"),
        _STREAMS,
        "connections",
    ),
)
