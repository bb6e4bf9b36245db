"""
Datagrams received and answered many at a time.
"""

import contextlib
import errno
import logging
import os
import socket
import struct
import threading
import time
import types

import pytest

import protoserve.server as servers
from protoserve.rarelog import RareLog
from protoserve.server import (
    BaseRequestHandler,
    BatchMixIn,
    DatagramRequestHandler,
    TCPServer,
    UDPServer,
    UnixDatagramServer,
    _mmsg,
)
from protoserve.server import batch as batch_module
from tests.coalescing import gro, segmented

linux = pytest.mark.skipif(_mmsg._recvmmsg is None, reason="there is no recvmmsg")


@pytest.fixture(params=[False, True], ids=["recvmmsg", "portable"])
def portable(request):
    """
    Both ways of receiving.
    """
    if not request.param and _mmsg._recvmmsg is None:
        pytest.skip("there is no recvmmsg")
    return request.param


class Upper(DatagramRequestHandler):
    def handle(self):
        self.wfile.write(self.packet.upper())


class Side:
    """
    Notes what comes in blocks, and answers it.
    """

    def __init__(self, server):
        self.server = server
        self.blocks = []
        self.calls = []
        server.side = self

    def batch(self, block):
        parts = list(block.datagrams())
        data = [bytes(block.data[o : o + n]) for o, n, _ in parts]
        self.blocks.append(data)
        if b"raise" in data:
            raise ZeroDivisionError
        replies = [(who, d.upper()) for d, (_, _, who) in zip(data, parts, strict=True)]
        self.server.send_batch([r for r in replies if r[0]])

    def attend(self):
        self.calls.append("attend")

    def stop(self):
        self.calls.append("stop")

    def end(self):
        self.calls.append("end")

    busy = False

    @property
    def received(self):
        return [data for block in self.blocks for data in block]


class Batches(BaseRequestHandler):
    batch_side = Side

    def handle(self):
        data, sock = self.request
        sock.sendto(b"single " + data, self.client_address)


FAMILIES = {
    "inet": (socket.AF_INET, "127.0.0.1"),
    "inet6": (socket.AF_INET6, "::1"),
}


def make(base=UDPServer, handler=Upper, address=("127.0.0.1", 0), **options):
    return type("Server", (BatchMixIn, base), options)(address, handler)


@contextlib.contextmanager
def client_of(server, kit, name=None):
    with socket.socket(server.address_family, socket.SOCK_DGRAM) as client:
        client.settimeout(kit.patience)
        if name is not None:
            client.bind(name)
        client.connect(server.server_address)
        yield client


@pytest.mark.parametrize("handler", [Upper, Batches])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers(family, handler, portable, serve, kit):
    """What was sent before the server began is all answered, in order, to its sender."""
    number, host = FAMILIES[family]
    server = make(
        address=(host, 0),
        handler=handler,
        address_family=number,
        _loop_portable=portable,
    )
    with client_of(server, kit) as one, client_of(server, kit) as two:
        for count in range(100):
            one.send(b"a%d" % count)
            two.send(b"b%d" % count)
        serve(server)
        assert [b"A%d" % n for n in range(100)] == [one.recv(9) for _ in range(100)]
        assert [b"B%d" % n for n in range(100)] == [two.recv(9) for _ in range(100)]


def test_more_than_a_batch(portable, serve, kit):
    """A queue longer than a batch is taken in several."""
    server = make(handler=Batches, batch_size=64, _loop_portable=portable)
    with client_of(server, kit) as client:
        for count in range(150):
            client.send(b"%d" % count)
        serve(server)
        assert [b"%d" % n for n in range(150)] == [client.recv(9) for _ in range(150)]
    assert [64, 64, 22] == [len(block) for block in server.side.blocks]


@pytest.mark.parametrize("handler", [Upper, Batches])
def test_unix(handler, portable, serve, kit, short_path):
    """Unix peers with a path, an abstract name or none are served."""
    server = make(UnixDatagramServer, handler, short_path, _loop_portable=portable)
    with (
        client_of(server, kit, short_path + "c") as path,
        client_of(server, kit, "\0" + short_path) as abstract,
        client_of(server, kit) as unnamed,
    ):
        unnamed.send(b"nobody")
        path.send(b"path")
        abstract.send(b"abstract")
        serve(server)
        assert b"PATH" == path.recv(99)
        assert b"ABSTRACT" == abstract.recv(99)
        if handler is Batches:
            assert b"nobody" in server.side.received


def test_addresses_are_those_of_the_socket_module(portable, serve, kit, short_path):
    """A handler sees the same address as the socket module gives."""
    seen = []

    class Note(BaseRequestHandler):
        def handle(self):
            seen.append(self.client_address)

    families = [
        ((UDPServer, ("127.0.0.1", 0), socket.AF_INET), None),
        ((UDPServer, ("::1", 0), socket.AF_INET6), None),
        ((UnixDatagramServer, short_path, socket.AF_UNIX), short_path + "c"),
        ((UnixDatagramServer, short_path + "2", socket.AF_UNIX), "\0" + short_path),
    ]
    for (base, address, family), name in families:
        seen.clear()
        options = {"address_family": family, "_loop_portable": portable}
        server = make(base, Note, address, **options)
        with client_of(server, kit, name) as client:
            client.send(b"")
            client.send(b"x")
            _, expected = server.socket.recvfrom(9)
            serve(server)
            kit.until(lambda: seen)
        assert [expected] == seen


def test_longer_name_after_a_shorter_one(portable, kit, short_path):
    """What the kernel wrote over for one receive does not cut short the next."""
    server = make(UnixDatagramServer, address=short_path)
    block = _mmsg.Block(server.socket, 64, 100, timestamps=True, portable=portable)
    with server:
        for name in (short_path + "c", short_path + "longer"):
            with client_of(server, kit, name) as client:
                client.send(b"x")
                assert 1 == block.receive(server.socket)
                assert [name] == [block.addresses.plain(n) for n in block.senders()]
                assert 0 < block.seconds[0]


def test_scope_of_link_local_address():
    """A link-local peer's scope id is kept both ways."""
    book = _mmsg.AddressBook(socket.AF_INET6)
    address = ("fe80::1", 4711, 5, 3)
    raw = book.raw(address)
    assert 28 == len(raw)
    assert address == _mmsg.AddressBook(socket.AF_INET6).plain(raw)


@pytest.mark.parametrize("handler", [Upper, Batches])
def test_truncated(handler, portable, serve, kit):
    """A datagram that is too long is reported and not handled; its neighbours are."""
    reported = []

    class Server(BatchMixIn, UDPServer):
        max_packet_size = 10
        _loop_portable = portable

        def handle_truncated(self, request, client_address):
            reported.append((request, client_address))
            raise ZeroDivisionError

        def handle_error(self, request, client_address):
            reported.append("error")

    server = Server(("127.0.0.1", 0), handler)
    with client_of(server, kit) as client:
        for data in (b"x" * 10, b"y" * 11, b"", b"z" * 500, b"end"):
            client.send(data)
        serve(server)
        assert [b"X" * 10, b"", b"END"] == [client.recv(99) for _ in range(3)]
        here = client.getsockname()
    assert [
        ((b"y" * 10, server.socket), here),
        "error",
        ((b"z" * 10, server.socket), here),
        "error",
    ] == reported


def test_only_truncated(portable, serve, kit):
    """A batch of nothing but too long datagrams does no harm."""
    server = make(max_packet_size=1, _loop_portable=portable)
    with client_of(server, kit) as client:
        for _ in range(3):
            client.send(b"long")
        serve(server)
        client.send(b"x")
        assert b"X" == client.recv(9)


@pytest.mark.parametrize(
    "step",
    ["verify_request", "process_request", "finish_request", "close_request"],
)
def test_steps_for_single_requests(step, portable, serve, kit):
    """A subclass that overrides a step gets every datagram through it, one by one."""
    called = []

    def override(self, request, *client_address):
        called.append(request[0])
        return getattr(super(server_class, self), step)(request, *client_address)

    server_class = type(
        "Server",
        (BatchMixIn, UDPServer),
        {step: override, "_loop_portable": portable},
    )
    server = server_class(("127.0.0.1", 0), Batches)
    with client_of(server, kit) as client:
        client.send(b"one")
        client.send(b"two")
        serve(server)
        assert b"single one" == client.recv(99)
        assert b"single two" == client.recv(99)
        client.send(b"three")
        assert b"single three" == client.recv(99)
    assert [b"one", b"two"] == called[:2]


def test_refused_requests(serve, kit):
    """What `verify_request` refuses is not handled, what follows is."""

    class Server(BatchMixIn, UDPServer):
        def verify_request(self, request, client_address):
            return request[0] != b"no"

    server = Server(("127.0.0.1", 0), Upper)
    with client_of(server, kit) as client:
        for data in (b"no", b"yes"):
            client.send(data)
        serve(server)
        assert b"YES" == client.recv(9)


@pytest.mark.parametrize("whole", [True, False])
def test_get_request_overridden(whole, serve, kit):
    """An override of `get_request` may extend the mix-in's, or replace it."""

    class Server(BatchMixIn, UDPServer):
        def get_request(self):
            if whole:
                (data, sock), address = super().get_request()
            else:
                sock = self.socket
                data, address = sock.recvfrom(99)
            return (b"<" + data + b">", sock), address

    server = Server(("127.0.0.1", 0), Upper)
    with client_of(server, kit) as client:
        for data in (b"a", b"b", b"c"):
            client.send(data)
        serve(server)
        assert [b"<A>", b"<B>", b"<C>"] == [client.recv(9) for _ in range(3)]


@pytest.mark.parametrize("handler", [Upper, Batches])
def test_handle_request_overridden(handler, serve, kit):
    """An override of `handle_request` is called for each datagram."""
    calls = []

    class Server(BatchMixIn, UDPServer):
        def handle_request(self):
            calls.append(1)
            super().handle_request()

    server = Server(("127.0.0.1", 0), handler)
    with client_of(server, kit) as client:
        for data in (b"a", b"b", b"c"):
            client.send(data)
        serve(server)
        for _ in range(3):
            client.recv(99)
    assert 3 <= len(calls)
    assert not hasattr(server, "side")


@pytest.mark.parametrize("handler", [Upper, Batches])
def test_handle_request_alone(handler, kit):
    """`handle_request` handles one datagram and leaves the others in the kernel."""
    with make(handler=handler) as server, client_of(server, kit) as client:
        for data in (b"a", b"b"):
            client.send(data)
        server.handle_request()
        first = client.recv(9)
        assert first.lower().endswith(b"a")
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(9)
        assert b"b" == server.socket.recv(9)


def test_handle_timeout(kit):
    """`handle_request` keeps its timeout."""
    timeouts = []
    with make(timeout=0.01, handle_timeout=lambda _: timeouts.append(1)) as server:
        server.handle_request()
    assert [1] == timeouts


def test_failing_handler(portable, serve, kit, capsys):
    """A handler that raises costs its own datagram only."""

    class Fragile(DatagramRequestHandler):
        def handle(self):
            if self.packet == b"raise":
                raise ZeroDivisionError
            self.wfile.write(self.packet)

    server = make(handler=Fragile, _loop_portable=portable)
    with client_of(server, kit) as client:
        for data in (b"raise", b"a", b"raise", b"b"):
            client.send(data)
        serve(server)
        answers = [client.recv(9) for _ in range(4)]
    assert [b"", b"a", b"", b"b"] == answers
    assert 2 == capsys.readouterr().out.count("Traceback")


def test_failing_side(serve, kit, capsys):
    """A side that raises costs its own block only."""
    server = make(handler=Batches)
    with client_of(server, kit) as client:
        client.send(b"raise")
        serve(server)
        kit.until(lambda: getattr(server, "side", None) and server.side.blocks)
        client.send(b"a")
        assert b"A" == client.recv(9)
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_system_exit_passes(kit):
    """SystemExit ends the loop; what had been received is handled by the next one."""

    class Leave(BaseRequestHandler):
        def handle(self):
            data, sock = self.request
            if data == b"exit":
                raise SystemExit
            sock.sendto(data, self.client_address)
            self.server.shutdown()

    with make(handler=Leave) as server, client_of(server, kit) as client:
        client.send(b"exit")
        client.send(b"after")
        with pytest.raises(SystemExit):
            server.serve_forever()
        server.serve_forever()
        assert b"after" == client.recv(9)


@pytest.mark.parametrize("handler", [Upper, Batches])
def test_shutdown_after_a_turn(handler, kit):
    """The loop's first turn handles the whole batch, then it stops."""
    server = make(handler=handler)
    with server, client_of(server, kit) as client:
        for number in range(9):
            client.send(b"%d" % number)
        server.service_actions = server.shutdown
        server.serve_forever()
        assert [b"%d" % n for n in range(9)] == [
            client.recv(9).upper() for _ in range(9)
        ]


def test_shutdown_from_a_handler_finishes_the_batch(kit):
    """A handler that stops the server loses none of what was received with it."""

    class Stop(DatagramRequestHandler):
        def handle(self):
            self.server.shutdown()
            self.wfile.write(self.packet)

    with make(handler=Stop) as server, client_of(server, kit) as client:
        for number in range(3):
            client.send(b"%d" % number)
        server.serve_forever()
        assert [b"0", b"1", b"2"] == [client.recv(9) for _ in range(3)]


def test_drain_timeout(kit):
    """What takes too long after `shutdown` waits for the next `serve_forever`."""

    class Stop(DatagramRequestHandler):
        def handle(self):
            self.server.shutdown()
            self.wfile.write(self.packet)

    server = make(handler=Stop, drain_timeout=0)
    with server, client_of(server, kit) as client:
        client.send(b"0")
        client.send(b"1")
        server.serve_forever()
        assert b"0" == client.recv(9)
        server.serve_forever()
        assert b"1" == client.recv(9)


def test_side_drains_the_kernels_queue(kit):
    """A side gets what has arrived before `shutdown`, over several batches."""
    server = make(handler=Batches, batch_size=64)
    with server, client_of(server, kit) as client:
        for number in range(200):
            client.send(b"%d" % number)
        server.shutdown()  # of the loop that begins next
        server.serve_forever()
        assert 200 == len(server.side.received)
        assert ["stop", "end"] == server.side.calls[-2:]
        client.recv(9)


def test_closed_while_serving(serve, kit):
    """`server_close` ends a loop that runs."""
    server = make()
    thread = serve(server)
    with client_of(server, kit) as client:
        client.send(b"a")
        assert b"A" == client.recv(9)
    server.server_close()
    thread.join(kit.patience)
    assert not thread.is_alive()


def test_wakes_the_side(serve, kit):
    """A side is attended to when something has woken the loop."""
    server = make(handler=Batches)
    serve(server)
    kit.until(lambda: hasattr(server, "side"))
    kit.until(lambda: (server._loop_wake(), server.side.calls)[1])
    assert "attend" == server.side.calls[0]


def test_gather(serve, kit):
    """With `gather`, a small batch is followed by a nap, and nothing is lost."""
    server = make(handler=Batches, gather=0.002)
    serve(server)
    with client_of(server, kit) as client:
        for number in range(50):
            client.send(b"%d" % number)
        assert [b"%d" % n for n in range(50)] == [client.recv(9) for _ in range(50)]
    assert len(server.side.blocks) < 50


@linux
def test_kernel_drops(kit):
    """The kernel's count of lost datagrams is told, also after the server is closed."""
    with make(receive_buffer=None) as server, client_of(server, kit) as client:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        assert 0 == server.kernel_drops
        for _ in range(100):
            client.send(b"x" * 100)
        waiting = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                server.socket.recv(200, socket.MSG_DONTWAIT)
                waiting += 1
        assert 0 < waiting < 100
        assert 100 == waiting + server.kernel_drops
    assert 100 == waiting + server.kernel_drops


@linux
def test_kernel_drops_beyond_32_bits():
    """The kernel's counter may start again from 0."""
    counts = [0xFFFFFFF0, 0x10]

    class Sock:
        def getsockopt(self, *_):
            return struct.pack("=32xI", counts.pop(0))

        def close(self):
            pass

    server = make()
    real, server.socket = server.socket, Sock()
    try:
        assert 0xFFFFFFF0 == server.kernel_drops
        assert 0x100000010 == server.kernel_drops
    finally:
        server.socket = real
        server.server_close()


@pytest.fixture
def fresh_log(monkeypatch):
    """
    Forget what was logged lately.
    """
    rare = RareLog(logging.getLogger("protoserve.server"), interval=60.0)
    monkeypatch.setattr(batch_module, "_rare", rare)


@linux
def test_receive_buffer(fresh_log, caplog):
    """The kernel's queue gets the size asked for."""
    with make(receive_buffer=100_000) as server:
        size = server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert 200_000 <= size
    assert [] == caplog.records


@linux
def test_receive_buffer_is_never_made_smaller(fresh_log):
    """A queue that is longer than asked for stays so."""
    with make(receive_buffer=5000) as server:
        size = server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert 10_000 < size


@linux
def test_capped_receive_buffer(fresh_log, caplog):
    """A kernel that gives less than asked for is told of, once."""
    for _ in range(2):
        make(receive_buffer=1 << 30).server_close()
    (record,) = caplog.records
    assert logging.WARNING == record.levelno
    assert f"not the {1 << 30} asked for" in record.getMessage()


@linux
def test_arrival_times(serve, kit):
    """With `timestamps` each row has the kernel's time of its arrival."""
    times = []

    class Timed(Side):
        def batch(self, block):
            times.extend(
                zip(
                    block.seconds[: block.count].tolist(),
                    block.nanoseconds[: block.count].tolist(),
                    strict=True,
                )
            )

    class Handler(Batches):
        batch_side = Timed

    server = make(handler=Handler, timestamps=True)
    with client_of(server, kit) as client:
        serve(server)
        kit.until(lambda: hasattr(server, "side"))
        before = batch_module.time.time_ns()
        for _ in range(20):
            client.send(b"x")
        kit.until(lambda: len(times) == 20)
        after = batch_module.time.time_ns()
    stamps = [seconds * 10**9 + rest for seconds, rest in times]
    assert sorted(stamps) == stamps
    assert before <= stamps[0]
    assert stamps[-1] <= after
    assert 10 < len(set(stamps))


def test_naps(monkeypatch):
    """Naps are halved while several full receives gather, and no longer than said."""
    naps = []
    clock = types.SimpleNamespace(**{**vars(time), "sleep": naps.append})
    monkeypatch.setattr(batch_module, "time", clock)  # not for other threads
    with make(gather=0.008) as server:
        server._BatchMixIn__longest = server._BatchMixIn__pause = 0.008
        for taken in (100, 600, 600, 200, 20, 20):
            server._BatchMixIn__gathered = taken
            server._BatchMixIn__nap(64)
        assert [0.008, 0.004, 0.002, 0.002, 0.004, 0.008] == naps
        for _ in range(2000):  # halved as often, it would be nothing
            server._BatchMixIn__gathered = 1000
            server._BatchMixIn__nap(64)
        assert naps[-1] == 0.008 / 64


def test_time_of_receive(portable, kit):
    """Without `timestamps` rows have the time at which they were received."""
    with make() as server, client_of(server, kit) as client:
        block = _mmsg.Block(server.socket, 64, 100, portable=portable)
        client.send(b"x")
        before = batch_module.time.time_ns()
        assert 1 == block.receive(server.socket)
        stamp = block.seconds[0] * 10**9 + block.nanoseconds[0]
        assert before <= stamp <= batch_module.time.time_ns()


def test_columns_stay_valid(portable, kit):
    """Columns taken once show every later receive, without a copy."""
    with make() as server, client_of(server, kit) as client:
        block = _mmsg.Block(server.socket, 64, 100, portable=portable)
        lengths, data = block.lengths, memoryview(block.data)
        for text in (b"one", b"three"):
            client.send(text)
            block.receive(server.socket)
            assert len(text) == lengths[0]
            assert text == data[: lengths[0]]


@gro
@pytest.mark.parametrize("handler", [Upper, Batches])
@pytest.mark.parametrize("timestamps", [False, True])
def test_coalesced(handler, timestamps, portable, serve, kit):
    """With `gro`, datagrams that the kernel put together come out one by one."""
    server = make(
        handler=handler, gro=True, timestamps=timestamps, _loop_portable=portable
    )
    # The option makes a difference for what comes after it.
    block = _mmsg.Block(server.socket, 64, 100, gro=True)
    assert block.gro
    with client_of(server, kit) as client:
        segmented(client, b"one.two.four.", 4)
        client.send(b"alone")
        serve(server)
        answers = [client.recv(99) for _ in range(5)]
    assert [b"ONE.", b"TWO.", b"FOUR", b".", b"ALONE"] == answers


@gro
@pytest.mark.parametrize("handler", [Upper, Batches])
def test_coalesced_outside_the_loop(handler, portable, kit):
    """`handle_request` handles all that the kernel has put together, one by one."""
    server = make(handler=handler, gro=True, _loop_portable=portable)
    _mmsg.Block(server.socket, 64, 100, gro=True)
    with server, client_of(server, kit) as client:
        segmented(client, b"one.two.", 4)
        server.handle_request()
        answers = [client.recv(99).upper()[-4:] for _ in range(2)]
    assert [b"ONE.", b"TWO."] == answers


@gro
def test_coalesced_rows(portable, kit):
    """A row of coalesced datagrams says how long each of them is."""
    with make() as server, client_of(server, kit) as client:
        block = _mmsg.Block(server.socket, 64, 100, gro=True, portable=portable)
        segmented(client, b"abcdefg", 3)
        client.send(b"x")
        assert 2 == block.receive(server.socket)
        assert [3, 0] == block.segments[:2].tolist()
        assert [7, 1] == block.lengths[:2].tolist()
        block = _mmsg.Block(server.socket, 64, 100, portable=portable)
        segmented(client, b"abcdefg", 3)
        assert 3 == block.receive(server.socket)


@gro
@pytest.mark.parametrize("timestamps", [False, True])
def test_coalesced_whatever_was_asked_before(timestamps, portable, kit, monkeypatch):
    """What else the socket was to tell does not hide how long datagrams are."""
    with make() as server, client_of(server, kit) as client:
        for option in (35, 40):  # SO_TIMESTAMPNS, SO_RXQ_OVFL
            server.socket.setsockopt(socket.SOL_SOCKET, option, 1)
        block = _mmsg.Block(server.socket, 64, 100, gro=True, timestamps=timestamps)
        if portable:  # it turns out at the first receive
            monkeypatch.setattr(_mmsg, "_recvmmsg", lambda *_: -1)
            monkeypatch.setattr(_mmsg.ctypes, "get_errno", lambda: errno.EPERM)
        segmented(client, b"abcdefg", 3)
        assert 1 == block.receive(server.socket)
        assert 3 == block.total
        assert [] == block.take_cut()
        rows = [block.data[o : o + n] for o, n, _ in block.datagrams()]
        assert [b"abc", b"def", b"g"] == rows


@gro
def test_coalesced_and_truncated(portable, kit):
    """Of coalesced datagrams that are too long, a shorter last one is kept."""
    with make() as server, client_of(server, kit) as client:
        block = _mmsg.Block(server.socket, 64, 4, gro=True, portable=portable)
        segmented(client, b"aaaaabbbbbcc", 5)
        segmented(client, b"dddddeeeee", 5)
        client.send(b"ffffff")
        client.send(b"g")
        assert 4 == block.receive(server.socket)
        cut = [data for _, data in block.take_cut()]
        assert [b"aaaa", b"bbbb", b"dddd", b"eeee", b"ffff"] == cut
        rest = [block.data[o : o + n] for o, n, _ in block.datagrams()]
        assert [b"cc", b"g"] == rest


@linux
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_refused_calls(number, monkeypatch, serve, kit):
    """Where the system refuses the calls, single ones are used from then on."""
    calls = []

    def refuse(name):
        def call(*_):
            calls.append(name)
            _mmsg.ctypes.set_errno(number)
            return -1

        return call

    monkeypatch.setattr(_mmsg, "_recvmmsg", refuse("recvmmsg"))
    if number == errno.ENOSYS:
        monkeypatch.setattr(_mmsg, "_sendmmsg", refuse("sendmmsg"))
    server = make(handler=Batches)
    serve(server)
    with client_of(server, kit) as client:
        for _ in range(3):
            client.send(b"a")
            assert b"A" == client.recv(9)
    assert 1 == calls.count("recvmmsg")
    assert (number == errno.ENOSYS) == calls.count("sendmmsg")


def sender_for(sock, portable):
    return _mmsg.Sender(sock, 64, portable=portable)


def test_one_peer_that_fails(portable, kit):
    """What cannot be sent is given back with the reason; the others are sent."""
    with make() as server, client_of(server, kit) as client:
        book = _mmsg.AddressBook(socket.AF_INET)
        good = book.raw(client.getsockname())
        bad = book.raw(("255.255.255.255", 9))  # not without SO_BROADCAST
        replies = [(good, b"1"), (bad, b"no"), (bad, b"no"), (good, b"2")]
        failed = sender_for(server.socket, portable).send(server.socket, replies)
        assert [b"1", b"2"] == [client.recv(9) for _ in range(2)]
    assert replies[1:3] == [reply for reply, _ in failed]
    assert {errno.EACCES} == {error.errno for _, error in failed}


def test_too_long_a_reply(portable, kit):
    """A reply that no datagram can hold costs itself only, however long it is."""
    with make() as server, client_of(server, kit) as client:
        name = _mmsg.AddressBook(socket.AF_INET).raw(client.getsockname())
        sizes = (1, 70_000, 2, 2, 300_000, 3)
        failed = sender_for(server.socket, portable).send(
            server.socket, [(name, bytes(size)) for size in sizes]
        )
        assert [1, 2, 2, 3] == [len(client.recv(9)) for _ in range(4)]
    assert [70_000, 300_000] == [len(data) for (_, data), _ in failed]
    assert {errno.EMSGSIZE} == {error.errno for _, error in failed}


def test_more_replies_than_fit(portable, kit):
    """More replies than one call takes, in number or in bytes, leave in several."""
    with make() as server, client_of(server, kit) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        name = _mmsg.AddressBook(socket.AF_INET).raw(client.getsockname())
        sender = sender_for(server.socket, portable)
        assert [] == sender.send(server.socket, [(name, b"%d" % n) for n in range(200)])
        assert [b"%d" % n for n in range(200)] == [client.recv(9) for _ in range(200)]
        large = [bytes([n]) * 60_000 for n in range(10)]
        assert [] == sender.send(server.socket, [(name, data) for data in large])
        assert large == [client.recv(65_536) for _ in range(10)]


@pytest.fixture
def messages(monkeypatch):
    """
    How many messages each call has given to the kernel.
    """
    counts = []
    send = _mmsg._sendmmsg

    def counted(descriptor, at, count, flags):
        counts.append(count)
        return send(descriptor, at, count, flags)

    monkeypatch.setattr(_mmsg, "_sendmmsg", counted)
    return counts


@linux
def test_alike_replies_go_together(kit, messages):
    """Replies of one size for one peer are one message, and arrive one by one."""
    with (
        make() as server,
        client_of(server, kit) as client,
        client_of(server, kit) as other,
    ):
        name, second = (
            _mmsg.AddressBook(socket.AF_INET).raw(each.getsockname())
            for each in (client, other)
        )
        replies = [(name, b"%02d" % n) for n in range(30)]
        replies += [(name, b"longer"), (second, b"other "), (second, b"others")]
        replies += [(name, b""), (name, b""), (name, bytes(1300)), (name, bytes(1300))]
        sender = sender_for(server.socket, portable=False)
        assert [] == sender.send(server.socket, replies)
        assert [7] == messages
        expected = [data for peer, data in replies if peer == name]
        assert expected == [client.recv(2000) for _ in expected]
        assert [b"other ", b"others"] == [other.recv(9) for _ in range(2)]


@linux
def test_many_alike_replies(kit, messages):
    """No more go together than the kernel takes."""
    with make() as server, client_of(server, kit) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        name = _mmsg.AddressBook(socket.AF_INET).raw(client.getsockname())
        sender = _mmsg.Sender(server.socket, 256)
        replies = [(name, b"%04d" % n * 300) for n in range(100)]
        replies += [(name, b"%d" % (100 + n)) for n in range(70)]
        assert [] == sender.send(server.socket, replies)
        assert [4] == messages  # 54 + 46, 64 + 6
        assert [data for _, data in replies] == [client.recv(2000) for _ in replies]


@linux
def test_kernel_that_does_not_cut(kit, messages, monkeypatch):
    """Where the kernel refuses to cut, each reply leaves by itself from then on."""
    monkeypatch.setattr(_mmsg, "_UDP_SEGMENT", 9999)
    with make() as server, client_of(server, kit) as client:
        name = _mmsg.AddressBook(socket.AF_INET).raw(client.getsockname())
        sender = sender_for(server.socket, portable=False)
        for _ in range(2):
            assert [] == sender.send(server.socket, [(name, b"a"), (name, b"b")])
            assert [b"a", b"b"] == [client.recv(9) for _ in range(2)]
    assert [1, 2] == messages


@linux
def test_alike_replies_that_fail(kit):
    """A peer that cannot be reached does not keep others from going together."""
    with make() as server, client_of(server, kit) as client:
        book = _mmsg.AddressBook(socket.AF_INET)
        bad, good = book.raw(("255.255.255.255", 9)), book.raw(client.getsockname())
        sender = sender_for(server.socket, portable=False)
        replies = [(bad, b"1"), (bad, b"2"), (good, b"3"), (good, b"4")]
        failed = sender.send(server.socket, replies)
        assert replies[:2] == [reply for reply, _ in failed]
        assert [b"3", b"4"] == [client.recv(9) for _ in range(2)]
        assert sender._segments


def test_unix_peer_that_does_not_read(portable, kit, short_path):
    """A Unix peer whose queue is full, or that has gone, does not hold up the others."""
    server = make(UnixDatagramServer, address=short_path)
    book = _mmsg.AddressBook(socket.AF_UNIX)
    with (
        server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as good,
    ):
        full.bind(short_path + "f")
        good.bind(short_path + "g")
        good.settimeout(kit.patience)
        with contextlib.suppress(BlockingIOError):
            while True:
                server.socket.sendto(b"x", socket.MSG_DONTWAIT, short_path + "f")
        full_name, good_name = (book.raw(c.getsockname()) for c in (full, good))
        gone = book.raw(short_path + "n")
        failed = sender_for(server.socket, portable).send(
            server.socket,
            [(full_name, b"1"), (gone, b"2"), (good_name, b"3"), (gone, b"4")],
        )
        assert b"3" == good.recv(9)
    assert [errno.EAGAIN, errno.ENOENT, errno.ENOENT] == [e.errno for _, e in failed]


def test_failed_replies_are_logged(serve, kit, caplog):
    """What could not be sent is logged, with its size and the peer."""
    server = make(handler=Batches)
    with server:
        server.send_batch([(_mmsg.AddressBook(2).raw(("255.255.255.255", 9)), b"abc")])
    assert "cannot send 3 bytes to ('255.255.255.255', 9)" in caplog.text


@linux
def test_descriptors_that_a_peer_sends_along(serve, kit, short_path):
    """Open descriptors that a Unix peer sends along are not taken."""
    server = make(UnixDatagramServer, Batches, short_path, timestamps=True)
    serve(server)
    with client_of(server, kit, short_path + "c") as client:
        client.send(b"warm up")
        client.recv(99)
        before = kit.descriptors()
        reader, writer = os.pipe()
        socket.send_fds(client, [b"with"], [reader])
        os.close(reader)
        os.close(writer)
        assert b"WITH" == client.recv(99)
        assert before == kit.descriptors()


@pytest.mark.parametrize("size", [0, 63, 1025, True, 64.0, "256", None])
def test_wrong_batch_size(size):
    """A batch size that cannot be is refused when the server is made."""
    with pytest.raises(ValueError, match=r"^Server\.batch_size: .* from 64 to 1,024"):
        make(batch_size=size)


@pytest.mark.parametrize("seconds", [-1, 0.2, float("nan")])
def test_wrong_gather(seconds):
    """A nap that cannot be is refused when the server is made."""
    with pytest.raises(ValueError, match=r"^Server\.gather: expected seconds from 0"):
        make(gather=seconds)


@pytest.mark.parametrize(
    ("bases", "words"),
    [
        ((BatchMixIn, TCPServer), "BatchMixIn receives datagrams"),
        ((BatchMixIn, servers.UnixStreamServer), "BatchMixIn receives datagrams"),
        ((servers.ThreadingMixIn, BatchMixIn, UDPServer), "ThreadingMixIn exclude"),
        ((BatchMixIn, servers.ThreadingMixIn, UDPServer), "ThreadingMixIn exclude"),
        ((BatchMixIn, servers.ForkingMixIn, UDPServer), "ForkingMixIn exclude"),
        ((BatchMixIn, servers.EventLoopMixIn, UDPServer), "EventLoopMixIn exclude"),
        ((BatchMixIn, servers.PoolMixIn, UDPServer), "PoolMixIn exclude"),
        ((UDPServer, BatchMixIn), "goes before the server class"),
    ],
)
def test_wrong_combinations(bases, words):
    """What would not do what it says is refused by name when the class is made."""
    with pytest.raises(TypeError, match=f"^Wrong: .*{words}"):
        type("Wrong", bases, {})


def test_mixin_of_its_own():
    """A mix-in may be made from it, for a server class to come."""

    class Mine(BatchMixIn):
        batch_size = 64

    class Server(Mine, UDPServer):
        pass

    assert 64 == Server.batch_size


def test_subclass_that_calls_only_the_servers_init(serve, kit):
    """A subclass whose constructor calls only the server's works."""

    class Server(BatchMixIn, UDPServer):
        def __init__(self):
            UDPServer.__init__(self, ("127.0.0.1", 0), Upper)

    server = Server()
    serve(server)
    with client_of(server, kit) as client:
        client.send(b"a")
        assert b"A" == client.recv(9)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_in_worker_processes(serve, kit):
    """Worker processes each receive batches of their own."""
    bases = (servers.PreforkMixIn, BatchMixIn, UDPServer)
    server = type("Server", bases, {"workers": 2})(("127.0.0.1", 0), Pid)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with client_of(server, kit) as client:
        client.send(b"a")
        assert os.getpid() != int(client.recv(9))
    server.shutdown()
    thread.join(kit.patience)
    server.server_close()


class Pid(DatagramRequestHandler):
    def handle(self):
        self.wfile.write(b"%d" % os.getpid())
