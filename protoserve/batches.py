"""
The batch side of a service: what `BatchMixIn` runs.

The datagrams of a block are sorted by their senders. So each sender's conversation is
looked up once a block, and what it has to say is answered in one pass; the order of
one sender's datagrams is kept. All answers leave together. Should routes be slow,
they leave earlier, as somebody waits for them.

Routes that are coroutines run beside, on the service's background loop, a bounded
number for each peer and in all. A peer that has as many in flight as it may loses
what it sends beyond that; when there are too many in all, the kernel's queue has to
hold what arrives. Sessions
are touched by the thread that serves only; a coroutine that is done wakes it.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Generator
from math import inf
from typing import TYPE_CHECKING, Any

from protoserve.dispatch import Outcome
from protoserve.protocol import Direction
from protoserve.rarelog import RareLog
from protoserve.server.batch import Block, Reply

if TYPE_CHECKING:
    from protoserve.connections import Conversation
    from protoserve.service import Service
    from protoserve.session import Parcel, Session

__all__ = ["ServiceBatchSide"]

_rare = RareLog(logging.getLogger("protoserve"))

_MOST_TASKS = 1024
"""Coroutines of all peers together that run at a time."""
_LOOK_AGAIN = 0.05
"""Seconds between two looks whether to stop, while there are too many coroutines."""
_KNOWN_FOR = 1.0
"""Seconds after which the service's table hears of a peer again, so as to keep it."""
_MOST_KNOWN = 4096
_AT_A_TIME = 16
"""Datagrams of one sender between two looks at the clock."""
_PATIENCE = 0.005
"""Seconds that finished answers wait for others."""


class _NotKnownYet:
    """
    Stands for the session where the messages before are not answered yet.

    They may change it, so whatever asks for something is refused.
    """

    def __getattr__(self, name: str) -> Any:
        raise LookupError(name)

    __getitem__ = __getattr__

    def __bool__(self) -> bool:
        raise LookupError


_NOT_KNOWN_YET = _NotKnownYet()


class ServiceBatchSide:
    """
    Everything of one service that a server receives in batches.

    Args:
        service: what is served.
        server: whose requests they are.
    """

    def __init__(self, service: Service, server: Any) -> None:
        service.open()
        self.service = service
        self.server = server
        self._held: list[tuple[bytes, Session]] = []
        self._send_at = 0.0
        self._received_at = 0.0
        limits = service.limits
        self._known: dict[bytes, Conversation] = {}
        self._known_until = 0.0
        self._known_for = min(_KNOWN_FOR, (limits.peer_idle or _KNOWN_FOR) / 4)
        self._most_known = max(1, min(_MOST_KNOWN, (limits.peers or _MOST_KNOWN) // 4))
        self._parse: Any = None
        """Parses what is one frame for sure, and is judged by itself."""
        protocol, framing = service.protocol, service.protocol.framing
        self._longest = inf if framing is None else framing.max_size
        if protocol.states is None and (framing is None or not framing.in_frame):
            self._parse = protocol.parser(Direction.REQUEST)
        self._finished: deque[tuple[Conversation, Any, bool]] = deque()
        self._some_finished = threading.Event()
        self._tasks: set[concurrent.futures.Future[None]] = set()
        self._in_flight: Counter[Session] = Counter()
        self._beginning: set[Session] = set()

    def batch(self, block: Block) -> None:
        """
        Answer the datagrams of a block.
        """
        if self._tasks or self._finished:
            self._await_room()
        data = block.data
        groups: dict[bytes, list[bytes]] = {}
        for start, length, sender in block.datagrams():
            datagram = data[start : start + length]
            if sender in groups:
                groups[sender].append(datagram)
            else:
                groups[sender] = [datagram]
        self._received_at = time.time()
        now = time.monotonic()
        self._send_at = now + _PATIENCE
        if now >= self._known_until:
            self._known.clear()
            self._known_until = now + self._known_for
        plain = block.addresses.plain
        try:
            for sender, group in groups.items():
                if sender:
                    self._take(sender, plain(sender), group)
                else:  # those without a name cannot be told apart
                    for datagram in group:
                        self._take(sender, None, [datagram])
        finally:
            self._send()

    def _take(self, sender: bytes, address: Any, group: list[bytes]) -> None:
        """
        Handle the datagrams of one sender.
        """
        while group:
            conversation = self._find(sender, address)
            session = conversation.session
            going = not session.closed
            if going and not conversation.begun:
                going = self._begin(conversation, address)
                if not going:
                    del group[0]  # that was the answer to it
            while group and going:
                part, group = group[:_AT_A_TIME], group[_AT_A_TIME:]
                left = self._converse(conversation, sender, address, part)
                if left is not None:
                    going, group = False, left + group
                if time.monotonic() > self._send_at:
                    self._send()
            if not (going and address):
                self.service.forget(self.server, address, conversation)

    def _find(self, sender: bytes, address: Any) -> Conversation:
        """
        Find a conversation, without asking the service's table each time.
        """
        known = self._known.get(sender)
        if known is not None and not known.session.closed:
            return known
        server = self.server
        found = self.service.conversation(server, server.socket, address)
        if address:
            if len(self._known) >= self._most_known:
                self._known.clear()
            self._known[sender] = found
        return found

    def _begin(self, conversation: Conversation, address: Any) -> bool:
        """
        Tell the handler of a new conversation; say whether that goes on.
        """
        conversation.begun = True
        connected = self.service.dispatcher.connected(conversation.session)
        return self._goes_on(connected, conversation, address, begins=True)

    def _converse(
        self,
        conversation: Conversation,
        sender: bytes,
        address: Any,
        datagrams: list[bytes],
    ) -> list[bytes] | None:
        """
        Handle datagrams of a conversation.

        Returns:
            `None` if the conversation goes on; else those that are for the next one.
        """
        session = conversation.session
        if not session.held:
            session.held = True
            self._held.append((sender, session))
        if self._in_flight and session in self._in_flight:
            if self._is_full(session, len(session._frames) + len(session._parcels)):
                self._refuse(session, len(datagrams))
                return None
        elif self._parse is not None:
            # Nothing is waiting, so these are the next to be answered.
            parcels = self._parse_ahead(session, datagrams)
            outcome = self.service.dispatcher._answer_run(session, parcels)
            if outcome is not True or session._parcels:
                going = self._goes_on(outcome, conversation, address)
                if not going or not self._answer(conversation, address):
                    done = len(parcels) - len(session._parcels)
                    return datagrams[done:]
            datagrams = datagrams[len(parcels) :]
        for number, datagram in enumerate(datagrams, 1):
            session.receive_data(datagram)
            if not self._answer(conversation, address):
                return datagrams[number:]
        return None

    def _parse_ahead(self, session: Session, datagrams: list[bytes]) -> list[Parcel]:
        """
        Parse a session's datagrams as far as they are plain messages.
        """
        parse, most = self._parse, self._longest
        parcels: list[Parcel] = []
        try:
            for datagram in datagrams:
                header, message, _ = parse(datagram, _NOT_KNOWN_YET)
                size = len(datagram)
                if size > most:
                    break
                parcels.append((header, message, datagram, 0, size))
        except Exception:  # noqa: S110 - the session will say what is wrong, if it is
            pass
        session._received_at = self._received_at
        session.received += len(parcels)
        return parcels

    def _answer(self, conversation: Conversation, address: Any) -> bool:
        """
        Answer what a session has received; say whether the conversation goes on.
        """
        session = conversation.session
        answer = self.service.dispatcher.answer
        # What is left when there are too many coroutines waits in the session.
        while session not in self._beginning and not self._is_full(session):
            outcome = answer(session)
            if outcome is True:
                return True
            if not self._goes_on(outcome, conversation, address):
                return False
        return True

    # Coroutines ------------------------------------------------------------

    def _goes_on(
        self,
        outcome: Outcome,
        conversation: Conversation,
        address: Any,
        *,
        begins: bool = False,
    ) -> bool:
        """
        Go through an outcome's steps, beside everything else if they take time.
        """
        if isinstance(outcome, bool):
            return outcome
        try:
            awaited = next(outcome)
        except StopIteration as stop:
            return bool(stop.value)
        session = conversation.session
        self._in_flight[session] += 1
        if begins:
            self._beginning.add(session)
        steps = self._finish(outcome, awaited, conversation, address)
        task = self.service._background.start(steps)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _finish(
        self,
        outcome: Generator[Any, Any, bool],
        awaited: Any,
        conversation: Conversation,
        address: Any,
    ) -> None:
        """
        Go through the rest of an outcome's steps; the serving thread does what follows.
        """
        going = False
        try:
            going = await _rest(outcome, awaited)
        finally:
            self._finished.append((conversation, address, going))
            self._some_finished.set()
            self.server._loop_wake()

    def attend(self) -> None:
        """
        Go on with the conversations that waited for a coroutine.
        """
        while self._finished:
            conversation, address, going = self._finished.popleft()
            session = conversation.session
            self._beginning.discard(session)
            self._in_flight[session] -= 1
            if not self._in_flight[session]:
                del self._in_flight[session]
            if not session.closed:
                going = going and self._answer(conversation, address)
            if session.closed or not going:
                self.service.forget(self.server, address, conversation)

    def _is_full(self, session: Session, waiting: int = 0) -> bool:
        most = self.service.limits.requests
        return most is not None and self._in_flight[session] + waiting >= most

    def _refuse(self, session: Session, number: int) -> None:
        self.service.refused["requests"] += number
        _rare.log(
            logging.WARNING,
            "%s has %d requests in flight; what it sends is dropped",
            session.peer,
            self.service.limits.requests,
        )

    def _await_room(self) -> None:
        """
        Wait until not too many coroutines run.
        """
        self._some_finished.clear()
        self.attend()
        while len(self._tasks) >= _MOST_TASKS and not self.server._loop_stopping():
            self._some_finished.wait(_LOOK_AGAIN)
            self._some_finished.clear()
            self.attend()

    # Sending and ending ----------------------------------------------------

    def _send(self) -> None:
        """
        Send the answers that are there.
        """
        replies: list[Reply] = []
        for sender, session in self._held:
            session.held = False
            if sender:
                replies += [(sender, data) for data in session.data_to_send()]
            elif session.flush is not None:
                session.flush()  # it says that there is nobody to send it to
        self._held.clear()
        if replies:
            self.server.send_batch(replies)
        self._send_at = time.monotonic() + _PATIENCE

    def stop(self) -> None:
        """
        Let coroutines end; nothing new is begun.
        """

    def end(self) -> None:
        """
        End the coroutines that are left.
        """
        for task in list(self._tasks):
            task.cancel()

    @property
    def busy(self) -> bool:
        """
        Whether any coroutine is left, or what follows after it.
        """
        return bool(self._tasks or self._finished)


async def _rest(outcome: Generator[Any, Any, bool], awaited: Any) -> bool:
    """
    Go through the steps of an outcome that come after the first.
    """
    try:
        while True:
            try:
                value = await awaited
            except (Exception, SystemExit) as exc:
                awaited = outcome.throw(exc)
            else:
                awaited = outcome.send(value)
    except StopIteration as stop:
        return bool(stop.value)
