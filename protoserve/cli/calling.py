"""
``protoserve call`` and ``protoserve send``: one message to a peer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from protoserve.captures.decoded import direction_of
from protoserve.cli.connecting import Failed, TlsFiles, client_for, told
from protoserve.cli.logs import tell
from protoserve.cli.requests import Outgoing, outgoing
from protoserve.cli.shown import as_entry, console_for, tree, write_entry
from protoserve.cli.targets import CommandError, load
from protoserve.errors import ErrorResponse, RemoteProtocolError
from protoserve.events import MessageReceived
from protoserve.protocol import Direction, Protocol
from protoserve.session import Role, Session
from protoserve.urls import Address

if TYPE_CHECKING:
    from protoserve.client import Client

__all__ = ["answer_entry", "ask", "call", "send"]


def call(
    target: str,
    url: str,
    name: str,
    fields: Sequence[str],
    *,
    data: str | None,
    header: Sequence[str],
    timeout: float,
    retries: int,
    as_json: bool,
    tls: TlsFiles,
) -> None:
    """
    Send one request and show its answer.

    Raises:
        CommandError: it could not start.
        typer.Exit: with code 1, if there was no answer, or it is an error.
    """
    protocol = load(target, Protocol, "protocols.dns:dns")
    request = outgoing(protocol, name, fields, data=data, header=header)
    client = client_for(protocol, url, timeout=timeout, retries=retries, tls=tls)
    try:
        fine = ask(client, request, as_json=as_json)
    except CommandError as exc:
        if request.is_answered:
            raise
        raise CommandError(
            f"{exc}; {name} is not declared as a request, protoserve send sends it"
        ) from exc
    except Failed as exc:
        tell(str(exc))
        fine = False
    finally:
        client.close()
    if not fine:
        raise typer.Exit(1)


def ask(
    client: Client,
    request: Outgoing,
    *,
    as_json: bool,
    timeout: float | None = None,
    number: int = 1,
) -> bool:
    """
    Ask, and show the answer.

    Args:
        client: whom to ask through.
        request: what to ask.
        as_json: show a JSON object, not a tree.
        timeout: seconds that it may take; by default those of the client.
        number: the answer's, in JSON.

    Returns:
        Whether it is a good one.

    Raises:
        Failed: there was none.
    """
    started = time.monotonic()
    message: Any = None
    header, raw = None, b""
    with told(client.url):
        error: RemoteProtocolError | None = None
        try:
            answer = client.ask(request.message, header=request.header, timeout=timeout)
            message, header, raw = answer.message, answer.header, answer.frame.data
        except ErrorResponse as exc:
            message, header, raw = exc.response, exc.header, exc.frame.data
        except RemoteProtocolError as exc:
            if not as_json:
                raise
            error = exc
    if as_json:
        received = time.time()
        entry = answer_entry(
            client, received, message, header, raw, error, number=number
        )
        write_entry(entry)
        return error is None and not message.is_error
    seconds = time.monotonic() - started
    is_error = message.is_error
    note = f"from {client.url} in {1000 * seconds:.1f} ms"
    if is_error:
        note = f"an error {note}"
    style = "bold red" if is_error else "bold green"
    console_for().print(tree(message, note, header=header, style=style))
    return not is_error


def answer_entry(
    client: Client,
    received_at: float,
    message: Any,
    header: Any,
    raw: bytes,
    error: RemoteProtocolError | None = None,
    *,
    number: int = 1,
) -> dict[str, Any]:
    """
    Give what a client received in terms of JSON.
    """
    address = Address.parse(client.url)
    return as_entry(
        number,
        time=received_at,
        transport=address.transport,
        src=str(address).partition("://")[2],
        dst=None,
        direction="response",
        protocol=client.protocol.name,
        message=message,
        header=header,
        raw=raw,
        error=error,
    )


def send(
    target: str,
    url: str,
    name: str,
    fields: Sequence[str],
    *,
    data: str | None,
    header: Sequence[str],
    timeout: float,
    as_json: bool,
    tls: TlsFiles,
) -> None:
    """
    Send one message and wait for nothing; with `as_json`, show what was sent.

    Raises:
        CommandError: it could not start.
        typer.Exit: with code 1, if it could not be sent.
    """
    protocol = load(target, Protocol, "protocols.dns:dns")
    message = outgoing(protocol, name, fields, data=data, header=header)
    client = client_for(protocol, url, timeout=timeout, tls=tls)
    try:
        with told(url):
            sent = client.transmit(message.message, header=message.header)
    except Failed as exc:
        tell(str(exc))
        raise typer.Exit(1) from exc
    finally:
        client.close()
    if as_json:
        write_entry(_sent_entry(protocol, url, sent))


def _sent_entry(protocol: Protocol, url: str, sent: bytes) -> dict[str, Any]:
    """
    Give what was sent in terms of JSON, as whoever receives it sees it.
    """
    address = Address.parse(url)
    session = Session(protocol, Role.SERVER, stream=address.is_stream)
    session.phase = None  # the states before it are the other side's to judge
    session.receive_data(sent)
    event = session.next_event()
    found = event if isinstance(event, MessageReceived) else None
    direction = Direction.REQUEST.value
    if found is not None:
        direction = direction_of(protocol, found.message, Direction.REQUEST)
    return as_entry(
        1,
        time=time.time(),
        transport=address.transport,
        src=None,
        dst=str(address).partition("://")[2],
        direction=direction,
        protocol=protocol.name,
        message=found and found.message,
        header=found and found.header,
        raw=sent if found is None else found.frame.data,
    )
