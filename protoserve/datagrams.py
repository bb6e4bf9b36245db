"""
Datagrams of the classic stack: one call each.

The conversation with its sender is kept in the service's table of peers. Where a server
receives many at a time, `protoserve.blocks` handles them.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import attrs

from protoserve.session import Session

if TYPE_CHECKING:
    import socket

    from protoserve.service import Service

__all__ = ["Conversation", "receive_datagram"]


@attrs.define
class Conversation:
    """
    The conversation with a datagram peer. One datagram at a time is handled.
    """

    session: Session
    lock: threading.RLock = attrs.field(factory=threading.RLock)
    begun: bool = False
    """Whether the handler was told of it."""


def receive_datagram(
    service: Service, server: Any, sock: socket.socket, data: bytes, address: Any
) -> None:
    """
    Handle one datagram.
    """
    with service.account.handling():
        while True:
            conversation = service.conversation(server, sock, address)
            with conversation.lock:
                # Closed already: by another thread, while we waited perhaps.
                done = not conversation.session.closed
                if not done or not _converse(service, conversation, data):
                    service.forget(server, address, conversation)
                if done:
                    return


def _converse(service: Service, conversation: Conversation, data: bytes) -> bool:
    """
    Handle a datagram of a conversation; say whether that goes on.
    """
    session = conversation.session
    if not conversation.begun:
        conversation.begun = True
        if not service.done(service.dispatcher.connected(session)):
            return False
    session.receive_data(data)
    if not service.answer(session):
        return False
    return session.peer is not None and bool(session.peer.address)
