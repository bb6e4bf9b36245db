"""
What was recorded, sent once more: to our services, and to servers that misbehave.
"""

import contextlib
import socket
import threading
import time
from math import inf

import attrs
import pytest

from protoserve import Service, route
from protoserve.journal import Entry, Journal, read_journal
from protoserve.replaying import Replay, Source, SourceError, run_replay, write_pcapng
from protoserve.serve import MODES
from protoserve.testing import live, replay
from tests.service.kit import PATIENCE, Ping, Pong, Text, connect, spoken


class Echo:
    @route
    def ping(self, message: Ping) -> Pong:
        return Pong(message.value)

    @route
    def text(self, message: Text) -> Text:
        return message


class Doubling(Echo):
    @route
    def ping(self, message: Ping) -> Pong:
        return Pong(message.value * 2 % 256)


def frame(kind, sequence, value):
    return bytes((0, 4, kind, 0, sequence, value))


def entry(n, direction, raw, *, session=1, at=0.0, transport="tcp"):
    return Entry(
        n=n,
        time=1000.0 + at,
        transport=transport,
        local=f"{transport}://192.0.2.1:7000",
        peer=f"{transport}://192.0.2.7:{4000 + session}",
        session=session,
        direction=direction,
        raw=raw,
    )


def calls(count, *, session=1, step=0.0, transport="tcp"):
    """Make the entries of some requests, each answered before the next."""
    cut = 0 if transport == "tcp" else 2
    made = []
    for i in range(count):
        at = i * step
        asked, told = frame(1, i, i)[cut:], frame(2, i, i)[cut:]
        made.append(entry(0, "in", asked, session=session, at=at, transport=transport))
        made.append(entry(0, "out", told, session=session, at=at, transport=transport))
    return made


@pytest.fixture
def journal(tmp_path):
    """Write a journal of some entries."""

    def write(*entries):
        path = tmp_path / "made.jsonl"
        path.unlink(missing_ok=True)
        lines = (attrs.evolve(e, n=n).as_json() for n, e in enumerate(entries, 1))
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


@contextlib.contextmanager
def answering(answer, kind=socket.SOCK_STREAM):
    """Serve by a function that gets each connection, or the socket of datagrams."""
    with socket.socket(type=kind) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(PATIENCE)
        port = server.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            server.listen()

        def serve():
            if kind == socket.SOCK_DGRAM:
                answer(server)
                return
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = server.accept()
                    with sock:
                        sock.settimeout(PATIENCE)
                        answer(sock)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"{'tcp' if kind == socket.SOCK_STREAM else 'udp'}://127.0.0.1:{port}"
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        if kind == socket.SOCK_DGRAM:
            with socket.socket(type=kind) as waker:
                waker.sendto(b"", ("127.0.0.1", port))
        thread.join(PATIENCE)
        assert not thread.is_alive()


def run(path, url, *, ports=(), **options):
    options = {"speed": inf, "timeout": PATIENCE, **options}
    with contextlib.closing(Source(path, ports)) as source:
        return run_replay(Replay(url=url, **options), source)


# The same again ------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_recorded_and_replayed(tmp_path, mode):
    """What a service has answered in one mode it answers again in any other."""
    path = tmp_path / "recorded.jsonl"
    with Journal(path) as made:
        app = Service(spoken, Echo(), journal=made)
        for transport in ("tcp", "udp"):
            with live(app, mode=mode, transport=transport) as server:
                host, port = server.url.partition("://")[2].rsplit(":", 1)
                kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
                for _ in range(2):
                    with connect((host, int(port)), kind) as client:
                        for value in range(5):
                            assert Pong(value) == client.call(Ping(value))
    assert 40 == sum(1 for _ in read_journal(path))
    result = replay(path, Service(spoken, Echo()))
    assert (4, 20, 20) == (result.conversations, result.sent, result.same)


@pytest.mark.parametrize("protocol", [None, spoken])
def test_difference(journal, protocol):
    """An answer that is another one now is told with both."""
    with live(Service(spoken, Doubling())) as server:
        result = run(journal(*calls(4)), server.url, protocol=protocol)
    assert (4, 1, 3) == (result.sent, result.same, result.different)
    assert not result.is_same
    first = str(result.differences[0])
    if protocol is None:
        assert "4: expected 00 04 02 00 01 01, found 00 04 02 00 01 02" == first
    else:
        assert "4: expected Pong(value=1), found Pong(value=2)" == first


def test_as_a_test(journal):
    """The test kit's function fails with what is different."""
    path = journal(*calls(3))
    with pytest.raises(AssertionError, match="2 answers are different") as caught:
        replay(path, Service(spoken, Doubling()))
    assert "expected Pong(value=1), found Pong(value=2)" in str(caught.value)
    assert 3 == replay(path, Service(spoken, Doubling()), ignore=["value"]).same
    with (
        live(Service(spoken, Echo())) as server,
        pytest.raises(AssertionError, match="there is nothing to send"),
    ):
        replay(journal(*calls(1, transport="udp")), server.url)


def test_unlike_messages(journal):
    """Another message is a difference, also if what differs of it is ignored."""
    path = journal(entry(1, "in", frame(1, 0, 1)), entry(2, "out", frame(3, 0, 1)))
    with live(Service(spoken, Echo())) as server:
        result = run(path, server.url, protocol=spoken, ignored=["value", "text"])
    assert ["2: expected Text(text=01), found Pong(value=1)"] == [
        str(d).replace("b'\\x01'", "01") for d in result.differences
    ]


def test_answers_in_another_order(journal):
    """Answers are compared by their key, if the protocol is known."""
    asked = [entry(0, "in", frame(1, i, i)) for i in range(3)]
    told = [entry(0, "out", frame(2, i, i)) for i in range(3)]

    def answer(sock):
        data = b""
        while len(data) < 18:
            data += sock.recv(100)
        sock.sendall(b"".join(frame(2, i, i) for i in (2, 0, 1)))
        sock.recv(100)

    path = journal(*asked, *told)
    with answering(answer) as url:
        assert run(path, url, protocol=spoken).is_same
    with answering(answer) as url:
        assert 3 == run(path, url).different


def test_answers_before_they_are_read(journal):
    """New answers may come before the recorded ones are read from the file."""
    path = journal(
        *(entry(0, "in", frame(1, i, i)) for i in range(50)),
        *(entry(0, "in", frame(1, 0, 0), session=2, at=0.3) for i in range(1)),
        *(entry(0, "out", frame(2, i, i), at=0.3) for i in range(50)),
        entry(0, "out", frame(2, 0, 0), session=2, at=0.3),
    )
    with live(Service(spoken, Echo())) as server:
        for protocol in (None, spoken):
            result = run(path, server.url, protocol=protocol, speed=1)
            assert (51, True) == (result.same, result.is_same)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("protocol", [None, spoken])
def test_more_answers_than_recorded(journal, transport, protocol):
    """An answer that was not recorded is a difference."""
    cut = 0 if transport == "tcp" else 2

    def answer(sock):
        # The second request may be here too, if the machine is busy.
        data, where = sock.recvfrom(len(frame(1, 9, 9)))
        told = data[: 2 - cut] + b"\2" + data[3 - cut :]
        for _ in range(2):
            sock.sendto(told, where) if cut else sock.sendall(told)
        if not cut:
            sock.recv(100)

    path = journal(
        *calls(1, transport=transport),
        entry(0, "in", frame(1, 9, 9)[cut:], transport=transport, at=0.2),
    )
    kind = socket.SOCK_DGRAM if cut else socket.SOCK_STREAM
    with answering(answer, kind) as url:
        result = run(path, url, protocol=protocol, speed=1)
    assert (1, 1) == (result.same, result.different)
    assert "expected nothing more, found" in str(result.differences[0])


def test_requests_wait_for_answers(journal):
    """A request that had waited for an answer then waits for it now."""
    seen = []

    def answer(sock):
        while data := sock.recv(100):
            seen.append(data)
            with contextlib.suppress(TimeoutError):
                sock.settimeout(0.02)
                seen.append(sock.recv(100))
            sock.settimeout(PATIENCE)
            sock.sendall(data.replace(b"\4\1", b"\4\2"))

    with answering(answer) as url:
        assert run(journal(*calls(5)), url).is_same
    assert [frame(1, i, i) for i in range(5)] == seen


def test_conversations_side_by_side(journal):
    """Conversations that overlapped do so again, each on a connection of its own."""
    pairs = zip(*(calls(10, session=i) for i in (1, 2, 3)), strict=True)
    path = journal(*(e for row in pairs for e in row))
    with live(Service(spoken, Echo())) as server:
        result = run(path, server.url, protocol=spoken)
    assert (3, 30, 30) == (result.conversations, result.sent, result.same)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_many_conversations(journal, transport):
    """However many conversations there were, a bounded number is open at a time."""
    # No more datagrams than a kernel's queue holds by default: none is sent again.
    count = 600 if transport == "tcp" else 120
    each = [calls(2, session=i, transport=transport) for i in range(count)]
    path = journal(
        *(
            e
            for begun, ended in zip(
                [*each, *[[]] * 50], [*[[]] * 50, *each], strict=True
            )
            for e in (*begun[:2], *ended[2:])
        )
    )
    most = 0

    class Counting(Echo):
        @route
        def ping(self, message: Ping) -> Pong:
            nonlocal most
            most = max(most, app.connections)
            return Pong(message.value)

    app = Service(spoken, Counting())
    with live(app, mode="loop", transport=transport) as server:
        result = run(path, server.url, protocol=spoken, timeout=PATIENCE)
    assert (2 * count, 2 * count) == (result.sent, result.same)
    assert most < 400  # the server may notice an end later


def test_pace(journal):
    """The recorded pauses are kept, times the speed; at most speed there are none."""
    written = journal(*calls(4, step=1000.0))
    slow = written.rename(written.with_name("slow"))
    path = journal(*calls(4, step=0.1))
    with live(Service(spoken, Echo())) as server:
        for speed, least in ((1.0, 0.3), (2.0, 0.15)):
            started = time.monotonic()
            assert run(path, server.url, speed=speed).is_same
            assert least <= time.monotonic() - started
        assert run(slow, server.url).is_same


def test_long_messages(journal):
    """What does not fit the socket's buffers is sent as the server reads."""
    text = b"\x3e\x80\3\0\1" + bytes(15_997)
    entries = [entry(0, "in", text), entry(0, "out", text)]
    with live(Service(spoken, Echo())) as server:
        result = run(
            journal(*(entries[:1] * 300), *(entries[1:] * 300)),
            server.url,
            timeout=PATIENCE,
        )
    assert (300, 300) == (result.sent, result.same)


# Servers that do not play along --------------------------------------------


def test_no_answers(journal):
    """A server that never answers is waited for once in a conversation."""
    path = journal(*calls(50))
    with answering(lambda sock: sock.recv(100) and sock.recv(10_000)) as url:
        started = time.monotonic()
        result = run(path, url, timeout=0.2)
        assert time.monotonic() - started < 5
    assert 50 == result.unanswered
    assert not result.is_same


def test_nobody_there(journal):
    """Where nobody listens, that is counted."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        result = run(journal(*calls(2), *calls(2, session=2)), url)
    assert {"not connected: Connection refused": 2} == result.errors
    assert (0, 4, 4) == (result.sent, result.unsent, result.unanswered)


def test_server_that_closes(journal):
    """What cannot be sent as the server has closed is counted."""

    def answer(sock):
        sock.sendall(sock.recv(100).replace(b"\4\1", b"\4\2"))

    with answering(answer) as url:
        result = run(journal(*calls(3)), url)
    assert (1, 2) == (result.same, result.unanswered)
    assert not result.is_same


def test_answers_that_make_no_sense(journal):
    """What a server says is compared, whatever it is."""
    path = journal(*calls(1))
    for said in (b"\0\4\2", b"\0\4\x77\0\0\0", b"\xff" * 100):

        def answer(sock, said=said):
            sock.recv(100)
            sock.sendall(said)

        for protocol in (None, spoken):
            with answering(answer) as url:
                assert not run(path, url, protocol=protocol).is_same


def test_other_transport(journal):
    """What was said over the other kind of transport is left out, and counted."""
    path = journal(*calls(2), *calls(3, session=2, transport="udp"))
    with live(Service(spoken, Echo()), transport="udp") as server:
        result = run(path, server.url, protocol=spoken)
    assert (3, 3, 4) == (result.sent, result.same, result.left_out)


# Captures ------------------------------------------------------------------


@pytest.fixture
def capture(tmp_path):
    """Write a capture of some entries."""
    pytest.importorskip("dpkt")

    def write(*entries):
        path = tmp_path / "made.pcapng"
        write_pcapng(entries, path)
        return path

    return write


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_capture(capture, transport):
    """The requests of a capture are sent on as many connections as there were."""
    rows = zip(
        *(calls(5, session=i, transport=transport) for i in (1, 2, 3)), strict=True
    )
    path = capture(*(e for row in rows for e in row))
    with live(Service(spoken, Echo()), transport=transport) as server:
        for protocol in (None, spoken):
            result = run(path, server.url, ports=[7000], protocol=protocol)
            assert (3, 15, 15) == (result.conversations, result.sent, result.same)
            assert result.is_same


def test_capture_out_of_order(capture, tmp_path):
    """Segments that come in another order, and twice, are put in order."""
    from dpkt import pcapng

    path = capture(*(entry(0, "in", frame(1, i, i)) for i in range(20)))
    with path.open("rb") as file:
        packets = list(pcapng.Reader(file))
    first, body, last = packets[:3], packets[3:-3], packets[-3:]
    mixed = tmp_path / "mixed.pcapng"
    with mixed.open("wb") as file:
        writer = pcapng.Writer(file)
        for when, packet in [*first, *body[::-1], *body[3:9], *last]:
            writer.writepkt(packet, ts=when)
    with live(Service(spoken, Echo())) as server:
        result = run(mixed, server.url, ports=[7000])
    with contextlib.closing(Source(mixed, [7000])) as source:
        data = b"".join(piece.data for piece in source)
    assert b"".join(frame(1, i, i) for i in range(20)) == data
    assert {} == result.errors


def test_capture_with_a_hole(capture, tmp_path):
    """Bytes that a capture lacks are counted; the rest is sent."""
    from dpkt import pcapng

    path = capture(*(entry(0, "in", frame(1, i, i)) for i in range(5)))
    with path.open("rb") as file:
        packets = list(pcapng.Reader(file))
    with path.open("wb") as file:
        writer = pcapng.Writer(file)
        for when, packet in packets[:4] + packets[5:]:
            writer.writepkt(packet, ts=when)
    with contextlib.closing(Source(path, [7000])) as source:
        data = b"".join(piece.data for piece in source)
        assert 6 == source.lacking
    assert b"".join(frame(1, i, i) for i in (0, 2, 3, 4)) == data


def test_capture_of_others(capture):
    """What was sent to other ports is left out, and counted."""
    path = capture(*calls(2, transport="udp"))
    with contextlib.closing(Source(path, [53])) as source:
        assert [] == list(source)
        assert 4 == source.left_out


def test_cut_capture(capture, tmp_path):
    """A capture that is cut in the middle has what is before."""
    path = capture(*calls(5, transport="udp"))
    path.write_bytes(path.read_bytes()[:-20])
    with contextlib.closing(Source(path, [7000])) as source:
        assert 9 == len(list(source))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"something else\n", "line 1: it is no JSON"),
        (b"\xa1\xb2\xc3\xd4\0", "its header is cut"),
    ],
)
def test_other_files(tmp_path, data, words):
    """A file that is neither is refused with its name."""
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=words), contextlib.closing(Source(path)) as s:
        list(s)
