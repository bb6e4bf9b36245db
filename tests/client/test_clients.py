"""
Clients of both kinds against peers that do as they are told.
"""

import contextlib
import socket
import threading

import attrs
import pytest

from protoserve import (
    DeclarationError,
    ErrorResponse,
    LocalProtocolError,
    MalformedMessageError,
    PeerTimeoutError,
    RemoteProtocolError,
    SessionClosedError,
    UnknownMessageError,
)
from protoserve.errors import FrameTooLongError
from tests.client.kit import (
    PATIENCE,
    Alarm,
    Ask,
    Bulk,
    Header,
    Nak,
    Ping,
    Pong,
    Text,
    echo,
    protocol,
    unkeyed,
)
from tests.service.kit import until

ALL = ["tcp", "udp", "unix", "unixgram"]


# Answers -------------------------------------------------------------------


@pytest.mark.parametrize("transport", ALL)
def test_call(far, client, transport):
    """A request is answered, over every transport."""
    with client(far(echo, transport), retries=0) as asker:
        assert Pong(7) == asker.call(Ping(7))
        assert Text(b"\x08") == asker.call(Ask(8))
    assert attrs.evolve(asker.stats, sent=2, received=2, connections=1) == asker.stats


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_answers_in_any_order(far, client, transport):
    """Answers reach the requests that they are for, in whatever order they come."""

    def reversed_answers(far):
        asked = [far.receive() for _ in range(8)]
        far.send(*[(Pong(m.value), h) for m, h in reversed(asked)])
        echo(far)

    asker = client(far(reversed_answers, transport))
    answers = list(asker.call_many([Ping(n) for n in range(20)], window=8))
    assert [Pong(n) for n in range(20)] == answers


def test_window(far, client):
    """No more requests are without an answer than the window allows."""
    most = []

    def grudging(far):
        far.sock.settimeout(0.2)
        asked = []
        with contextlib.suppress(TimeoutError):
            while True:
                asked.append(far.receive())
        most.append(len(asked))
        far.sock.settimeout(None)
        for message, header in asked:
            far.send((Pong(message.value), header))
        echo(far)

    taken = iter(range(100))
    asker = client(far(grudging))
    answers = asker.call_many((Ping(n) for n in taken), window=5)
    assert Pong(0) == next(answers)
    assert [5] == most
    assert next(taken) <= 7
    answers.close()


def test_window_of_nothing(far, client):
    """A window has room for one request at least."""
    with pytest.raises(LocalProtocolError, match="window: expected 1 or more, found 0"):
        list(client(far(echo)).call_many([Ping()], window=0))


def test_header(far, client):
    """A header can be given; the answer's comes with it, and the key is fresh."""
    seen = []

    def remember(far):
        for _ in range(2):
            message, header = far.receive()
            seen.append(header)
            far.send((Pong(message.value), header))

    asker = client(far(remember))
    first, second = (asker.ask(Ping(1), header=Header(9, 500)) for _ in range(2))
    assert seen == [attrs.evolve(h, kind=1) for h in (first.header, second.header)]
    assert seen[0].sequence != seen[1].sequence
    assert Ping(1) == first.request


def test_declared_error(far, client):
    """A declared error is raised, carries what came, and the client goes on."""

    def refuse(far):
        _, header = far.receive()
        far.send((Nak(4), header))
        echo(far)

    asker = client(far(refuse))
    with pytest.raises(ErrorResponse) as caught:
        asker.call(Ping(1))
    assert Nak(4) == caught.value.response
    assert 3 == caught.value.header.kind
    assert caught.value.header.sequence.to_bytes(2, "big") + b"\4" == bytes(
        caught.value.frame.data[1:]
    )
    assert Pong(2) == asker.call(Ping(2))


def test_several_answers(far, client):
    """A stream gives each answer to a request, and pushes are kept apart from them."""

    def three(far):
        _, header = far.receive()
        far.send((Pong(1), header), (Alarm(9), header), (Pong(2), header))
        far.send((Pong(3), header))
        echo(far)

    asker = client(far(three))
    answers = asker.stream(Ping())
    assert [Pong(1), Pong(2), Pong(3)] == [next(answers) for _ in range(3)]
    answers.close()
    assert Alarm(9) == asker.receive()
    assert Pong(5) == asker.call(Ping(5))


def test_stream_that_stops(far, client):
    """When the next of several answers does not come in time, that is told."""

    def one(far):
        _, header = far.receive()
        far.send((Pong(1), header))
        far.receive()

    answers = client(far(one)).stream(Ping(), timeout=0.3)
    assert Pong(1) == next(answers)
    with pytest.raises(PeerTimeoutError, match="no answer to Ping"):
        next(answers)


# Without asking ------------------------------------------------------------


def test_pushes(far, client):
    """What answers no call is received, in order, whatever its key."""

    def push(far):
        message, header = far.receive()
        far.send((Alarm(1), header), (Pong(message.value), header), (Alarm(2), header))
        echo(far)

    asker = client(far(push))
    assert Pong(7) == asker.call(Ping(7))
    assert [Alarm(1), Alarm(2)] == [asker.receive(), asker.receive()]
    with pytest.raises(PeerTimeoutError, match="no message from"):
        asker.receive(timeout=0.02)
    assert [] == list(asker.messages(timeout=0.02))


def test_messages_end_with_the_session(far, client):
    """Messages are given until the peer closes; then the loop ends."""

    def push(far):
        _, header = far.receive()
        far.send((Pong(1), header), (Alarm(1), header), (Pong(2), header))

    asker = client(far(push))
    asker.send(Ping(7))
    assert [Pong(1), Alarm(1), Pong(2)] == list(asker.messages())
    with pytest.raises(SessionClosedError, match="closed the session"):
        asker.receive()
    with pytest.raises(SessionClosedError, match="closed the session"):
        asker.call(Ping(1))


def test_listening_connects(far, client):
    """Who only listens is connected all the same."""

    def push(far):
        far.send((Alarm(3), Header(4)))
        far.receive()

    asker = client(far(push))
    assert Alarm(3) == asker.receive_event().message


# Time ----------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_late_answer(far, client, transport):
    """A request is given up in time; its late answer is counted, and not mistaken."""

    def late(far):
        first = far.receive()
        second = far.receive()
        far.send((Pong(1), first[1]), (Pong(2), second[1]), (Pong(3), second[1]))
        echo(far)

    asker = client(far(late, transport), retries=0)
    with pytest.raises(PeerTimeoutError, match=r"no answer to Ping .* within 0.05 s"):
        asker.call(Ping(1), timeout=0.05)
    assert Pong(2) == asker.call(Ping(2))
    assert Pong(9) == asker.call(Ping(9))
    counted = asker.stats
    assert (1, 1, 1) == (counted.timed_out, counted.late, counted.duplicates)


def test_retransmission(far, client):
    """A datagram is sent again until it is answered, each time after twice as long."""

    def deaf(far):
        seen = [far.receive() for _ in range(4)]
        assert 1 == len({header.sequence for _, header in seen})
        far.send((Pong(1), seen[0][1]))
        far.receive()

    asker = client(far(deaf, "udp"), retries=3, backoff=0.02)
    assert Pong(1) == asker.call(Ping(1))
    assert 3 == asker.stats.retransmitted


def test_retransmission_is_bounded(far, client):
    """After the last retransmission the time runs out."""

    def deaf(far):
        while True:
            far.receive()

    peers = far(deaf, "udp")
    asker = client(peers, retries=2, backoff=0.01)
    with pytest.raises(PeerTimeoutError):
        asker.call(Ping(1), timeout=0.4)
    until(lambda: [Ping(1)] * 3 == peers.fars[0].asked)
    assert (2, 1) == (asker.stats.retransmitted, asker.stats.timed_out)


def test_streams_are_not_repeated(far, client):
    """On a stream nothing is sent twice: it is not lost."""
    peers = far(lambda far: [far.receive() for _ in range(9)])
    asker = client(peers, retries=5, backoff=0.01)
    with pytest.raises(PeerTimeoutError):
        asker.call(Ping(1), timeout=0.1)
    assert [Ping(1)] == peers.fars[0].asked


def test_no_time_at_all(client):
    """Connecting ends in time too."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        url = f"tcp://127.0.0.1:{full.getsockname()[1]}"
        with contextlib.ExitStack() as stack:
            for _ in range(4):  # the queue of connections is full then
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                sock.connect_ex(full.getsockname())
            with pytest.raises(PeerTimeoutError, match="no connection to tcp://"):
                client(url, timeout=0.05).call(Ping())


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_peer_that_does_not_read(far, client, transport):
    """Writing to a peer that never reads ends in time."""
    done = threading.Event()
    asker = client(far(lambda _far: done.wait(PATIENCE), transport), timeout=0.2)
    try:
        with pytest.raises(PeerTimeoutError, match="does not read"):
            for _ in range(2000):
                asker.send(Bulk(bytes(15_000)))
    finally:
        done.set()


def test_both_write_at_once(far, client):
    """A peer that answers before it reads on is read from while we write."""
    asker = client(far(echo), timeout=PATIENCE)
    many = [Bulk(bytes([n % 251]) * 15_000) for n in range(1000)]
    answers = asker.call_many(many, window=1000)
    for request, answer in zip(many, answers, strict=True):
        assert request.data == answer.text


def test_window_of_lost_datagrams(far, client):
    """While the first of many is waited for, the others are sent again too."""

    def lossy(far):
        lost = [far.receive() for _ in range(10)]
        again = [far.receive() for _ in range(10)]
        assert {h.sequence for _, h in lost} == {h.sequence for _, h in again}
        for message, header in reversed(again):
            far.send((Pong(message.value), header))
        far.receive()

    asker = client(far(lossy, "udp"), retries=1, backoff=0.05)
    answers = list(asker.call_many([Ping(n) for n in range(10)], window=10))
    assert [Pong(n) for n in range(10)] == answers
    assert 10 == asker.stats.retransmitted


def test_patience_without_end(far, client):
    """Infinity is a time too."""

    def slow(far):
        for _ in range(2):
            message, header = far.receive()
            far.send((Pong(message.value), header))

    asker = client(far(slow), timeout=float("inf"))
    assert Pong(1) == asker.call(Ping(1))
    assert Pong(2) == asker.call(Ping(2), timeout=float("inf"))


# What goes wrong -----------------------------------------------------------


@pytest.mark.parametrize("transport", ALL)
def test_nobody_listens(folder, client, transport):
    """To be refused is told at once, with the address."""
    kind = socket.SOCK_STREAM if transport in {"tcp", "unix"} else socket.SOCK_DGRAM
    unix = transport.startswith("unix")
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET, kind) as sock:
        sock.bind(str(folder / "x") if unix else ("127.0.0.1", 0))
        name = sock.getsockname()
    url = f"{transport}://{name if unix else f'127.0.0.1:{name[1]}'}"
    with pytest.raises(ConnectionRefusedError, match=url):
        client(url).call(Ping(1))


def test_no_such_host(client):
    """A name that cannot be looked up is told with the URL."""
    with pytest.raises(socket.gaierror, match=r"tcp://a\.\.b:9"):
        client("tcp://a..b:9").call(Ping(1))


def test_datagrams_after_a_refusal(far, client):
    """A client of datagrams is usable after it was refused."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    asker = client(f"udp://127.0.0.1:{port}")
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            asker.call(Ping(1))
    asker.send(Ping(1))
    far(echo, "udp", port=port)
    assert Pong(2) == asker.call(Ping(2))


def test_closed_by_the_peer(far, client):
    """When the peer closes, the caller is told, and so is who calls next."""
    asker = client(far(lambda far: far.receive()))
    with pytest.raises(SessionClosedError, match="closed the session"):
        asker.call(Ping(1))
    with pytest.raises(SessionClosedError, match="closed the session"):
        asker.call(Ping(1))


def test_reset_by_the_peer(far, client):
    """A reset is told as such."""

    def reset(far):
        far.receive()
        far.reset()

    asker = client(far(reset))
    with pytest.raises(ConnectionResetError, match="tcp://127"):
        asker.call(Ping(1))
    with pytest.raises(SessionClosedError, match="reset"):
        asker.call(Ping(1))


def test_last_words(far, client):
    """What a peer has sent before it closes is received, though we still send."""

    go = threading.Event()

    def leave(far):
        _, header = far.receive()
        far.send((Pong(1), header))
        go.wait(PATIENCE)
        far.send((Alarm(1), header))

    peers = far(leave)
    asker = client(peers)
    assert Pong(1) == asker.call(Ping(1))
    go.set()
    peers.threads[-1].join(PATIENCE)
    with contextlib.suppress(ConnectionError):
        for _ in range(20):
            asker.send(Ping(2))
    assert Alarm(1) == asker.receive()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_malformed_answer(far, client, transport):
    """A malformed answer is told to who asked, and the client goes on."""

    def broken(far):
        _, header = far.receive()
        prefix = b"\0\5" if far.session.stream else b""
        far.raw(prefix + bytes([1, *header.sequence.to_bytes(2, "big"), 1, 2]))
        echo(far)

    asker = client(far(broken, transport))
    with pytest.raises(MalformedMessageError):
        asker.call(Ping(1))
    assert Pong(2) == asker.call(Ping(2))
    assert 1 == asker.stats.rejected


def test_unreadable_answer(far, client):
    """A frame without a header is told to the only one who waits on a stream."""

    def broken(far):
        far.receive()
        far.raw(b"\0\1\1")
        echo(far)

    asker = client(far(broken))
    with pytest.raises(MalformedMessageError):
        asker.call(Ping(1))
    assert Pong(2) == asker.call(Ping(2))


def test_forged_datagrams(far, client):
    """Datagrams that are no answer do not end a call."""

    def forged(far):
        message, header = far.receive()
        far.raw(b"\1")
        far.raw(b"\x77\0\0\0")
        far.send((Pong(1), Header(1, header.sequence ^ 1)))
        far.send((Pong(message.value), header))
        far.receive()

    asker = client(far(forged, "udp"), retries=0)
    assert Pong(5) == asker.call(Ping(5))
    assert (2, 1) == (asker.stats.rejected, asker.stats.unasked)
    for kind in (MalformedMessageError, UnknownMessageError):
        with pytest.raises(kind):
            asker.receive()


def test_datagrams_of_others(far, client):
    """Only the peer that was asked is listened to."""

    def impostor(far):
        message, header = far.receive()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            wrong = far.session.encode(Pong(99), reply_to=header)
            other.sendto(wrong, far.address)
        far.send((Pong(message.value), header))
        far.receive()

    asker = client(far(impostor, "udp"), retries=0)
    assert Pong(5) == asker.call(Ping(5))
    assert 1 == asker.stats.received


def test_wrong_answer(far, client):
    """An answer of a class that the request does not name is a violation."""

    def wrong(far):
        _, header = far.receive()
        far.send((Text(b"?"), header))
        echo(far)

    asker = client(far(wrong))
    with pytest.raises(RemoteProtocolError, match="Text is no answer to Ping"):
        asker.call(Ping(1))
    assert Pong(2) == asker.call(Ping(2))


def test_broken_stream(far, client):
    """A stream that cannot be cut any more ends the session with its error."""

    def broken(far):
        far.receive()
        far.raw(b"\xff\xff" * 4)
        far.receive()

    asker = client(far(broken))
    with pytest.raises(FrameTooLongError):
        asker.call(Ping(1))
    with pytest.raises(SessionClosedError, match="frame length 65535"):
        asker.call(Ping(1))


def test_local_misuse(far, client):
    """What must not be sent is refused, and the client goes on."""
    asker = client(far(echo))
    with pytest.raises(LocalProtocolError, match="Pong is not a request of spoken"):
        asker.ask(Pong(1))
    with pytest.raises(LocalProtocolError, match=r"Ping\.value"):
        asker.call(Ping(300))
    with pytest.raises(LocalProtocolError, match="Alarm is not a request"):
        asker.send(Alarm(1))
    assert Pong(1) == asker.call(Ping(1))


def test_states(far, client):
    """The protocol's states are kept to."""
    states = {"new": {Ping: "asked"}, "asked": {Pong: "ready"}, "ready": {Ask: "ready"}}
    guarded = protocol(states=states)
    peers = far(echo, protocol=guarded)
    asker = client(peers, guarded)
    session = asker.session
    session = session() if callable(session) else session
    assert (peers.url, "new") == (str(session.peer), session.phase)
    with pytest.raises(LocalProtocolError, match="not allowed in state 'new'"):
        asker.call(Ask(1))
    asker.call(Ping(1))
    assert Text(b"\1") == asker.call(Ask(1))


def test_closed(far, client):
    """A closed client says so, and may be closed again."""
    asker = client(far(echo))
    asker.call(Ping(1))
    asker.close()
    assert "closed" in repr(asker)


def test_wrong_options(client):
    """Options that make no sense are refused when the client is made."""
    for options, said in (
        ({"timeout": 0}, "timeout: expected seconds above 0, found 0"),
        ({"backoff": -1}, "backoff: expected seconds"),
        ({"retries": -1}, "retries: expected a whole number from 0"),
        ({"backlog": 0}, "backlog: expected a whole number from 1"),
        ({"timeout": True}, "timeout: expected seconds above 0, found True"),
        ({"tls": True}, "tls= is for URLs that start with tls://, not tcp://"),
    ):
        with pytest.raises(DeclarationError, match=said):
            client("tcp://127.0.0.1:9", **options)
    for url, said in (
        ("tpc://127.0.0.1:9", "did you mean tcp?"),
        ("tcp://127.0.0.1", "expected HOST:PORT"),
        ("tcp://127.0.0.1:0", "port 0"),
    ):
        with pytest.raises(DeclarationError, match=said):
            client(url)
    with pytest.raises(DeclarationError, match="takes a Protocol first, not 'spok"):
        client("tcp://127.0.0.1:9", "spoken")
    with pytest.raises(DeclarationError, match="tls=False is given"):
        client("tls://localhost:9", tls=False)
    with pytest.raises(DeclarationError, match="spoken exists on datagrams only"):
        client("tcp://127.0.0.1:9", protocol(framing=None))


# Connecting anew -----------------------------------------------------------


def test_reconnect(far, client):
    """Who asks for it is connected anew when the peer has closed in the meantime."""

    leave = threading.Semaphore(0)

    def once(far):
        message, header = far.receive()
        far.send((Pong(message.value), header))
        leave.acquire()

    peers = far(once)
    asker = client(peers, reconnect=True)
    for value in range(4):
        assert Pong(value) == asker.call(Ping(value))
        leave.release()
        peers.threads[-1].join(PATIENCE)
    assert 4 == asker.stats.connections


def test_requests_are_not_repeated(far, client):
    """A request that may have been acted on is not sent on the new connection."""
    asked = []

    def leave(far):
        asked.append(far.receive()[0])

    asker = client(far(leave), reconnect=True)
    with pytest.raises(ConnectionError):
        asker.call(Ping(1))
    assert [Ping(1)] == asked


def test_idempotent_requests_are_repeated(far, client):
    """A request that is declared idempotent is, within bounds."""
    asked = []

    def leave(far):
        message, header = far.receive()
        asked.append(message)
        if len(asked) % 3 == 0:
            far.send((Text(b"done"), header))

    peers = far(leave)
    asker = client(peers, reconnect=True, retries=2)
    assert Text(b"done") == asker.call(Ask(1))
    assert [Ask(1)] * 3 == asked
    asker = client(peers, reconnect=True, retries=1)
    with pytest.raises(ConnectionError):
        asker.call(Ask(2))
    assert [Ask(2)] * 2 == asked[3:]


def test_unread_messages_outlive_the_connection(far, client):
    """What came before the connection was lost is received on the next."""

    def push(far):
        message, header = far.receive()
        far.send((Alarm(message.value), header), (Pong(message.value), header))

    peers = far(push)
    asker = client(peers, reconnect=True)
    for value in (1, 2):
        assert Pong(value) == asker.call(Ping(value))
        peers.threads[-1].join(PATIENCE)
    assert [Alarm(1), Alarm(2)] == [asker.receive(), asker.receive()]


# Without correlation -------------------------------------------------------


@pytest.mark.parametrize("transport", ALL)
def test_exchange(far, client, transport):
    """Without correlation, what comes next is the answer."""
    asker = client(far(echo, transport, unkeyed), unkeyed)
    assert Pong(1) == asker.exchange(Ping(1))
    assert Pong(2) == asker.call(Ping(2))
    many = [Ping(n) for n in range(5)]
    assert [Pong(n) for n in range(5)] == list(asker.call_many(many))


@pytest.mark.parametrize("transport", ALL)
def test_late_answer_without_keys(far, client, transport):
    """A late answer is never taken for that of the next request."""

    def late(far):
        first, header = far.receive()
        before = far.address
        message, header = far.receive()
        after, far.address = far.address, before
        with contextlib.suppress(OSError):  # its socket may be closed
            far.send((Pong(first.value), header))
        far.address = after
        far.send((Pong(message.value), header))
        echo(far)

    asker = client(far(late, transport, unkeyed), unkeyed, retries=0)
    with pytest.raises(PeerTimeoutError):
        asker.exchange(Ping(1), timeout=0.05)
    assert Pong(2) == asker.exchange(Ping(2))
    assert Pong(3) == asker.exchange(Ping(3))


def test_answers_that_never_come(far, client):
    """When answers are missing on a stream, and none can be told apart, it ends."""

    def miser(far):
        far.receive()
        message, header = far.receive()
        far.send((Pong(message.value), header))
        far.receive()

    asker = client(far(miser, protocol=unkeyed), unkeyed)
    for value in range(2):
        with pytest.raises(PeerTimeoutError):
            asker.exchange(Ping(value), timeout=0.1)
    with pytest.raises(SessionClosedError, match="answers are missing"):
        asker.exchange(Ping(3))


def test_missing_answer_of_another_class(far, client):
    """An answer that cannot be the missing one is that of the next request."""

    def skip(far):
        far.receive()
        echo(far)

    asker = client(far(skip, protocol=unkeyed), unkeyed)
    with pytest.raises(PeerTimeoutError):
        asker.exchange(Ping(1), timeout=0.05)
    assert Text(b"\2") == asker.exchange(Ask(2))
    assert Pong(3) == asker.exchange(Ping(3))


def test_duplicate_datagram_without_keys(far, client):
    """A request that was sent twice may be answered twice; the second is not used."""

    def twice(far):
        first, header = far.receive()
        far.receive()
        far.send((Pong(first.value), header), (Pong(first.value), header))
        echo(far)

    asker = client(far(twice, "udp", unkeyed), unkeyed, backoff=0.03)
    assert [Pong(1), Pong(2), Pong(3)] == [asker.exchange(Ping(n)) for n in (1, 2, 3)]


def test_pushes_without_keys(far, client):
    """A push that comes before the answer is kept for who receives."""

    def push(far):
        message, header = far.receive()
        far.send((Alarm(1), header), (Pong(message.value), header))
        far.receive()

    asker = client(far(push, protocol=unkeyed), unkeyed)
    assert Pong(1) == asker.exchange(Ping(1))
    assert Alarm(1) == asker.receive()


def test_stream_without_keys(far, client):
    """A stream that was left after some answers leaves the way free for the next."""

    def two(far):
        _, header = far.receive()
        far.send((Pong(1), header), (Pong(2), header))
        echo(far)

    asker = client(far(two, protocol=unkeyed), unkeyed)
    answers = asker.stream(Ping())
    assert [Pong(1), Pong(2)] == [next(answers), next(answers)]
    answers.close()
    assert [Pong(5), Pong(6)] == [asker.exchange(Ping(n)) for n in (5, 6)]


def test_states_on_datagrams_without_keys(far, client):
    """Where a new socket would be a new conversation, the client is closed instead."""
    states = {"new": {Ping: "asked"}, "asked": {Pong: "new"}}
    guarded = protocol(states=states, correlate=None)
    asker = client(far(lambda far: far.receive(), "udp", guarded), guarded, retries=0)
    with pytest.raises(PeerTimeoutError):
        asker.exchange(Ping(1), timeout=0.5)
    with pytest.raises(SessionClosedError, match="answers are missing"):
        asker.exchange(Ping(1))


# States --------------------------------------------------------------------

TURNS = {"new": {Ping: "asked"}, "asked": {Pong: "new"}, "never": {Bulk: "never"}}
guarded = protocol(states=TURNS)


def phase_of(asker):
    """Give the state of the conversation."""
    session = asker.session
    return (session() if callable(session) else session).phase


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_state_after_a_timeout(far, client, transport):
    """Whoever asks for what may not be allowed now is told that the session is over."""
    asker = client(far(deaf, transport, guarded), guarded, retries=0)
    with pytest.raises(PeerTimeoutError):
        asker.call(Ping(1), timeout=0.5)
    for _ in range(2):
        with pytest.raises(SessionClosedError, match="Ping was not answered, so it"):
            asker.call(Ping(2))


def test_state_after_a_late_answer(far, client):
    """An answer that comes late brings the conversation to where the peer is."""
    told = threading.Event()

    def late(far):
        _, header = far.receive()
        assert told.wait(PATIENCE)
        far.send((Pong(1), header))
        echo(far)

    asker = client(far(late, protocol=guarded), guarded)
    with pytest.raises(PeerTimeoutError):
        asker.call(Ping(1), timeout=0.5)
    assert "asked" == phase_of(asker)
    told.set()
    assert Text(b"\2") == asker.call(Ask(2))  # which is allowed in every state
    assert ("new", 1) == (phase_of(asker), asker.stats.late)
    assert Pong(3) == asker.call(Ping(3))


def test_state_after_a_broken_answer(far, client):
    """An answer that is malformed leaves the state unknown, too."""

    def broken(far):
        far.receive()
        far.raw(bytes.fromhex("0003 01 0000"))
        far.receive()

    asker = client(far(broken, protocol=guarded), guarded)
    with pytest.raises(MalformedMessageError):
        asker.call(Ping(1))
    with pytest.raises(SessionClosedError, match="Ping was not answered, so it"):
        asker.call(Ping(2))


def test_state_of_those_who_misuse_it(far, client):
    """What no state of the conversation allows is refused, and nothing is closed."""
    asker = client(far(echo, protocol=guarded), guarded)
    for _ in range(2):
        with pytest.raises(LocalProtocolError, match="not allowed in state 'new'"):
            asker.call(Bulk(b""))
    assert Pong(1) == asker.call(Ping(1))


def test_state_after_a_stream(far, client):
    """Who leaves a stream of answers has had some: the state is known."""
    flowing = protocol(states={"new": {Ask: "flow"}, "flow": {Ping: "new"}})

    def flow(far):
        _, header = far.receive()
        far.send((Text(b"1"), header), (Text(b"2"), header))
        echo(far)

    asker = client(far(flow, protocol=flowing), flowing)
    answers = asker.stream(Ask(1))
    assert Text(b"1") == next(answers)
    answers.close()
    with pytest.raises(LocalProtocolError, match="not allowed in state 'flow'"):
        asker.call(Ask(2))
    assert Pong(3) == asker.call(Ping(3))


def test_state_on_a_new_connection(far, client):
    """With reconnect the next request begins a new conversation."""
    count = iter(range(2))

    def first_deaf(far):
        if not next(count):
            deaf(far)
        echo(far)

    asker = client(far(first_deaf, protocol=guarded), guarded, reconnect=True)
    with pytest.raises(PeerTimeoutError):
        asker.call(Ping(1), timeout=0.5)
    assert Pong(2) == asker.call(Ping(2))
    assert 2 == asker.stats.connections


def test_duplicates_that_no_state_allows(far, client):
    """An answer that comes twice is a duplicate, whatever the state allows by then."""

    def twice(far):
        message, header = far.receive()
        far.send((Pong(message.value), header))
        far.session.phase = "asked"  # it lets itself do what it may not
        far.send((Pong(message.value), header))
        echo(far)

    asker = client(far(twice, protocol=guarded), guarded)
    assert Pong(1) == asker.call(Ping(1))
    assert Text(b"\2") == asker.call(Ask(2))
    assert (1, 0) == (asker.stats.duplicates, asker.stats.rejected)


def deaf(far):
    """Take what comes, and answer nothing."""
    while True:
        far.receive()
