"""
What was asked and answered, without any socket, by a clock of our own.
"""

import inspect

import attrs
import pytest
from construct import Bytes, Int8ub, Nibble

from protoserve import (
    LocalProtocolError,
    Message,
    PeerTimeoutError,
    Role,
    Session,
    SessionClosedError,
    wire,
)
from protoserve.client import AsyncClient, Client, _call
from protoserve.client._call import Options, State
from protoserve.client._calls import Calls
from tests.client.kit import Alarm, Ask, Header, Ping, Pong, Text, protocol, spoken
from tests.test_docs import documented, table

PAGE = "docs/clients.md"
KEYWORD = inspect.Parameter.KEYWORD_ONLY


@attrs.define
class Clock:
    now: float = 100.0

    def __call__(self):
        return self.now


@attrs.define
class Pair:
    """
    Calls, and a server's session that makes what they are given.
    """

    calls: Calls
    server: Session
    clock: Clock

    @classmethod
    def of(cls, spoken=spoken, *, stream=True, **options):
        clock = Clock()
        calls = Calls(spoken, stream=stream, options=Options(**options), clock=clock)
        return cls(calls, Session(spoken, Role.SERVER, stream=stream), clock)

    def ask(self, request, **options):
        call = self.calls.ask(request, **options)
        self.calls.begin(call)
        self.server.receive_data(call.data)
        return call, self.server.next_event().header

    def answer(self, *answers):
        for message, header in answers:
            self.calls.receive(self.server.encode(message, reply_to=header))


@pytest.mark.parametrize("stream", [True, False])
def test_keys_are_not_used_again_soon(stream):
    """A key is not taken again while a late answer to it may come."""
    pair = Pair.of(stream=stream)
    seen = []
    for _ in range(1024):
        call, _ = pair.ask(Ping())
        pair.calls.give_up(call)
        seen.append(call.key)
    assert 1024 == len(set(seen))


def test_keys_of_datagrams_cannot_be_guessed():
    """Keys of datagrams are drawn, with no order in them."""
    drawn = [Pair.of(stream=False).ask(Ping())[0].key for _ in range(64)]
    assert len(set(drawn)) > 48
    assert drawn != sorted(drawn)
    assert max(drawn) > 0x8000


def small():
    class Small(Message, bits=True):
        kind: int = wire(Nibble)
        sequence: int = wire(Nibble, default=0)

    return protocol(header=Small)


@pytest.mark.parametrize("stream", [True, False])
def test_few_keys(stream):
    """With few keys, half of them may wait, and no two the same."""
    pair = Pair.of(small(), stream=stream)
    waiting = [pair.ask(Ping())[0] for _ in range(8)]
    assert 8 == len({call.key for call in waiting})
    with pytest.raises(LocalProtocolError, match="8 requests wait"):
        pair.calls.ask(Ping())
    for _ in range(50):
        pair.calls.give_up(waiting.pop())
        waiting.append(pair.ask(Ping())[0])
        assert 8 == len({call.key for call in waiting})
    assert len(pair.calls._table) <= 8 + 4


def test_bounded_memory():
    """What was asked in the past takes a bounded amount of memory."""
    pair = Pair.of()
    for _ in range(3000):
        pair.answer((Pong(1), pair.ask(Ping())[1]))
        pair.calls.send(Ping())
    assert len(pair.calls._table) <= 1024
    assert len(pair.calls._ended) <= 1024
    assert not pair.calls._pending


def test_ended_calls_hold_no_messages():
    """An ended call is remembered by its key; request and answer are not kept."""
    pair = Pair.of()
    call, header = pair.ask(Ping())
    pair.answer((Pong(3), header))
    assert Pong(3) == call.result().message
    assert (None, b"", State.ANSWERED) == (call.request, call.data, call.state)
    with pytest.raises(SessionClosedError, match="taken already"):
        call.result()


def test_late_duplicate_and_unasked():
    """Answers that nobody waits for are told apart, counted and dropped."""
    pair = Pair.of()
    call, header = pair.ask(Ping())
    late, other = pair.ask(Ping())
    pair.calls.give_up(late)
    pair.answer((Pong(1), header), (Pong(1), header), (Pong(2), other))
    pair.answer((Pong(3), Header(0, 999)))
    assert Pong(1) == call.result().message
    stats = pair.calls.stats
    assert (4, 1, 1, 1) == (
        stats.received,
        stats.duplicates,
        stats.late,
        stats.unasked,
    )
    assert not pair.calls.listen().ready


def test_push_with_the_key_of_a_request():
    """A push is no answer, even if it has the key of a request that waits."""
    pair = Pair.of()
    call, header = pair.ask(Ping())
    pair.answer((Alarm(1), header))
    assert not call.ready
    assert Alarm(1) == pair.calls.listen().result().message


def test_answers_to_what_was_sent():
    """What answers a message that was only sent goes to who receives, all of it."""
    pair = Pair.of()
    data = pair.calls.send(Ping())
    pair.server.receive_data(data)
    header = pair.server.next_event().header
    listener = pair.calls.listen()
    pair.answer((Pong(1), header), (Pong(2), header))
    assert [Pong(1), Pong(2)] == [
        listener.result().message,
        pair.calls.listen().result().message,
    ]


def test_waking():
    """Who waits is woken once, when there is something."""
    pair = Pair.of()
    call, header = pair.ask(Ping())
    woken = []
    call.waker = lambda: woken.append(1)
    pair.answer((Alarm(), header))
    assert [] == woken
    pair.answer((Pong(), header), (Pong(), header))
    assert [1] == woken


def test_backoff():
    """A datagram is sent again after a while, each time after twice as long."""
    pair = Pair.of(stream=False, retries=3, backoff=0.5)
    call, _ = pair.ask(Ping(), timeout=5.0)
    moments = []
    while not call.ready:
        pair.clock.now = call.due
        again = pair.calls.overdue(call)
        moments.append((pair.clock.now - 100, again == call.data and again != b""))
    assert [(0.5, True), (1.5, True), (3.5, True), (5.0, False)] == moments
    with pytest.raises(PeerTimeoutError, match="no answer to Ping .* within 5 s"):
        call.result()
    assert (3, 1) == (pair.calls.stats.retransmitted, pair.calls.stats.timed_out)


def test_nothing_is_due_too_early():
    """Before its time nothing is sent again, and nothing ends."""
    pair = Pair.of(stream=False)
    call, _ = pair.ask(Ping(), timeout=5.0)
    pair.clock.now += 0.49
    assert None is pair.calls.overdue(call)
    assert not call.ready


def test_unread_messages_are_bounded():
    """The oldest messages that nobody receives make room for new ones."""
    pair = Pair.of(backlog=3)
    for level in range(10):
        pair.answer((Alarm(level), Header(0)))
    kept = [pair.calls.listen().result().message for _ in range(4)]
    assert [Alarm(n) for n in (6, 7, 8, 9)] == kept
    assert 6 == pair.calls.stats.dropped


def test_what_came_in_one_piece_is_not_dropped():
    """However many messages come at once, who reads them in time gets them all."""
    pair = Pair.of(backlog=3)
    pieces = [pair.server.encode(Alarm(n), header=Header(0)) for n in range(10)]
    pair.calls.receive(b"".join(pieces))
    got = [pair.calls.listen().result().message for _ in range(10)]
    assert [Alarm(n) for n in range(10)] == got
    assert 0 == pair.calls.stats.dropped


def test_stream_that_is_not_read():
    """Answers that are not taken end their stream, and nothing else."""
    pair = Pair.of(backlog=3)
    stream, header = pair.ask(Ping(), several=True)
    call, other = pair.ask(Ping())
    for value in range(6):
        pair.answer((Pong(value), header))
    taken = [stream.result().message for _ in range(4)]
    assert [Pong(n) for n in range(4)] == taken
    with pytest.raises(LocalProtocolError, match="4 answers were not taken in time"):
        stream.result()
    pair.answer((Pong(9), other))
    assert Pong(9) == call.result().message


def test_everybody_is_told():
    """When the session ends, every caller has an exception of its own."""
    pair = Pair.of()
    calls = [pair.ask(Ping())[0], pair.calls.listen()]
    pair.calls.receive_eof()
    errors = []
    for call in calls:
        with pytest.raises(SessionClosedError) as caught:
            call.result()
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    with pytest.raises(SessionClosedError):
        pair.calls.ask(Ping())
    with pytest.raises(SessionClosedError):
        pair.calls.listen().result()


def test_half_a_frame_at_the_end():
    """A stream that ends in the middle of a frame says so."""
    from protoserve.errors import IncompleteFrameError

    pair = Pair.of()
    call, _ = pair.ask(Ping())
    pair.calls.receive(b"\0\4\1")
    pair.calls.receive_eof()
    with pytest.raises(IncompleteFrameError):
        call.result()


def test_keys_that_are_the_callers():
    """Where keys are not drawn, two requests with the same one cannot both wait."""
    pair = Pair.of(protocol(correlate=("sequence",)))
    call, header = pair.ask(Ping(), header=Header(0, 5))
    with pytest.raises(LocalProtocolError, match=r"key \(5,\) waits"):
        pair.calls.ask(Ping(), header=Header(0, 5))
    pair.ask(Ping(), header=Header(0, 6))
    pair.answer((Pong(1), header))
    assert Pong(1) == call.result().message
    pair.ask(Ping(), header=Header(0, 5))


def test_refused_requests_move_no_state():
    """A request that is refused leaves the conversation in its state."""
    states = {"new": {Ping: "asked"}, "asked": {Ping: "asked"}}
    pair = Pair.of(protocol(states=states, correlate=lambda _h, _m: None))
    with pytest.raises(LocalProtocolError):
        pair.calls.ask(Ping())
    assert "new" == pair.calls.session.phase


def test_request_without_a_key():
    """A request that no answer could be known by is refused, but may be sent."""
    pair = Pair.of(protocol(correlate=lambda _header, _message: None))
    with pytest.raises(LocalProtocolError, match="nothing to know its answer by"):
        pair.calls.ask(Ping())
    assert bytes.fromhex("0004 01 0000 00") == pair.calls.send(Ping())


def test_key_function_that_fails():
    """A function that cannot make a key of what came loses that message only."""

    def key(header, message):
        return header.sequence if isinstance(message, Ping) else message.nothing

    pair = Pair.of(protocol(correlate=key))
    call, header = pair.ask(Ping())
    pair.answer((Pong(), header))
    assert not call.ready
    assert 1 == pair.calls.stats.unasked


def test_requests_that_name_no_answer():
    """Whatever has the key answers a request that does not say what answers it."""

    class Plain(Message):
        value: int = wire(Int8ub, default=0)

    class Reply(Message):
        value: int = wire(Int8ub, default=0)

    pair = Pair.of(protocol(requests={1: Plain}, responses={1: Reply}))
    call, header = pair.ask(Plain())
    pair.answer((Reply(3), header), (Reply(4), header))
    assert Reply(3) == call.result().message
    assert 1 == pair.calls.stats.duplicates


def test_answers_named_by_name():
    """A request may name its answer's class before there is one."""
    from protoserve import Request

    class Later(Request["Answer"]):
        value: int = wire(Int8ub, default=0)

    class Answer(Message):
        value: int = wire(Int8ub, default=0)

    pair = Pair.of(protocol(requests={1: Later}, responses={1: Answer, 4: Alarm}))
    call, header = pair.ask(Later())
    pair.answer((Alarm(1), header), (Answer(2), header))
    assert Answer(2) == call.result().message


def test_headers_are_made_anew_where_they_must_be():
    """A header with parts that are made anew each time is never used again."""
    drawn = iter(range(10))

    class Fresh(Message):
        kind: int = wire(Int8ub)
        sequence: int = wire(Int8ub, default=0)
        token: bytes = wire(Bytes(1), factory=lambda: bytes([next(drawn)]))

    class Frozen(Message, frozen=True):
        kind: int = wire(Int8ub)
        sequence: int = wire(Int8ub, default=0)

    pair = Pair.of(protocol(header=Fresh))
    assert [b"\0", b"\1"] == [pair.ask(Ping())[1].token for _ in range(2)]
    pair = Pair.of(protocol(header=Frozen))
    assert [0, 1] == [pair.ask(Ping())[1].sequence for _ in range(2)]
    pair = Pair.of()
    first, second = (pair.ask(Ask())[1] for _ in range(2))
    assert (Header(2, 0), Header(2, 1)) == (first, second)


def test_given_up_without_keys():
    """Without keys, answers that are owed are skipped, and two are too many."""
    pair = Pair.of(protocol(correlate=None))
    for expected in (False, True):
        call, header = pair.ask(Ping(), timeout=1.0)
        pair.clock.now += 2
        assert None is pair.calls.overdue(call)
        assert expected is pair.calls.doubtful
    pair = Pair.of(protocol(correlate=None))
    call, header = pair.ask(Ping())
    pair.calls.give_up(call)
    call, header = pair.ask(Ping())
    pair.answer((Pong(1), header), (Pong(2), header))
    assert Pong(2) == call.result().message
    assert not pair.calls.doubtful
    assert 1 == pair.calls.stats.late
    pair.answer((Text(b"?"), header))
    assert Text(b"?") == pair.calls.listen().result().message


def test_counters_are_documented():
    """The page on clients has all counters, as the class explains them."""
    said = documented(_call, "Stats")
    rows = dict(table(PAGE, "Counter"))
    assert {f"`{name}`": text for name, text in said.items()} == rows


def test_options_are_documented():
    """The page on clients has all options, with their defaults."""
    rows = {row[0].strip("`"): row[1].strip("`") for row in table(PAGE, "Option")}
    for cls in (Client, AsyncClient):
        parameters = inspect.signature(cls).parameters.values()
        options = {p.name: str(p.default) for p in parameters if p.kind == KEYWORD}
        assert options == rows
