"""
Blocks of datagrams: the service's side of `BatchMixIn`.

A peer's first datagram goes through all the steps that there may be; those that follow
are, as a rule, answered in passing by one generated function. All answers leave together. Should routes be slow, they leave earlier, as somebody waits
for them.

Routes that are coroutines run beside, on the service's background loop, a bounded
number for each peer and in all. A peer that has as many in flight as it may loses
what it sends beyond that; when there are too many in all, the kernel's queue has to
hold what arrives. Sessions are touched by the thread that serves only; a coroutine that
is done wakes it.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from itertools import compress
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from protoserve.dispatch import Outcome, begin, complete_async
from protoserve.server.batch import Block, Reply

if TYPE_CHECKING:
    from protoserve.columnar import RowsTakers
    from protoserve.datagrams import Conversation
    from protoserve.service import Service
    from protoserve.session import Session

    _Ready = tuple[Conversation, Session, Callable[[bytes], object]]

__all__ = ["BlockTaker", "ServiceBatchSide"]


_MOST_TASKS = 1024
"""Coroutines of all peers together that run at a time."""
_LOOK_AGAIN = 0.05
"""Seconds between two looks whether to stop, while there are too many coroutines."""
_KNOWN_FOR = 1.0
"""Seconds after which the service's table hears of a peer again, so as to keep it."""
_MOST_KNOWN = 4096
_AT_A_TIME = 16
"""Datagrams between two looks at the clock."""
_PATIENCE = 0.005
"""Seconds that finished answers wait for others."""


class BlockTaker(Protocol):
    """
    Takes datagrams many at a time.
    """

    def take(self, block: Block) -> None:
        """
        Take all datagrams of a block.
        """


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
        self._ready: dict[bytes, _Ready] = {}
        """Peers of this batch whose next datagram may be answered in passing."""
        self._held: list[tuple[bytes, Session]] = []
        self._send_at = self._received_at = 0.0
        limits = service.limits
        self._known: dict[bytes, Conversation] = {}
        self._known_until = 0.0
        self._known_for = min(_KNOWN_FOR, (limits.peer_idle or _KNOWN_FOR) / 4)
        self._most_known = max(1, min(_MOST_KNOWN, (limits.peers or _MOST_KNOWN) // 4))
        framing = service.framing
        self._longest = inf if framing is None else framing.max_size
        self._pump = service.dispatcher.datagram_pump()
        self._takers: RowsTakers | None = None
        if service.gatherings and service.intake is None:
            from protoserve.columnar import RowsTakers

            self._takers = RowsTakers(service)
        self._finished: deque[tuple[Conversation, Any, bool]] = deque()
        self._some_finished = threading.Event()
        self._tasks: set[concurrent.futures.Future[None]] = set()
        self._in_flight: Counter[Session] = Counter()
        self._beginning: set[Session] = set()

    def batch(self, block: Block) -> None:
        """
        Answer the datagrams of a block.
        """
        service = self.service
        if service.intake is not None:  # which accounts for them itself
            service.intake.take(block)
            return
        with service.account.handling(block.total):
            self._handle(block)

    def _handle(self, block: Block) -> None:
        left = None
        if self._takers is not None:
            left = self._takers.take(block)
            if left is None:
                return
        datagrams = block.datagrams()
        if left is not None:
            datagrams = compress(datagrams, left)
        if self._tasks or self._finished:
            self._await_room()
        self._received_at = block.seconds[0] + block.nanoseconds[0] / 1e9
        now = time.monotonic()
        self._send_at = now + _PATIENCE
        if now >= self._known_until:
            self._known.clear()
            self._known_until = now + self._known_for
        data, plain = block.data, block.addresses.plain
        ready, pump, most = self._ready, self._pump, self._longest
        look_in = _AT_A_TIME
        try:
            for start, length, sender in datagrams:
                datagram = data[start : start + length]
                at = -1
                found = ready.get(sender) or self._prepare(sender)
                if found is not None:
                    conversation, session, send = found
                    if length <= most and not session.closed:
                        at, outcome = pump(datagram, 0, length, session, send)
                        if outcome is not True:
                            self._follow(outcome, conversation, sender, plain(sender))
                if at < 0:
                    ready.pop(sender, None)
                    self._take(datagram, sender, plain(sender))
                look_in -= 1
                if not look_in:
                    look_in = _AT_A_TIME
                    if time.monotonic() > self._send_at:
                        self._send()
        finally:
            self._send()

    def _prepare(self, sender: bytes) -> _Ready | None:
        """
        See whether a peer's next datagram may be answered in passing.
        """
        conversation = self._known.get(sender)
        if conversation is None or self._pump is None:
            return None
        session = conversation.session
        if session in self._in_flight or session._frames or not conversation.begun:
            return None
        self._hold(sender, session)
        session._received_at = self._received_at
        found = conversation, session, session.outgoing.append
        self._ready[sender] = found
        return found

    def _hold(self, sender: bytes, session: Session) -> None:
        if not session.held:
            session.held = True
            self._held.append((sender, session))

    def _take(self, datagram: bytes, sender: bytes, address: Any) -> None:
        """
        Handle a datagram by all the steps that there may be.
        """
        conversation = self._find(sender, address)
        session = conversation.session
        self._hold(sender, session)
        if not conversation.begun:
            conversation.begun = True
            connected = self.service.dispatcher.connected(session)
            if not self._goes_on(connected, conversation, address, begins=True):
                self.service.forget(self.server, address, conversation)
                return
        if self._is_full(session, len(session._frames)):
            self.service.refuse(session)
            return
        session.receive_data(datagram)
        session._received_at = self._received_at
        if not self._answer(conversation, address) or not address:
            self.service.forget(self.server, address, conversation)

    def _find(self, sender: bytes, address: Any) -> Conversation:
        """
        Find a conversation, without asking the service's table each time.
        """
        found = self._known.get(sender)
        server = self.server
        while found is None or found.session.closed:
            if found is not None:
                self.service.forget(server, address, found)
            found = self.service.conversation(server, server.socket, address)
        if address:
            if len(self._known) >= self._most_known:
                self._known.clear()
            self._known[sender] = found
        return found

    def _follow(
        self, outcome: Outcome, conversation: Conversation, sender: bytes, address: Any
    ) -> None:
        """
        Deal with a message that took more than to be answered in passing.
        """
        if not self._goes_on(outcome, conversation, address):
            self.service.forget(self.server, address, conversation)
        if conversation.session.closed or conversation.session in self._in_flight:
            self._ready.pop(sender, None)

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
                return not session.closed
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
        going, awaited = begin(outcome)
        if awaited is None:
            return going
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
        outcome: Outcome,
        awaited: Any,
        conversation: Conversation,
        address: Any,
    ) -> None:
        """
        Go through the rest of an outcome's steps; the serving thread does what follows.
        """
        going = False
        try:
            going = await complete_async(outcome, awaited)
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
        self._ready.clear()
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
