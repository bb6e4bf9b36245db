"""
TLS under any handler: who is served, who is turned away, and that nobody waits.
"""

import contextlib
import datetime as dt
import logging
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import protoserve.server as ours
from protoserve import DeclarationError
from protoserve.server import (
    BaseRequestHandler,
    EventLoopMixIn,
    ForkingMixIn,
    StreamRequestHandler,
    TCPServer,
    ThreadingMixIn,
    TLSMixIn,
    UDPServer,
    UnixStreamServer,
    server_context,
)
from tests.certificates import PATIENCE, Authority, InMemory, crowd, stall

MODES = {"single": (), "threads": (ThreadingMixIn,), "fork": (ForkingMixIn,)}
if hasattr(ours, "PoolMixIn"):
    MODES["pool"] = (ours.PoolMixIn,)


class Upper(StreamRequestHandler):
    """
    A classic handler that knows nothing of TLS.
    """

    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    made = Authority(tmp_path_factory.mktemp("tls"))
    made.pair = made.issue("localhost", "127.0.0.1")
    return made


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.fixture
def make(authority, serve):
    """
    Start a server of some mode; options are class variables.
    """

    def start(mode, handler=Upper, bases=(), **options):
        options = {
            "ssl_context": server_context(*authority.pair),
            "request_queue_size": 1024,
            "daemon_threads": True,
            **options,
        }
        made = type("Server", (*bases, TLSMixIn, *MODES[mode], TCPServer), options)
        server = made(("127.0.0.1", 0), handler)
        serve(server)
        return server

    return start


@pytest.fixture
def quiet(capfd):
    """
    Nothing is ever printed: what goes wrong is logged.
    """
    yield
    printed = capfd.readouterr()
    assert ("", "") == (printed.out, printed.err)


@contextlib.contextmanager
def closing(sock):
    """
    Close a connection of which forked servers, in our process, hold copies too.
    """
    try:
        yield sock
    finally:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        sock.close()


def converse(client, times=3):
    """
    Send lines, one after the other, and give the answers.
    """
    with client.makefile("rb") as answers:
        found = []
        for number in range(times):
            client.sendall(b"line %d\n" % number)
            found.append(answers.readline())
    return found


LINES = [b"LINE 0\n", b"LINE 1\n", b"LINE 2\n"]


def test_classic_handler(make, authority, mode, quiet):
    """A handler that knows nothing of TLS serves lines over it in every mode."""
    server = make(mode)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        client = authority.connect(server.server_address, version=version)
        with closing(client):
            assert LINES == converse(client)


def test_stalled_handshakes_hold_up_nobody(make, authority, mode, quiet):
    """200 stalled handshakes, which nothing ends, and 20 clients served meanwhile."""
    server = make(mode, handshake_timeout=None, max_children=10)
    context = authority.client()

    def client(_):
        with closing(authority.connect(server.server_address, context=context)) as sock:
            return converse(sock)

    stalled = stall(server.server_address, 200)
    try:
        with ThreadPoolExecutor(20) as clients:
            answers = list(clients.map(client, range(20)))
    finally:
        for sock in stalled:
            with closing(sock):
                pass
    assert [LINES] * 20 == answers


def test_stalled_handshakes_end(make, kit, mode, caplog):
    """A handshake that takes too long is ended, counted, and told in one line."""
    server = make(mode, handshake_timeout=0.1)
    stalled = stall(server.server_address, 20)
    for sock in stalled:
        with closing(sock), contextlib.suppress(ConnectionResetError):
            assert b"" == sock.recv(100)
    kit.until(lambda: server.failed_handshakes == {"timeout": 20})
    told = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert 1 <= len(told) < 5
    assert "the handshake exceeded 0.1 s" in told[0].getMessage()


def test_oldest_handshake_makes_room(make, authority, kit, mode):
    """With too many handshakes under way the oldest is ended, and clients are served."""
    server = make(mode, handshake_timeout=None, max_handshakes=5)
    with crowd(server.server_address, 5):
        with closing(authority.connect(server.server_address)) as client:
            assert LINES == converse(client)
        kit.until(lambda: server.failed_handshakes["crowded"] == 7)


def test_hello_byte_by_byte(make, authority, mode, quiet):
    """A handshake that arrives in single bytes succeeds."""
    server = make(mode)
    with InMemory(authority.client(), server.server_address) as client:
        client.run(client.tls.do_handshake, client.byte_by_byte)
        client.run(lambda: client.tls.write(b"line\n"))
        assert b"LINE\n" == client.run(lambda: client.tls.read(100))


def test_waiting_costs_nothing(make, kit, mode):
    """While half a ClientHello is there, the server does not spin."""
    server = make(mode, handshake_timeout=None)
    silent, sock = stall(server.server_address, 2)
    with closing(silent), closing(sock):
        turns = []
        server.service_actions = lambda: turns.append(1)
        used = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - used < 0.2
        assert len(turns) < 20
        # Its end is noticed all the same.
        sock.shutdown(socket.SHUT_WR)
        del server.service_actions
        kit.until(lambda: server.failed_handshakes == {"closed": 1})


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "look like an HTTP request, not TLS"),
        (b"SSH-2.0-x\r\n", "look like an SSH banner, not TLS"),
        (b"\x00\x1c\x12\x34", "its first bytes are no TLS: 00 1c 12 34"),
        (b"\x16\x03\x01\x00\x00", "its first bytes are no TLS: 16 03 01 00 00"),
        (b"\x16\x03\x01\xff\xff", "its first bytes are no TLS: 16 03 01 ff ff"),
        (b"\x16\x09\x01\x00\x05", "its first bytes are no TLS: 16 09 01 00 05"),
    ],
)
def test_plain_text(make, kit, mode, caplog, quiet, sent, words):
    """Who does not speak TLS is closed at once, and the log says what it spoke."""
    server = make(mode, handshake_timeout=None)
    with closing(socket.create_connection(server.server_address, PATIENCE)) as sock:
        sock.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            assert b"" == sock.recv(100)
    kit.until(lambda: server.failed_handshakes == {"plain": 1})
    kit.until(lambda: words in caplog.text)


def test_old_version(make, authority, kit, mode, caplog, quiet):
    """A client of TLS 1.1 is told by an alert, and the log says why."""
    server = make(mode)
    with pytest.raises(ssl.SSLError, match="(?i)protocol.version"):
        authority.connect(server.server_address, version=ssl.TLSVersion.TLSv1_1)
    kit.until(lambda: server.failed_handshakes == {"refused": 1})
    kit.until(lambda: "it speaks no version of TLS that is allowed here" in caplog.text)


def test_untrusted_server(make, kit, mode, caplog, quiet):
    """A client that does not trust the certificate ends the handshake."""
    server = make(mode)
    context = ssl.create_default_context()
    with (
        socket.create_connection(server.server_address, PATIENCE) as sock,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(sock, server_hostname="localhost")
    kit.until(lambda: server.failed_handshakes == {"refused": 1})
    kit.until(lambda: "it does not trust our certificate" in caplog.text)


def test_gone_in_the_handshake(make, authority, kit, mode, caplog, quiet):
    """A client that goes away in the middle, by a reset or not, is no trouble."""
    server = make(mode)
    hellos = [InMemory(authority.client(), server.server_address) for _ in range(2)]
    for client in hellos:
        client.sock.sendall(client.hello())
        assert client.sock.recv(1)
    kit.reset(hellos[0].sock)
    hellos[1].sock.close()
    kit.until(lambda: server.failed_handshakes == {"closed": 2})
    assert [] == [r for r in caplog.records if r.levelno > logging.DEBUG]


class Whoami(BaseRequestHandler):
    """
    Tells the client what the handler knows of it.
    """

    def handle(self):
        shown = self.request.getpeercert()
        names = [value for _, value in (shown or {}).get("subjectAltName", ())]
        alpn = self.request.selected_alpn_protocol()
        self.request.sendall(repr((names, alpn, self.request.server_name)).encode())


def test_mutual(make, authority, kit, mode, quiet):
    """The handler has the client's certificate; a client without one is refused."""
    context = server_context(
        *authority.pair, client_ca=authority.ca_file, alpn=["new", "old"]
    )
    server = make(mode, Whoami, ssl_context=context)
    pair = authority.issue("station-7.example")
    options = {"pair": pair, "alpn": ["old", "other"]}
    with closing(authority.connect(server.server_address, **options)) as client:
        expected = (["station-7.example"], "old", "localhost")
        assert repr(expected).encode() == client.recv(1000)
    # With TLS 1.3 it learns only afterwards that it was refused.
    with closing(authority.connect(server.server_address)) as client:
        client.sendall(b"a line that the server never reads\n" * 100)
        with pytest.raises(ssl.SSLError, match="(?i)certificate.required"):
            client.recv(1000)
    kit.until(lambda: server.failed_handshakes == {"refused": 1})


def test_stranger(make, authority, kit, mode, caplog, tmp_path):
    """A client whose certificate somebody else signed is refused."""
    context = server_context(*authority.pair, client_ca=authority.ca_file)
    server = make(mode, Whoami, ssl_context=context)
    pair = Authority(tmp_path).issue("station-7.example")
    with (
        closing(authority.connect(server.server_address, pair=pair)) as client,
        pytest.raises(ssl.SSLError, match="(?i)unknown.ca|decrypt"),
    ):
        client.recv(1000)
    kit.until(lambda: server.failed_handshakes == {"refused": 1})
    kit.until(lambda: "its certificate is not accepted" in caplog.text)


def test_server_name(make, authority, mode, quiet):
    """The certificate is the one for the name that the client asks for."""
    others = [authority.issue("a.example", "*.b.example"), authority.issue("c.example")]
    server = make(mode, Whoami, ssl_context=server_context(*authority.pair, sni=others))
    context = authority.client()
    for name, shown in (
        ("a.example", "a.example"),
        ("A.example", "a.example"),
        ("x.b.example", "a.example"),
        ("c.example", "c.example"),
        ("localhost", "localhost"),
        ("127.0.0.1", "localhost"),
    ):
        client = authority.connect(server.server_address, name=name, context=context)
        with closing(client):
            assert shown == client.getpeercert()["subjectAltName"][0][1]
    context.check_hostname = False
    for name in ("d.example", "y.x.b.example", None):
        client = authority.connect(server.server_address, name=name, context=context)
        with closing(client):
            assert "localhost" == client.getpeercert()["subjectAltName"][0][1]


def test_server_name_of_no_letters(make, authority, mode, quiet):
    """A name that is not ASCII is no name, and nothing is printed about it."""
    server = make(mode)
    with InMemory(authority.client(), server.server_address, "xxxxxxxx.example") as bad:
        hello = bad.hello().replace(b"xxxxxxxx", b"\xff" * 8)
        bad.sock.sendall(hello)
        assert b"\x16" == bad.sock.recv(1)


@pytest.mark.parametrize("at", [9, 43, 76, 80, 110, 115])
def test_broken_hello(make, authority, kit, mode, quiet, at):
    """A ClientHello with wrong lengths in it ends only its own connection."""
    server = make(mode)
    with InMemory(authority.client(), server.server_address) as bad:
        hello = bytearray(bad.hello())
        hello[at : at + 4] = b"\xff\xff\xff\xff"
        bad.sock.sendall(hello)
        bad.sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while bad.sock.recv(1000):
                pass
    with closing(authority.connect(server.server_address)) as client:
        assert LINES == converse(client)


def test_end_is_announced(make, authority, mode, quiet):
    """When the handler is done the client gets TLS's own end of the stream."""

    class Short(StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline())

    server = make(mode, Short)
    with closing(authority.connect(server.server_address)) as client:
        client.sendall(b"one\n")
        assert b"one\n" == client.recv(100)
        assert b"" == client.recv(100)  # not announced, it would raise


def test_ends_of_the_client(make, authority, mode, quiet):
    """A handler reads up to the end, whether that was announced or cut off."""

    class Rest(StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"<%s>" % self.rfile.read())

    server = make(mode, Rest)
    for announce in (True, False):
        with InMemory(authority.client(), server.server_address) as client:
            client.run(client.tls.do_handshake)
            client.run(lambda client=client: client.tls.write(b"half a l"))
            if announce:
                client.end()
            client.sock.shutdown(socket.SHUT_WR)
            answer = client.run(lambda client=client: client.tls.read(100))
            assert b"<half a l>" == answer


def test_no_tls_after_the_handshake(make, authority, kit, mode, quiet):
    """Bytes that are no TLS are a lost connection, not an error of the handler."""
    server = make(mode)
    with InMemory(authority.client(), server.server_address) as client:
        client.run(client.tls.do_handshake)
        client.sock.sendall(b"these bytes are not encrypted at all\n")
        with contextlib.suppress(ConnectionResetError):
            while client.sock.recv(1000):
                pass


def test_much_at_once(make, authority, mode, quiet):
    """Megabytes arrive whole, however slowly the client reads."""
    size = 3_000_000

    class Much(StreamRequestHandler):
        def handle(self):
            self.wfile.write(bytes(range(256)) * (size // 256))

    server = make(mode, Much)
    with closing(authority.connect(server.server_address)) as client:
        received = bytearray()
        while piece := client.recv(10_000):
            received += piece
    assert bytes(range(256)) * (size // 256) == received


def test_shutdown_of_reading_stays_encrypted(make, authority, quiet):
    """What is sent after the socket's reading side was shut down is encrypted too."""

    class Deaf(BaseRequestHandler):
        def handle(self):
            self.request.shutdown(socket.SHUT_RD)
            self.request.sendall(b"secret")

    server = make("threads", Deaf)
    with closing(authority.connect(server.server_address)) as client:
        assert b"secret" == client.recv(100)


def test_socket_without_blocking(make, authority, quiet):
    """Without blocking, the request behaves as any socket: it raises BlockingIOError."""
    raised = []

    class Impatient(BaseRequestHandler):
        def handle(self):
            self.request.setblocking(False)
            with pytest.raises(BlockingIOError) as first:
                self.request.recv(100)
            with pytest.raises(BlockingIOError) as second:
                while True:
                    self.request.send(bytes(100_000))
            raised.extend([first.value, second.value])

    server = make("threads", Impatient)
    with closing(authority.connect(server.server_address)) as client:
        client.recv(1)
        # It sends until the client's buffer is full, then ends.
        with contextlib.suppress(OSError):
            while client.recv(65_536):
                pass
    assert [ssl.SSLWantReadError, ssl.SSLWantWriteError] == [
        base for error in raised for base in type(error).__bases__ if "SSL" in str(base)
    ]


def test_own_loop(authority, mode):
    """`handle_request`, called by hand, does the handshake and handles one request."""
    options = {"ssl_context": server_context(*authority.pair), "handshake_timeout": 0.2}
    made = type("Server", (TLSMixIn, *MODES[mode], TCPServer), options)
    with made(("127.0.0.1", 0), Upper) as server, ThreadPoolExecutor(1) as clients:

        def client():
            with closing(authority.connect(server.server_address)) as sock:
                return converse(sock)

        (stalled,) = stall(server.server_address, 1)
        with closing(stalled):
            server.handle_request()
            if mode != "threads":
                assert {"timeout": 1} == server.failed_handshakes
            asked = clients.submit(client)
            server.handle_request()
            assert LINES == asked.result(PATIENCE)


def test_stop(make, authority, kit, mode):
    """Handshakes that are under way end with the server, and leave nothing behind."""
    before = kit.descriptors()
    server = make(mode, handshake_timeout=None)
    stalled = stall(server.server_address, 10)
    with closing(authority.connect(server.server_address)) as client:
        assert LINES == converse(client)
    server.shutdown()
    server.server_close()
    for sock in stalled:
        with closing(sock), contextlib.suppress(ConnectionResetError):
            assert b"" == sock.recv(100)
    kit.until(lambda: kit.descriptors() <= before)
    assert 10 == server.failed_handshakes["stopped"]


def test_forked_child_holds_no_one_elses_connection(make, authority, kit):
    """A child closes its copies of the connections that wait for their handshake."""

    class Count(BaseRequestHandler):
        def handle(self):
            sockets = [t for _, t in kit.descriptors() if "socket" in str(t)]
            self.request.sendall(b"%d" % len(sockets))

    server = make("fork", Count, handshake_timeout=None)
    counts = []
    for count in (0, 10):
        stalled = stall(server.server_address, count)
        kit.until(lambda: len(server._TLSMixIn__under_way) == count)  # noqa: B023
        with closing(authority.connect(server.server_address)) as client:
            counts.append(int(client.recv(10)))
        for sock in stalled:
            sock.close()
    # The clients' ends are in our process too, and so in the child.
    assert counts[0] + 10 == counts[1]


def test_full_house(make, authority, kit):
    """With `max_children` at work the others wait, and the server can be stopped."""
    server = make("fork", max_children=1, handshake_timeout=0.2)
    waiting = InMemory(authority.client(), server.server_address)
    kit.until(lambda: len(server._TLSMixIn__under_way) == 1)
    first = authority.connect(server.server_address)
    with closing(first):
        assert LINES == converse(first)
        waiting.sock.sendall(waiting.hello())
        time.sleep(0.5)  # longer than the handshake may take
        assert {} == server.failed_handshakes
    with waiting:
        waiting.incoming.write(waiting.sock.recv(65_536))
        waiting.run(waiting.tls.do_handshake)
        waiting.run(lambda: waiting.tls.write(b"line\n"))
        assert b"LINE\n" == waiting.run(lambda: waiting.tls.read(100))
        server.shutdown()


def test_time_away_does_not_count(make, authority, kit):
    """A server that was busy with one client does not blame those who wait."""
    go_on = threading.Event()

    class Slow(Upper):
        def handle(self):
            if self.rfile.readline() == b"slow\n":
                go_on.wait(PATIENCE)
            super().handle()

    server = make("single", Slow, handshake_timeout=0.2)
    with InMemory(authority.client(), server.server_address) as other:
        kit.until(lambda: len(server._TLSMixIn__under_way) == 1)
        slow = authority.connect(server.server_address)
        slow.sendall(b"slow\n")
        other.sock.sendall(other.hello())
        time.sleep(0.5)  # longer than the handshake may take
        go_on.set()
        with closing(slow):
            pass
        other.run(other.tls.do_handshake)
        other.run(lambda: other.tls.write(b"first\nline\n"))
        assert b"LINE\n" == other.run(lambda: other.tls.read(100))
    assert {} == server.failed_handshakes


def test_hooks(make, authority, kit, mode):
    """Failures go to a hook that may be overridden, and one that raises is no end."""
    told = []

    class Hooked:
        def handle_handshake_error(self, request, client_address, error):
            told.append((error.kind, client_address))
            raise RuntimeError("in the hook")

        def handle_error(self, request, client_address):
            told.append(("error", client_address))

    server = make(mode, bases=(Hooked,))
    with closing(socket.create_connection(server.server_address, PATIENCE)) as sock:
        sock.sendall(b"hello\n")
        address = sock.getsockname()
        kit.until(lambda: told == [("plain", address), ("error", address)])
    with closing(authority.connect(server.server_address)) as client:
        assert LINES == converse(client)


# What is refused -----------------------------------------------------------


def test_wrong_combinations():
    """What cannot work is refused by name when the class is defined."""
    for base, words in (
        (UDPServer, "TLSMixIn is for TCPServer; UDPServer receives datagrams"),
        (UnixStreamServer, "UnixStreamServer serves this machine only"),
    ):
        with pytest.raises(TypeError, match=words):
            type("S", (TLSMixIn, base), {})
    for mixin in (ThreadingMixIn, ForkingMixIn, EventLoopMixIn):
        with pytest.raises(
            TypeError, match=f"S: TLSMixIn goes before {mixin.__name__}, .*class S"
        ):
            type("S", (mixin, TLSMixIn, TCPServer), {})


def test_contexts(authority):
    """A server without a context, or with a wrong one, is refused before it is bound."""
    made = type("S", (TLSMixIn, TCPServer), {})
    with pytest.raises(TypeError, match="S has no certificate; set .*ssl_context"):
        made(("127.0.0.1", 0), Upper)
    made.ssl_context = "cert.pem"
    with pytest.raises(TypeError, match="takes an ssl.SSLContext.*not 'cert.pem'"):
        made(("127.0.0.1", 0), Upper)
    made.ssl_context = authority.client()
    with pytest.raises(TypeError, match="ssl_context is for clients"):
        made(("127.0.0.1", 0), Upper)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_own_context(make, authority, mode):
    """A context of the user's own serves, from TLS 1.2 on whatever it says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.pair)
    context.minimum_version = ssl.TLSVersion.TLSv1
    server = make(mode, ssl_context=context)
    with closing(authority.connect(server.server_address)) as client:
        assert LINES == converse(client)
    with pytest.raises(ssl.SSLError):
        authority.connect(server.server_address, version=ssl.TLSVersion.TLSv1_1)
    assert ssl.OP_NO_RENEGOTIATION & context.options


def test_bad_files(authority, tmp_path):
    """Each mistake with files is told in one line that names the file."""
    cert, key = authority.pair
    _, other_key = authority.issue("other.example")
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    expired = authority.issue("expired.example", not_after=past)
    broken = authority.write(
        "broken.pem", b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"
    )
    empty = authority.write("empty.pem", b"\n")
    locked = authority.write(
        "locked.key",
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    for arguments, options, words in (
        ((tmp_path / "none.pem", key), {}, "none.pem: it cannot be read: No such file"),
        ((tmp_path, key), {}, "it cannot be read: Is a directory"),
        ((cert, tmp_path / "none.key"), {}, "none.key: it cannot be read: No such"),
        ((empty, key), {}, "empty.pem: there is no certificate in PEM form in it"),
        ((key, cert), {}, "localhost.key: there is no certificate in PEM form"),
        ((cert, empty), {}, "empty.pem: there is no private key in PEM form in it"),
        ((cert,), {}, "localhost.pem: there is no private key in PEM form in it"),
        (
            (cert, other_key),
            {},
            "other.example.key: the private key does not belong to",
        ),
        ((broken, key), {}, "broken.pem and .*: no certificate and key to serve with"),
        ((cert, locked), {}, "locked.key"),
        (expired, {}, "expired.example.pem: no client would take it: .*expired"),
        ((cert, key), {"client_ca": tmp_path / "no"}, "no: it cannot be read"),
        ((cert, key), {"client_ca": empty}, "empty.pem: there is no certificate in"),
        ((cert, key), {"client_ca": broken}, "broken.pem: no certificates"),
        ((cert, key), {"alpn": "dot"}, "alpn takes a sequence of names"),
        ((cert, key), {"alpn": [""]}, "alpn takes a sequence of names"),
        ((cert, key), {"sni": [(cert, other_key)]}, "does not belong to"),
    ):
        with pytest.raises(DeclarationError, match=words) as caught:
            server_context(*arguments, **options)
        assert "\n" not in str(caught.value)


def test_one_file_for_both(authority):
    """Certificate and key may be in one file."""
    cert, key = authority.pair
    both = authority.write("both.pem", key.read_bytes() + cert.read_bytes())
    assert ["localhost"] == [*server_context(both).by_name]
