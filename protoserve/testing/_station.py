"""
The service behind a simulator: a handler that answers whatever a protocol declares.

Its one route takes all requests. A rule of the script decides first; what no rule is
for gets a generated answer. Each answer depends on nothing but the seed, the request's
place in its conversation, and the request, so the same seed gives the same answers,
whoever else asks at the same time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

import attrs

from protoserve.errors import DeclarationError, ProtoserveError
from protoserve.limits import Limits
from protoserve.messages import Message
from protoserve.protocol import Direction, Protocol
from protoserve.rarelog import RareLog
from protoserve.routing import Route, connected, route, routes_of
from protoserve.service import Service
from protoserve.session import Session
from protoserve.testing._answers import Answers, is_legal
from protoserve.testing._scripted import load_handler
from protoserve.testing.scripts import Push, Reply, Rule, load_rules

__all__ = ["simulated_service"]

logger = logging.getLogger("protoserve")
_rare = RareLog(logger)


@attrs.define(eq=False)
class _Station:
    """
    Answers requests by rules, and what no rule is for by generated messages.
    """

    protocol: Protocol
    rules: Sequence[Rule]
    seed: int
    errors: float
    """Which part of the requests is refused, where there are declared errors."""
    answers: Answers
    pushing: set[tuple[int, int]] = attrs.field(factory=set)
    """What is pushed now, by the identities of session and push."""

    async def respond(self, message: Any, header: Any, session: Session) -> None:
        """
        Answer a request.
        """
        chance = random.Random(  # noqa: S311 - repeatable
            f"{self.seed}/{session.received}/{type(message).__name__}"
        )
        rule = next((r for r in self.rules if r.fits(message, header)), None)
        cls = self._generated(type(message), session, chance)
        if rule is not None:
            for push in rule.pushes:
                self.push(push, header, session)
            if rule.delay[0]:
                time, jitter = rule.delay
                await asyncio.sleep(chance.uniform(time - jitter, time + jitter))
            if rule.replies is not None:
                reply = rule.next_reply()
                if reply is not None:
                    self.send(reply, message, header, session, chance)
                return
        if cls is not None:
            self.send(Reply(cls, {}, {}), message, header, session, chance)

    def _generated(
        self, request: type[Message], session: Session, chance: random.Random
    ) -> type[Message] | None:
        """
        Choose the class of a generated answer; `None` if there is none now.
        """
        wanted: tuple[type[Message], ...] = ()
        if self.errors and chance.random() < self.errors:
            wanted = self.answers.classes(request, errors=True)
        wanted = wanted or self.answers.classes(request)
        legal = [c for c in wanted if is_legal(self.protocol, session.phase, c)]
        return chance.choice(legal) if legal else None

    def send(
        self,
        reply: Reply,
        message: Any,
        header: Any,
        session: Session,
        chance: random.Random,
    ) -> None:
        """
        Send a message; what cannot be made or sent is logged, and nothing is sent.
        """
        try:
            made = self.answers.answer(
                reply.cls,
                chance,
                session,
                request=message,
                request_header=header,
                fields=reply.fields,
            )
            under = reply.under(self.answers.header(reply.cls, header))
            session.send(made, header=under)
        except ConnectionError:
            raise
        except ProtoserveError as exc:
            _rare.log(logging.WARNING, "no %s is sent: %s", reply.cls.__name__, exc)

    def push(self, push: Push, header: Any, session: Session) -> None:
        """
        Begin to send a message again and again, unless it is being sent already.
        """
        key = id(session), id(push)
        if key in self.pushing:
            return
        self.pushing.add(key)
        loop = asyncio.get_running_loop()
        chance = random.Random(self.seed)  # noqa: S311 - repeatable

        def send(left: int | None) -> None:
            going = not session.closed and left != 0
            if going:
                try:
                    self.send(push.reply, None, header, session, chance)
                except OSError:  # the peer has gone, or takes nothing; so end timeouts
                    going = False
            if going:
                # Timers, as what is left of them when the loop ends needs no end.
                loop.call_later(push.every, send, None if left is None else left - 1)
            else:
                self.pushing.discard(key)

        loop.call_later(push.every, send, push.times)


def simulated_service(
    protocol: Protocol,
    *,
    script: str | Path | None = None,
    seed: int = 0,
    errors: float = 0.0,
    limits: Limits | None = None,
    answered: Counter[str] | None = None,
) -> Service:
    """
    Make a service that answers each request of a protocol.

    Args:
        protocol: what is spoken.
        script: a file with rules (``.yaml``, ``.yml``) or a handler (``.py``).
        seed: what chance starts from.
        errors: which part of the requests, in 0..1, gets a declared error.
        limits: as for any service.
        answered: counts the requests by the message's name.

    Raises:
        ScriptError: the script makes no sense.
        DeclarationError: the protocol has no requests, or no errors where they are
            wanted.
    """
    rules: list[Rule] = []
    handler: Any = None
    if script is not None:
        path = Path(script)
        if path.suffix == ".py":
            handler = load_handler(path)
        else:
            rules = load_rules(path, protocol)
    answers = Answers(protocol)
    requests = list(protocol.table(Direction.REQUEST).values())
    if not requests:
        raise DeclarationError(f"{protocol.name} has no requests to answer")
    if errors and not any(answers.classes(cls, errors=True) for cls in requests):
        raise DeclarationError(
            f"{protocol.name} declares no errors (class …(Message, error=True))"
        )
    generated = _handler(_Station(protocol, rules, seed, errors, answers))
    service = Service(
        protocol, generated if handler is None else handler, limits=limits
    )
    messages = service._routes.messages
    if handler is not None:
        # What the script has no route for is answered as if there were no script.
        for cls, found in routes_of(protocol, generated).messages.items():
            if cls not in service._routes.batches:
                messages.setdefault(cls, found)
    count = Counter[str]() if answered is None else answered
    for cls, found in messages.items():
        messages[cls] = _counted(found, cls.__name__, count)
    return service


def _counted(found: Route, name: str, count: Counter[str]) -> Route:
    invoke = found.invoke

    def counting(call: Any) -> Any:
        count[name] += 1
        return invoke(call)

    # Without arguments it is never called in passing, but by `invoke` each time.
    return attrs.evolve(found, invoke=counting, arguments=None)


def _handler(station: _Station) -> Any:
    """
    Make the handler: its one route takes all requests.
    """
    protocol = station.protocol
    requests = tuple(protocol.table(Direction.REQUEST).values())

    async def respond(_self: Any, message: Any, session: Any) -> None:
        await station.respond(message, None, session)

    async def respond_under(
        _self: Any, message: Any, header: Any, session: Any
    ) -> None:
        await station.respond(message, header, session)

    async def greet(_self: Any, session: Any) -> None:
        for rule in station.rules:
            for push in rule.pushes if rule.cls is None else ():
                station.push(push, None, session)

    chosen = respond if protocol.header is None else respond_under
    chosen.__annotations__ = {
        "message": Union[requests],  # noqa: UP007 - they are known at run time only
        "header": protocol.header,
        "session": Session,
    }
    greet.__annotations__ = {"session": Session}
    methods: dict[str, Any] = {"respond": route(chosen)}
    if any(rule.cls is None for rule in station.rules):
        methods["greet"] = connected(greet)
    return type("Simulator", (), methods)()
