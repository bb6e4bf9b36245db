"""
The load generator: what it sends, what it measures, and servers that misbehave.
"""

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from math import inf

import attrs
import pytest
from construct import Int8ub, Int16ub, Int32ub

from protoserve import (
    DeclarationError,
    LengthPrefixed,
    Message,
    Protocol,
    Request,
    Service,
    route,
    wire,
)
from protoserve.framing import Datagram
from protoserve.loadgen import Figures, Load, LoadError, Second, make_requests, run_load
from protoserve.loadgen.figures import histogram, percentile, shortened
from protoserve.loadgen.plot import check_plot, write_plot
from protoserve.loadgen.requests import MOST_FRAMES
from protoserve.loadgen.values import messages_of, turns_of
from protoserve.serve import Runner
from protoserve.testing import live
from protoserve.urls import Address
from tests.service.kit import PATIENCE, Ping, Pong, Text, descriptors, spoken, until
from tests.test_replaying import Echo, answering

pytest.importorskip("hdrh")


class Nak(Message, error=True):
    reason: int = wire(Int8ub)


class Ask(Request[Pong]):
    value: int = wire(Int32ub, default=0)


class Beg(Request[Pong | Nak]):
    value: int = wire(Int8ub, default=0)


class Narrow(Message):
    kind: int = wire(Int8ub)
    key: int = wire(Int8ub, default=0)


unkeyed = Protocol(
    "unkeyed", framing=LengthPrefixed(Int16ub), requests=Ask, responses=Pong
)
tiny = Protocol(
    "tiny",
    framing=LengthPrefixed(Int16ub),
    header=Narrow,
    tag="kind",
    correlate="key",
    requests={1: Beg},
    responses={2: Pong, 4: Nak},
)


class Begged:
    @route
    def beg(self, message: Beg) -> Pong | Nak:
        return Nak(message.value) if message.value % 2 else Pong(message.value)


class Asked:
    @route
    def ask(self, message: Ask) -> Pong:
        return Pong(message.value)


def load(url, protocol=spoken, messages=None, **options):
    stream = url.startswith(("tcp", "tls", "unix:"))
    requests = make_requests(protocol, messages or [Ping(9)], stream=stream)
    options = {"duration": 0.2, "warm_up": 0.05, "connections": 2, **options}
    return Load(protocol=protocol, url=url, requests=requests, **options)


# Requests ------------------------------------------------------------------


def test_cycle_of_keys():
    """Each frame has a key of its own, and the messages take turns."""
    made = make_requests(spoken, [Ping(1), Ping(2), Ping(3)], stream=True)
    assert MOST_FRAMES // 3 * 3 == len(made.frames)
    assert list(range(len(made.frames))) == list(made.keys)
    assert bytes.fromhex("0004 01 0004 02") == made.frames[4]
    assert (
        bytes.fromhex("01 0004 02")
        == make_requests(spoken, [Ping(1), Ping(2), Ping(3)], stream=False).frames[4]
    )


def test_narrow_keys():
    """There are no more frames than keys."""
    made = make_requests(tiny, [Beg(n % 256) for n in range(500)], stream=False)
    assert (256, 255) == (len(made.frames), made.keys[-1])


def test_no_keys():
    """Without a key the messages are all there is."""
    made = make_requests(unkeyed, [Ask(1), Ask(2)], stream=True)
    assert (2, None) == (len(made.frames), made.keys)


def test_keys_of_the_messages():
    """A key that is a function of the message tells answers apart if they differ."""
    protocol = attrs.evolve(spoken, correlate=lambda _header, message: message.value)
    made = make_requests(protocol, [Ping(1), Ping(2)], stream=True)
    assert [1, 2] == list(made.keys)
    assert None is make_requests(protocol, [Ping(1), Ping(1)], stream=True).keys


def test_large_messages():
    """The frames of a cycle take a bounded number of bytes."""
    made = make_requests(spoken, [Text(bytes(15_000))], stream=True)
    assert sum(map(len, made.frames)) < (1 << 24) + 16_000


def test_no_framing():
    """A protocol of datagrams cannot be spoken over a stream."""
    protocol = attrs.evolve(spoken, framing=None)
    with pytest.raises(DeclarationError, match="has no framing="):
        make_requests(protocol, [Ping(1)], stream=True)


def test_values_that_vary(tmp_path):
    """Numbers and the lines of files vary from one request to the next."""
    path = tmp_path / "values"
    path.write_text("3\n\n4\n5\n")
    turns = turns_of([f"value=@{path}"])
    assert [Ping(3), Ping(4), Ping(5)] == messages_of(Ping, turns)
    turns = turns_of([f"a=@{path}", "b={n}", "c=x{n:04x}{m}", 'd={"n": 1}'])
    assert MOST_FRAMES == len(turns)
    assert ("a=5", "b=17", "c=x0011{m}", 'd={"n": 1}') == turns[17]
    assert [("value=1",)] == turns_of(["value=1"])
    assert [()] == turns_of([])
    path.write_text("\n")
    with pytest.raises(DeclarationError, match="expected a value on each line"):
        turns_of([f"value=@{path}"])


# Figures -------------------------------------------------------------------


def test_percentiles():
    """The histogram's percentiles are those of the times, to three digits."""
    times = Counter(shortened(n * 37) for n in range(1, 20_000))
    made = histogram(times)
    for percent in (1, 50, 90, 99, 99.9, 100):
        exact = percentile(times, percent) * 1e6
        assert exact == pytest.approx(made.get_value_at_percentile(percent), rel=0.002)
        assert percent / 100 * 20_000 * 37 == pytest.approx(exact, rel=0.02)


def test_no_times():
    """Where nothing was answered there is no latency."""
    figures = Figures(seconds=1.0)
    assert (0.0, None, 0.0) == (
        figures.percentile(99),
        figures.as_plain()["latency"],
        Figures().rate,
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [("connections", 0), ("pipeline", -1), ("rate", 0), ("rate", inf), ("duration", 0)],
)
def test_wrong_numbers(option, value):
    """Numbers that make no sense are refused by name."""
    with pytest.raises(DeclarationError, match=f"{option}: expected a number above 0"):
        load("tcp://127.0.0.1:1", **{option: value})


# A server that works -------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "udp", "unix", "unixgram"])
@pytest.mark.parametrize("pipeline", [1, 7])
def test_closed_loop(transport, pipeline):
    """Every request is answered, on every transport, alone or several at a time."""
    with live(Service(spoken, Echo()), mode="loop", transport=transport) as server:
        # A Unix socket for datagrams has room for ten or so.
        connections = 1 if transport == "unixgram" else 2
        asked = load(server.url, pipeline=pipeline, connections=connections)
        begun = time.monotonic()
        figures = run_load(asked)
        took = time.monotonic() - begun
    assert {} == figures.errors
    assert 10 < figures.answered == figures.sent
    assert 0 == figures.unsent == figures.late
    assert figures.answered == sum(figures.times.values())
    assert 0.2 <= figures.seconds <= took
    assert figures.bytes_sent >= figures.sent * 4
    plain = figures.as_plain()["latency"]
    assert 0 < plain["min"] <= plain["p50"] <= plain["p99"] <= plain["max"]


@pytest.mark.parametrize("stream", [True, False])
def test_without_keys(stream):
    """Without keys answers come in order, and a datagram waits for its answer."""

    app = Service(unkeyed, Asked())
    with live(app, transport="tcp" if stream else "udp") as server:
        asked = load(server.url, unkeyed, [Ask(1), Ask(2), Ask(3)], pipeline=5)
        assert (5 if stream else 1) == asked.depth
        figures = run_load(asked)
    assert {} == figures.errors
    assert 10 < figures.answered == figures.sent


def test_large_requests():
    """What does not fit the sockets' buffers is sent as the server reads."""
    with live(Service(spoken, Echo())) as server:
        asked = load(server.url, messages=[Text(bytes(15_000))], pipeline=200)
        figures = run_load(attrs.evolve(asked, timeout=PATIENCE))
    assert {} == figures.errors
    assert 400 < figures.answered == figures.sent


def test_datagrams_of_several_frames():
    """Answers that share a datagram are told apart."""
    protocol = attrs.evolve(spoken, framing=Datagram(LengthPrefixed(Int8ub)))

    def answer(sock):
        while True:
            one, where = sock.recvfrom(100)
            two = one and sock.recv(100)
            if not two:
                return
            sock.sendto(b"\4\2" + one[2:] + b"\4\2" + two[2:], where)

    with answering(answer, socket.SOCK_DGRAM) as url:
        asked = load(url, protocol, connections=1, pipeline=2, timeout=2.0)
        figures = run_load(asked)
    assert figures.answered > 10
    assert figures.failed <= 2  # at the end they may be alone


def test_rate():
    """In an open loop as many are sent as are due, whatever the server does."""
    with live(Service(spoken, Echo()), mode="loop") as server:
        figures = run_load(load(server.url, rate=500, duration=0.4, pipeline=50))
    assert {} == figures.errors
    due = figures.sent + figures.unsent  # these, if the machine is away at the end
    assert 500 * figures.seconds == pytest.approx(due, abs=15)
    assert 100 < figures.sent == figures.answered


def test_course():
    """How it goes is told meanwhile, and sums up to the whole."""
    seen = []
    with live(Service(spoken, Echo()), mode="loop") as server:
        figures = run_load(load(server.url, duration=0.5), seen.append)
    assert None is seen[0]
    assert seen[1:] == figures.course
    assert len(figures.course) > 2
    assert figures.seconds == pytest.approx(sum(s.length for s in figures.course))
    assert figures.sent == sum(s.sent for s in figures.course)


def test_interrupted():
    """Ctrl-C ends the measuring, and what was measured is told."""

    seen = []

    def interrupt(second):
        seen.append(second)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with live(Service(spoken, Echo()), mode="loop") as server:
        figures = run_load(load(server.url, duration=60.0), interrupt)
    assert figures.answered > 0
    assert figures.seconds < 30


# Servers that do not play along --------------------------------------------


def pong(data):
    """Answer whole Pings."""
    return b"".join(
        data[i : i + 2] + b"\2" + data[i + 3 : i + 6] for i in range(0, len(data), 6)
    )


def pings(sock):
    """Give what comes, in whole Pings."""
    data = b""
    while piece := sock.recv(6000):
        data += piece
        whole = len(data) // 6 * 6
        yield data[:whole]
        data = data[whole:]


class Stalling:
    """
    Answers at once, but for one long pause.
    """

    def __init__(self):
        self.until = None

    def __call__(self, sock):
        for data in pings(sock):
            if self.until is None:
                self.until = time.monotonic() + 0.3
            elif self.until and time.monotonic() > self.until:
                self.until = 0
                time.sleep(0.4)
            sock.sendall(pong(data))


def test_no_coordinated_omission():
    """While a server is stuck, requests go on being due, and their time counts."""
    options = {"connections": 1, "duration": 1.0, "warm_up": 0.1}
    with answering(Stalling()) as url:
        closed = run_load(load(url, **options))
    with answering(Stalling()) as url:
        due = run_load(load(url, rate=1000, pipeline=10, **options))
    assert closed.percentile(90) < 0.1
    assert {} == due.errors
    # 400 of 1000 were due in the pause, and had to wait for its end.
    assert 0.1 < due.percentile(75) < due.percentile(90) < 2.0


def test_rate_that_is_too_high():
    """What was due and could not be sent is counted."""

    def answer(sock):
        for data in pings(sock):
            time.sleep(0.02)
            sock.sendall(pong(data))

    with answering(answer) as url:
        figures = run_load(load(url, rate=1000, connections=1, warm_up=0, duration=0.4))
    assert figures.unsent > 100
    assert figures.failed
    assert figures.percentile(50) > 0.02


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("protocol", [spoken, unkeyed])
def test_no_answers(kind, protocol):
    """What is not answered in time is counted, and the run ends."""

    def answer(sock):
        while sock.recv(10_000):
            pass

    message = Ping(1) if protocol is spoken else Ask(1)
    with answering(answer, kind) as url:
        asked = load(url, protocol, [message], connections=1, timeout=0.1, duration=0.6)
        figures = run_load(asked)
    assert (0, figures.sent) == (figures.answered, figures.errors["timeout"])
    assert figures.sent


def test_late_answers():
    """An answer that comes after its request was given up counts for nothing."""

    def answer(sock):
        held = None
        while True:
            data, where = sock.recvfrom(100)
            if not data:
                return
            if held is not None:
                sock.sendto(held, where)
            held = b"\2" + data[1:]

    with answering(answer, socket.SOCK_DGRAM) as url:
        asked = load(url, connections=1, timeout=0.05, duration=1.0)
        figures = run_load(asked)
    assert figures.late > 0
    assert figures.errors["timeout"] > 0


def test_error_responses():
    """Answers that are declared as errors are counted as such, and as answers."""
    with live(Service(tiny, Begged()), mode="loop") as server:
        figures = run_load(load(server.url, tiny, [Beg(1), Beg(2)]))
    assert figures.answered == figures.sent
    half = figures.answered / 2
    assert half == pytest.approx(figures.errors["error response"], abs=3)


@pytest.mark.parametrize(
    "said", ["0003 02 KKKK", "0004 63 KKKK 01", "0004 01 KKKK 01", "ffff ffff"]
)
def test_answers_that_make_no_sense(said):
    """Answers that cannot be parsed, or cut, are counted, and it goes on."""

    def answer(sock):
        for data in pings(sock):
            for i in range(0, len(data), 6):
                key = data[i + 3 : i + 5].hex()
                sock.sendall(bytes.fromhex(said.replace("KKKK", key)))

    with answering(answer) as url:
        figures = run_load(load(url, connections=1, duration=0.6))
    assert {"malformed"} == set(figures.errors)
    assert figures.errors["malformed"] > 1


def test_byte_by_byte():
    """Answers may come in any pieces."""

    def answer(sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for data in pings(sock):
            for byte in pong(data):
                sock.sendall(bytes([byte]))

    with answering(answer) as url:
        figures = run_load(load(url, connections=1))
    assert {} == figures.errors
    assert figures.answered > 5


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(("end", "kind"), [(None, "closed"), (reset, "reset")])
def test_server_that_hangs_up(end, kind):
    """A connection that ends is opened again, and what it lost is counted."""
    opened = []

    def answer(sock):
        opened.append(sock)
        for _ in range(3):
            sock.sendall(pong(sock.recv(6)))
        sock.recv(6)
        if end is not None:
            end(sock)

    with answering(answer) as url:
        figures = run_load(load(url, connections=1, duration=0.8))
    assert len(opened) > 2
    assert {kind} == set(figures.errors)
    assert figures.errors[kind] >= len(opened) - 2
    assert figures.answered >= 3


def test_server_that_goes_and_comes():
    """While nobody listens that is counted; the load goes on afterwards."""
    app = Service(spoken, Echo())
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    url = f"tcp://127.0.0.1:{port}"

    def serve():
        runner = Runner(app, [Address.parse(url)], "loop", drain=0.1)
        runner.bind()
        thread = threading.Thread(target=runner.serve)
        thread.start()
        return runner, thread

    runner, thread = serve()
    figures = []
    asked = load(url, duration=4.0, warm_up=0, connections=2)
    loading = threading.Thread(target=lambda: figures.append(run_load(asked)))
    loading.start()
    until(lambda: app.connections == 2)
    runner.stop()
    thread.join()
    time.sleep(0.2)
    runner, thread = serve()
    loading.join()
    runner.stop()
    thread.join()
    (figures,) = figures
    assert figures.errors["connect"] > 0
    assert {"connect", "closed", "reset"} >= set(figures.errors)
    assert figures.course[-1].answered > 0


def test_nobody_there():
    """Where nobody listens at all, there is no load."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(LoadError, match=f"cannot connect to {url}: Connection ref"):
            run_load(load(url))


def test_nothing_is_left():
    """Neither sockets nor threads are left."""
    app = Service(spoken, Echo())
    with live(app, mode="loop") as server:
        run_load(load(server.url, connections=1, duration=0.1))
        until(lambda: not app.connections)
        threads, files = threading.active_count(), descriptors()
        with contextlib.suppress(LoadError):
            run_load(load("tcp://127.0.0.1:1", connections=20))
        run_load(load(server.url, connections=20, duration=0.1))
        until(lambda: threading.active_count() <= threads)
        until(lambda: descriptors() <= files)


# The plot ------------------------------------------------------------------


def test_plot(tmp_path):
    """The plot is an SVG file with the percentiles; equal figures make equal files."""
    pytest.importorskip("matplotlib")
    figures = Figures(
        seconds=2.0, answered=2000, times=dict.fromkeys(range(1, 2001), 1)
    )
    figures.course = [Second(1.0, 1.0, 1000, 1000, 0, 0.001, 0.002)] * 2
    texts = []
    for name in ("a.svg", "b.svg"):
        write_plot(figures, tmp_path / name, "a title")
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    for words in ("<svg", "a title", "99.9 %", "answers/s"):
        assert words in texts[0]
    write_plot(Figures(), tmp_path / "c.svg", "nothing")
    with pytest.raises(DeclarationError, match="expected the name of an .svg file"):
        check_plot("a.png")
