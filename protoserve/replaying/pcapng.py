"""
A journal as a capture that Wireshark opens.

The bytes are those of the journal; the packets around them are made up: Ethernet, IP,
and UDP or TCP with the addresses and ports of both ends, sequence numbers, checksums,
and a handshake and an end for each connection. Unix sockets, which have no ports, become
connections between ports of the loopback. What was sent over TLS is in the clear.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from protoserve.errors import DeclarationError
from protoserve.journal import Entry
from protoserve.urls import STREAMS, Address

__all__ = ["write_pcapng"]

_LONGEST = 16_000
"""Bytes of a segment; longer messages are cut."""
_MOST_CONNECTIONS = 16_384
"""Those that are open at a time; the one used longest ago ends first."""
_SNAPLEN = 262_144
_WORD = 1 << 32
_CLIENT_PORTS = range(49_152, 65_536)
_FIN, _SYN, _PSH, _ACK = 1, 2, 8, 16

_End = tuple[str, int]


@attrs.define
class _Connection:
    """
    The next sequence number of each end.
    """

    ends: tuple[_End, _End]
    """The client and the server."""
    sequences: list[int] = attrs.field(factory=lambda: [0, 0])


def write_pcapng(
    entries: Iterable[Entry], path: str | os.PathLike[str], *, port: int = 9
) -> int:
    """
    Write a capture of what a journal has.

    Args:
        entries: the journal's, see `protoserve.journal.read_journal`.
        path: the file; one that is there is replaced.
        port: which port of the loopback a Unix socket's server gets.

    Returns:
        How many packets there are.

    Raises:
        DeclarationError: dpkt is missing.
        OSError: the file cannot be written.
    """
    try:
        from dpkt import pcapng
    except ModuleNotFoundError as exc:
        raise DeclarationError(
            "writing captures needs dpkt; install it with "
            "pip install 'protoserve[captures]'"
        ) from exc
    with Path(path).open("wb") as file:
        writer = _Writer(pcapng.Writer(file, snaplen=_SNAPLEN), port)
        for entry in entries:
            writer.write(entry)
        writer.finish()
        return writer.count


class _Writer:
    """
    Makes packets of entries.
    """

    def __init__(self, writer: Any, port: int) -> None:
        self.count = 0
        self._writer = writer
        self._port = port
        self._time = 0.0
        self._connections: OrderedDict[int, _Connection] = OrderedDict()

    def write(self, entry: Entry) -> None:
        """
        Write the packets of an entry, with those that it takes before.
        """
        # Answers are written down in the order in which they were made, so that a
        # request that came together with another may seem to be older.
        self._time = max(self._time, entry.time)
        if entry.transport in STREAMS:
            self._write_segments(entry)
            return
        ends = self._ends(entry)
        here, there = ends if entry.from_client else ends[::-1]
        self._put(here, there, _datagram(here, there, entry.raw))

    def finish(self) -> None:
        """
        End the connections that are left.
        """
        while self._connections:
            self._end(self._connections.popitem(last=False)[1])

    def _ends(self, entry: Entry) -> tuple[_End, _End]:
        """
        Give the addresses of the client and the server.
        """
        span = len(_CLIENT_PORTS)
        made_up = ("127.0.0.1", _CLIENT_PORTS[entry.session % span])
        own, peer = _end_of(entry.local), _end_of(entry.peer)
        client, server = (peer, own) if entry.role == "server" else (own, peer)
        client, server = client or made_up, server or ("127.0.0.1", self._port)
        if (":" in client[0]) != (":" in server[0]):
            server = ("::1" if ":" in client[0] else "127.0.0.1", server[1])
        return client, server

    def _write_segments(self, entry: Entry) -> None:
        connection = self._connections.get(entry.session)
        if connection is None:
            connection = self._begin(entry)
        self._connections.move_to_end(entry.session)
        way = 0 if entry.from_client else 1
        for at in range(0, len(entry.raw), _LONGEST):
            data = entry.raw[at : at + _LONGEST]
            self._segment(connection, way, _PSH | _ACK, data)

    def _begin(self, entry: Entry) -> _Connection:
        connection = _Connection(self._ends(entry))
        self._connections[entry.session] = connection
        if len(self._connections) > _MOST_CONNECTIONS:
            self._end(self._connections.popitem(last=False)[1])
        self._segment(connection, 0, _SYN)
        self._segment(connection, 1, _SYN | _ACK)
        self._segment(connection, 0, _ACK)
        return connection

    def _end(self, connection: _Connection) -> None:
        self._segment(connection, 0, _FIN | _ACK)
        self._segment(connection, 1, _FIN | _ACK)
        self._segment(connection, 0, _ACK)

    def _segment(
        self, connection: _Connection, way: int, flags: int, data: bytes = b""
    ) -> None:
        from dpkt import tcp

        here, there = connection.ends[way], connection.ends[1 - way]
        sequences = connection.sequences
        segment = tcp.TCP(
            sport=here[1],
            dport=there[1],
            seq=sequences[way],
            ack=sequences[1 - way] if flags & _ACK else 0,
            flags=flags,
            win=65_535,
            data=data,
        )
        used = len(data) + bool(flags & (_SYN | _FIN))
        sequences[way] = (sequences[way] + used) % _WORD
        self._put(here, there, segment)

    def _put(self, here: _End, there: _End, packet: Any) -> None:
        from dpkt import ethernet, ip, ip6

        source, target = (ipaddress.ip_address(end[0]).packed for end in (here, there))
        kind = ip.IP_PROTO_TCP if hasattr(packet, "seq") else ip.IP_PROTO_UDP
        whole: Any
        if len(source) == 4:
            whole = ip.IP(src=source, dst=target, p=kind, data=packet)
            ether = ethernet.ETH_TYPE_IP
        else:
            whole = ip6.IP6(
                src=source, dst=target, nxt=kind, hlim=64, plen=len(packet), data=packet
            )
            ether = ethernet.ETH_TYPE_IP6
        frame = ethernet.Ethernet(src=bytes(6), dst=bytes(6), type=ether, data=whole)
        self._writer.writepkt(bytes(frame), ts=self._time)
        self.count += 1


def _datagram(here: _End, there: _End, data: bytes) -> Any:
    from dpkt import udp

    return udp.UDP(sport=here[1], dport=there[1], ulen=8 + len(data), data=data)


def _end_of(url: str) -> _End | None:
    """
    Give an end's address; `None` for Unix sockets.
    """
    with contextlib.suppress(DeclarationError, ValueError):
        address = Address.parse(url)
        if address.port is not None:
            host = address.host.partition("%")[0]
            return str(ipaddress.ip_address(host)), address.port
    return None
