"""
What a collector listens with: a service whose routes only pass on what has come.

Datagrams go to the intake by the block, without being looked at. What arrives on streams is
cut into frames and parsed by a session, as a server does, so that a peer that makes no sense
is closed; then the frame goes the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protoserve.account import Account
from protoserve.batch import Batch
from protoserve.errors import ProtocolError
from protoserve.events import Frame
from protoserve.gathering import Gathering
from protoserve.limits import Limits
from protoserve.messages import Message
from protoserve.protocol import Direction, Protocol
from protoserve.routing import batch_route, malformed, unknown
from protoserve.service import Service
from protoserve.session import Session
from protoserve.telemetry.intake import Intake

__all__ = ["CollectingService"]


class CollectingService(Service):
    """
    A service that gives everything it receives to an intake.

    Args:
        protocol: what is spoken.
        intake: where frames go.
        refuse: is told of a frame of a stream that is no message: its bytes, session and
            what is wrong with it.
        account: where the fate of datagrams is written down.
        lifespan: what is entered in each process that receives.
        limits: how much peers may ask for.
    """

    def __init__(
        self,
        protocol: Protocol,
        intake: Intake,
        refuse: Callable[[bytes, Session, Exception], object],
        account: Account,
        *,
        lifespan: Callable[[Service], Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.worker = 0
        """Which of several processes this is."""
        super().__init__(
            protocol,
            _handler(protocol, refuse),
            limits=limits,
            lifespan=lifespan,
            on_malformed="skip",
            on_unknown="skip",
        )
        self.intake = self._queue = intake
        self.account = account

    def join(self, worker: int) -> None:
        """
        Be one of several processes; the lifespan sees to the account.
        """
        self.worker = worker

    def _make_gatherings(self) -> dict[type[Message], Gathering]:
        found: Any = _Passing(self)
        return dict.fromkeys(self._routes.batches, found)


class _Passing:
    """
    Stands where rows gather otherwise.
    """

    def __init__(self, service: CollectingService) -> None:
        self._service = service

    def add(self, message: Any, session: Session, header: Any, data: bytes) -> None:
        del message, header
        service = self._service
        if service.framing is not None:
            data = service.framing.pack(data)
        moment = int(session.received_at * 1e9)
        assert session.peer is not None
        service._queue.add(data, session.peer, moment)

    def flush(self) -> None:
        """
        Nothing gathers here.
        """

    def complete(self, awaitable: None) -> bool:
        """
        Nothing is waited for.
        """
        return awaitable is None

    def close(self) -> None:
        """
        Nothing is open.
        """

    def make_private(self) -> None:
        """
        Nothing is shared.
        """


def _handler(
    protocol: Protocol, refuse: Callable[[bytes, Session, Exception], object]
) -> Any:
    """
    Make a handler with a batch route for every message that a peer may send.
    """

    def bad(self: Any, session: Session, frame: Frame, error: ProtocolError) -> None:
        del self
        refuse(frame.data, session, error)

    namespace: dict[str, Any] = {"bad": malformed(bad), "other": unknown(_again(bad))}
    for number, cls in enumerate(
        dict.fromkeys(protocol.table(Direction.REQUEST).values())
    ):

        def take(self: Any, batch: Any) -> None:
            """
            Never called: what gathers goes elsewhere.
            """

        take.__annotations__ = {"batch": Batch[cls], "return": None}  # type: ignore[valid-type]
        take.__name__ = f"take_{number}"
        namespace[take.__name__] = batch_route(max_rows=1, max_age=1.0)(take)
    return type("Collecting", (), namespace)()


def _again(function: Any) -> Any:
    def other(self: Any, session: Session, frame: Frame, error: ProtocolError) -> None:
        function(self, session, frame, error)

    return other
