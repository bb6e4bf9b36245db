"""
``protoserve listen``: show what arrives, and answer nothing.

One thread waits for all sockets. Each stream has a session of its own, and so has
each datagram, as nothing is remembered of who sent one. Peers are bounded in number,
what one of them sends is bounded by the protocol's framing.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import typer

from protoserve.cli.annotate import annotated
from protoserve.cli.connecting import Failed, TlsFiles, told
from protoserve.cli.logs import tell
from protoserve.cli.shown import as_entry, console_for, write_entry
from protoserve.cli.targets import CommandError, load
from protoserve.codec.spans import spans
from protoserve.errors import (
    DeclarationError,
    RemoteProtocolError,
)
from protoserve.events import (
    NEED_DATA,
    Frame,
    MessageReceived,
    MessageRejected,
    StreamBroken,
)
from protoserve.protocol import Direction, Protocol
from protoserve.serve import _remove_stale_socket
from protoserve.session import Peer, Role, Session
from protoserve.urls import Address

__all__ = ["Listener", "listen"]

_MOST_PEERS = 256
_PIECE = 1 << 16


class _Enough(Exception):  # noqa: N818 - it is how a loop ends
    """
    As many messages came as were asked for.
    """


@attrs.define
class Listener:
    """
    Shows messages, one after the other.
    """

    protocol: Protocol
    role: Role
    as_json: bool
    count: int | None
    seen: int = 0
    rejected: int = 0

    @property
    def direction(self) -> Direction:
        """
        The direction of what arrives.
        """
        return Direction.REQUEST if self.role is Role.SERVER else Direction.RESPONSE

    def show(
        self,
        peer: Peer,
        frame: Frame,
        *,
        event: MessageReceived | None = None,
        error: RemoteProtocolError | None = None,
        local: str = "",
        session: Session | None = None,
    ) -> None:
        """
        Show one message, or what should have been one.

        Raises:
            _Enough: it was the last that was wanted.
        """
        self.seen += 1
        self.rejected += error is not None
        if self.as_json:
            entry = as_entry(
                self.seen,
                time=frame.received_at,
                transport=peer.transport,
                src=_place(str(peer)),
                dst=_place(local),
                direction=self._way(event),
                protocol=self.protocol.name,
                message=None if event is None else event.message,
                header=getattr(event or error, "header", None),
                raw=frame.data,
                error=error,
            )
            write_entry(entry)
        else:
            self._print(peer, frame, event, error, session)
        if self.count is not None and self.seen >= self.count:
            raise _Enough

    def _way(self, event: MessageReceived | None) -> str:
        cls = None if event is None else type(event.message)
        tables = [self.protocol.table(way).values() for way in Direction]
        both = all(cls in table for table in tables)
        return "message" if both else self.direction.value

    def _print(
        self,
        peer: Peer,
        frame: Frame,
        event: MessageReceived | None,
        error: RemoteProtocolError | None,
        session: Session | None,
    ) -> None:
        from rich.text import Text

        console = console_for()
        moment = time.localtime(frame.received_at)
        part = int(frame.received_at % 1 * 1000)
        clock = f"{time.strftime('%H:%M:%S', moment)}.{part:03d}"
        what = "malformed" if event is None else type(event.message).__name__
        title = Text(f"{clock}  ", "dim")
        title.append(what, "bold red" if event is None else "bold green")
        title.append(f"  from {peer}, {len(frame.data)} bytes", "dim")
        console.print(title, soft_wrap=True)
        found = spans(self.protocol, frame.data, self.direction, session=session)
        if error is not None and found.error is None:
            found.error = error
        annotated(console, found, frame.data)
        console.print()
        sys.stdout.flush()

    def take(self, session: Session, peer: Peer, local: str) -> bool:
        """
        Show all that a session has.

        Returns:
            Whether more can come.
        """
        while (event := session.next_event()) is not NEED_DATA:
            match event:
                case MessageReceived():
                    self.show(
                        peer, event.frame, event=event, local=local, session=session
                    )
                case MessageRejected(error=error, frame=frame):
                    self.show(peer, frame, error=error, local=local, session=session)
                case StreamBroken(error=error):
                    # Of a stream that is broken the beginning of the frame is known.
                    frame = Frame(getattr(error, "found", b""), time.time())
                    self.show(peer, frame, error=error, local=local, session=session)
                    return False
                case _:
                    return False
        return True


def _place(url: str) -> str:
    return url.partition("://")[2]


@contextlib.contextmanager
def _until_told() -> Iterator[None]:
    """
    Let SIGTERM and Ctrl-C end what is inside, as both are how one stops listening.
    """

    def stop(_number: int, _frame: Any) -> None:
        raise _Enough

    before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except _Enough:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve(listener: Listener, url: str) -> None:
    """
    Bind, and show what arrives until enough came or a signal does.

    Raises:
        CommandError: it cannot be listened there.
        DeclarationError: the protocol cannot be spoken there.
    """
    address = Address.parse(url)
    if address.transport == "tls":
        raise CommandError(
            f"{url}: listen has no certificate to show; use tcp://, or --connect"
        )
    if address.is_stream and listener.protocol.framing is None:
        raise DeclarationError(
            f"{listener.protocol.name} exists on datagrams only; use udp://"
        )
    with contextlib.ExitStack() as stack:
        try:
            sock = _bound(address, stack)
        except OSError as exc:
            reason = exc.strerror or exc
            raise CommandError(f"cannot listen on {url}: {reason}") from exc
        local = str(Address.bound(address.transport, sock.getsockname()))
        with _until_told():
            typer.echo(f"listening on {local}", err=True)
            if address.is_stream:
                _streams(listener, sock, address.transport, local)
            else:
                _datagrams(listener, sock, address.transport, local)


def _bound(address: Address, stack: contextlib.ExitStack) -> socket.socket:
    kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
    family: int = socket.AF_UNIX
    where: Any = address.host
    if address.port is None:
        _remove_stale_socket(address)
    else:
        family, _, _, _, where = socket.getaddrinfo(
            address.host or None, address.port, type=kind, flags=socket.AI_PASSIVE
        )[0]
    sock = stack.enter_context(socket.socket(family, kind))
    if address.is_stream and address.port is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(where)
    if address.port is None:
        stack.callback(lambda: Path(address.host).unlink(missing_ok=True))
    if address.is_stream:
        sock.listen()
        sock.setblocking(False)
    return sock


def _datagrams(
    listener: Listener, sock: socket.socket, transport: str, local: str
) -> None:
    while True:
        data, sender = sock.recvfrom(_PIECE)
        peer = Peer(transport, sender or "")
        session = Session(listener.protocol, listener.role, peer, stream=False)
        session.receive_data(data)
        listener.take(session, peer, local)


def _streams(
    listener: Listener, sock: socket.socket, transport: str, local: str
) -> None:
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        stack.callback(_close_all, selector)
        selector.register(sock, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data is not None:
                    _read(listener, selector, key, local)
                    continue
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    made, sender = sock.accept()
                    if len(selector.get_map()) > _MOST_PEERS:
                        made.close()
                        continue
                    made.setblocking(False)
                    peer = Peer(transport, sender or "")
                    session = Session(listener.protocol, listener.role, peer)
                    selector.register(made, selectors.EVENT_READ, session)


def _close_all(selector: selectors.BaseSelector) -> None:
    for key in list(selector.get_map().values()):
        if key.data is not None:
            key.fileobj.close()  # type: ignore[union-attr]


def _read(
    listener: Listener, selector: selectors.BaseSelector, key: Any, local: str
) -> None:
    session: Session = key.data
    assert session.peer is not None
    try:
        data = key.fileobj.recv(_PIECE)
    except BlockingIOError:
        return
    except OSError:
        data = b""
    if data:
        session.receive_data(data)
    else:
        session.receive_eof()
    if not listener.take(session, session.peer, local) or not data:
        selector.unregister(key.fileobj)
        key.fileobj.close()


def _connect(listener: Listener, url: str, tls: TlsFiles, timeout: float) -> None:
    """
    Connect, and show what the peer sends until it closes, or enough came.

    This is no `Client`: as nothing was asked, nothing is an answer that came too late.

    Raises:
        Failed: it cannot be reached, or the connection broke.
    """
    from protoserve.client._connecting import opened, target_of

    target = target_of(listener.protocol, url, tls.context(url))
    with _until_told(), told(url):
        sock, peer = opened(target, timeout)
        with sock:
            session = Session(
                listener.protocol, listener.role, peer, stream=target.stream
            )
            local = str(Address.bound(target.address.transport, sock.getsockname()))
            while _received(sock, session) and listener.take(session, peer, local):
                pass
            listener.take(session, peer, local)


def _received(sock: socket.socket, session: Session) -> bool:
    """
    Wait for bytes and hand them to the session.

    Returns:
        Whether the peer has not closed.
    """
    while True:
        try:
            data = sock.recv(_PIECE)
        except (BlockingIOError, ssl.SSLWantReadError):
            select.select([sock], [], [])
            continue
        if data or not session.stream:
            session.receive_data(data)
            return True
        session.receive_eof()
        return False


def listen(
    target: str,
    url: str,
    *,
    connecting: bool,
    direction: str | None,
    count: int | None,
    as_json: bool,
    timeout: float,
    tls: TlsFiles,
) -> None:
    """
    Show what arrives.

    Raises:
        CommandError: it could not start.
        typer.Exit: with code 1, if something was malformed or the peer not reached.
    """
    protocol = load(target, Protocol, "protocols.dns:dns")
    if direction is None:
        direction = "response" if connecting else "request"
    role = Role.CLIENT if direction == "response" else Role.SERVER
    listener = Listener(protocol, role, as_json, count)
    if connecting:
        if role is Role.SERVER:
            raise CommandError("--connect shows responses; leave --direction out")
        try:
            _connect(listener, url, tls, timeout)
        except Failed as exc:
            tell(str(exc))
            raise typer.Exit(1) from exc
    else:
        if tls != TlsFiles():
            raise CommandError("--tls-… and --insecure are for --connect")
        _serve(listener, url)
    if listener.rejected:
        raise typer.Exit(1)
