"""
``protoserve listen``: what arrives is shown.
"""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys

import pytest

from protocols.dns import Query, Question, dns
from protocols.modbus import ReadCoils, modbus
from protoserve import Direction, Service, Session, connected, route
from protoserve.urls import Address
from tests.cli.commanding import serving
from tests.cli.kit import ROOT
from tests.service.kit import PATIENCE, Ping, Pong, Text, spoken


@contextlib.contextmanager
def listening(*arguments):
    """Start it; give the process, and once it is bound its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "protoserve", "listen", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        first = process.stderr.readline()
        assert first.startswith("listening on "), first
        yield process, Address.parse(first.split()[-1])
    finally:
        process.kill()
        process.communicate()


def send_datagrams(address, *datagrams):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for data in datagrams:
            sock.sendto(data, (address.host, address.port))


QUERY = dns.build(Query(questions=[Question("example.test")]), Direction.REQUEST)
JUNK = b"GET / HTTP/1.1\r\n\r\n"


def test_datagrams_annotated():
    """Each field of what arrives is shown with its bytes; --count ends it."""
    with listening("protocols.dns:dns", "udp://127.0.0.1:0", "--count", "1") as (
        process,
        address,
    ):
        send_datagrams(address, QUERY)
        out, err = process.communicate(timeout=PATIENCE)
    assert (0, "") == (process.returncode, err)
    assert re.search(r"Query  from udp://127\.0\.0\.1:\d+, 30 bytes", out)
    assert re.search(r"000c  07 65 78 61 6d 70 6c 65  questions\[0\]\.name +'exam", out)


def test_malformed_datagrams_are_shown():
    """What is no message is shown with its fault, what comes next too; exit code 1."""
    with listening(
        "protocols.dns:dns", "udp://127.0.0.1:0", "--count", "2", "--json"
    ) as (process, address):
        send_datagrams(address, JUNK, QUERY)
        out, _ = process.communicate(timeout=PATIENCE)
    assert 1 == process.returncode
    bad, good = map(json.loads, out.splitlines())
    assert [1, 2] == [bad["n"], good["n"]]
    assert None is bad["message"] is bad["fields"]
    assert "Query.questions" == bad["error"]["path"]
    assert JUNK.hex() == bad["raw"]
    assert None is good["error"]
    assert ("request", "Query") == (good["direction"], good["message"])
    assert f"{address.host}:{address.port}" == good["dst"]


def test_what_is_no_frame_has_the_same_keys_as_in_decode():
    """A datagram that cannot be cut has the protocol as path, and what was expected."""
    with listening(
        "protocols.modbus:modbus", "udp://127.0.0.1:0", "--count", "1", "--json"
    ) as (process, address):
        send_datagrams(address, bytes(5) + b"\xff")
        out, _ = process.communicate(timeout=PATIENCE)
    error = json.loads(out)["error"]
    assert ("modbus", 4, "255") == (error["path"], error["offset"], error["found"])
    assert "a frame length of " in error["expected"]


def test_streams():
    """Streams are cut into frames, each peer's by itself, however the bytes come."""
    frame = modbus.build(ReadCoils(1, 2), Direction.REQUEST)
    with listening(
        "protocols.modbus:modbus", "tcp://127.0.0.1:0", "--count", "3", "--json"
    ) as (process, address):
        place = (address.host, address.port)
        with (
            socket.create_connection(place) as one,
            socket.create_connection(place) as two,
        ):
            one.sendall(frame[:5])
            two.sendall(frame)
            one.sendall(frame[5:] + JUNK)
            out, _ = process.communicate(timeout=PATIENCE)
    assert 1 == process.returncode
    entries = [json.loads(line) for line in out.splitlines()]
    assert 3 == len(entries)
    assert 2 == [e["message"] for e in entries].count("ReadCoils")
    assert 1 == sum(e["error"] is not None for e in entries)


def test_responses():
    """--direction response looks messages up among those of servers."""
    data = spoken.build(Pong(7), Direction.RESPONSE)
    with listening(
        "tests.cli.station:datagrams", "udp://127.0.0.1:0",
        "--count", "1", "--json", "--direction", "response",
    ) as (process, address):  # fmt: skip
        send_datagrams(address, data)
        out, _ = process.communicate(timeout=PATIENCE)
    assert 0 == process.returncode
    assert {"value": 7} == json.loads(out)["fields"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it(number):
    """SIGTERM and Ctrl-C are how it ends: exit code 0."""
    with listening("protocols.dns:dns", "udp://127.0.0.1:0") as (process, _):
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert (0, "", "") == (process.returncode, out, err)


class Pushing:
    @connected
    def greet(self, session: Session):
        session.send(Text(b"hello"))
        session.send(Text(b"again"))

    @route
    def ping(self, message: Ping) -> Pong:
        return Pong(1)


def test_connect(command):
    """--connect shows what a server sends by itself."""
    with serving(Service(spoken, Pushing())) as url:
        code, out, _ = command(
            *("listen", "tests.service.kit:spoken", url, "--connect", "--json"),
            *("--count", "2"),
        )
    assert 0 == code
    entries = [json.loads(line) for line in out.splitlines()]
    assert ["68656c6c6f", "616761696e"] == [e["fields"]["text"] for e in entries]
    assert {"message"} == {e["direction"] for e in entries}


def test_connect_until_the_server_closes(command):
    """When the server closes, that is the end."""

    class Leaving:
        @connected
        def leave(self, session: Session):
            session.send(Text(b"bye"))
            session.close()

        @route
        def ping(self, message: Ping) -> Pong:
            return Pong(1)

    with serving(Service(spoken, Leaving())) as url:
        code, out, err = command("listen", "tests.service.kit:spoken", url, "--connect")
    assert (0, "") == (code, err)
    assert "Text  from tcp://" in out


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["udp://127.0.0.1:99999"], 2, "expected HOST:PORT"),
        (["tls://127.0.0.1:0"], 2, "listen has no certificate to show"),
        (["udp://127.0.0.1:0", "--direction", "reqest"], 2, "did you mean request?"),
        (["udp://127.0.0.1:0", "--count", "0"], 2, "equal to 1"),
        (["udp://127.0.0.1:0", "--insecure"], 2, "are for --connect"),
        (["udp://192.0.2.1:5"], 2, "cannot listen on udp://192.0.2.1:5: Cannot assign"),
        (["tcp://127.0.0.1:1", "--connect"], 1, "refused: nobody listens"),
        (["tcp://127.0.0.1:1", "--connect", "--direction", "request"], 2, "responses"),
    ],
)
def test_what_is_typed_wrong(command, words, code, text):
    """What cannot start is one line and exit code 2."""
    ended, out, err = command("listen", "protocols.dns:dns", *words)
    assert (code, "") == (ended, out)
    assert text in err
    assert 1 == err.count("\n")


def test_unix_sockets(tmp_path):
    """A Unix socket's path is removed in the end."""
    path = tmp_path / "x.sock"
    with listening("protocols.dns:dns", f"unixgram://{path}", "--count", "1") as (
        process,
        _,
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(QUERY, str(path))
        out, err = process.communicate(timeout=PATIENCE)
    assert (0, "") == (process.returncode, err)
    assert "Query  from unixgram://(unnamed)" in out
    assert not path.exists()
