"""
Our clients ask dnsmasq, and the example server, over UDP and TCP.
"""

import asyncio
import getpass
import socket
import subprocess
import time

import pytest

from protocols.dns import AAAA, MX, TXT, A, Header, Query, Question, Rcode, RRType, dns
from protoserve import PeerTimeoutError
from protoserve.client import AsyncClient, Client

pytestmark = pytest.mark.interop

PATIENCE = 60.0
COUNT = 80
"""Names that are asked for; dnsmasq ends a connection after 100 questions."""
ASKED = Header(recursion_desired=True)


def free_port():
    """
    Find a port that is free for both transports.
    """
    while True:
        with (
            socket.socket(type=socket.SOCK_DGRAM) as udp,
            socket.socket(type=socket.SOCK_STREAM) as tcp,
        ):
            tcp.bind(("127.0.0.1", 0))
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                continue
            return tcp.getsockname()[1]


def query(name, kind=RRType.A):
    return Query([Question(name, kind)])


@pytest.fixture(scope="module")
def dnsmasq(require_program):
    """
    A dnsmasq that knows a few names; its port.
    """
    port = free_port()
    command = [
        require_program("dnsmasq"),
        *("-k", "-C", "/dev/null", "-p", str(port), "--listen-address=127.0.0.1"),
        *("--bind-interfaces", "--no-resolv", "--no-hosts", "--pid-file="),
        f"--user={getpass.getuser()}",
        *("--local=/test/", "--address=/www.peer.test/192.0.2.7"),
        "--address=/www.peer.test/2001:db8::7",
        "--txt-record=peer.test,first,second",
        "--mx-host=peer.test,mail.peer.test,10",
        *(f"--address=/h{n}.peer.test/198.51.100.{n}" for n in range(COUNT)),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            answers(process, port)
            yield port
        finally:
            process.terminate()


def answers(process, port):
    """
    Wait until the server answers.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        with Client(dns, f"udp://127.0.0.1:{port}", timeout=0.2) as client:
            try:
                client.call(query("www.peer.test"))
                return
            except (PeerTimeoutError, ConnectionRefusedError):
                time.sleep(0.02)
    raise AssertionError("dnsmasq does not answer")


@pytest.fixture(params=["udp", "tcp"])
def url(request, dnsmasq):
    return f"{request.param}://127.0.0.1:{dnsmasq}"


def test_records(url):
    """Records of several types arrive as their classes, under the query's header."""
    with Client(dns, url) as client:
        answer = client.ask(query("www.peer.test"), header=ASKED)
        assert Rcode.NOERROR == answer.header.rcode
        assert answer.header.recursion_desired
        (record,) = answer.message.answers
        assert ("www.peer.test", A("192.0.2.7")) == (record.name, record.rdata)
        (record,) = client.call(query("www.peer.test", RRType.AAAA)).answers
        assert AAAA("2001:db8::7") == record.rdata
        (record,) = client.call(query("peer.test", RRType.MX)).answers
        assert MX(10, "mail.peer.test") == record.rdata
        (record,) = client.call(query("peer.test", RRType.TXT)).answers
        assert TXT([b"first", b"second"]) == record.rdata


def test_unknown_name(url):
    """A name that does not exist is told by the header; it is an answer like others."""
    with Client(dns, url) as client:
        answer = client.ask(query("nothing.test"))
        assert Rcode.NXDOMAIN == answer.header.rcode
        assert [] == answer.message.answers


def test_many(url):
    """Many questions at the same time get their own answers."""
    with Client(dns, url) as client:
        many = client.call_many([query(f"h{n}.peer.test") for n in range(COUNT)])
        found = [response.answers[0].rdata for response in many]
    assert [A(f"198.51.100.{n}") for n in range(COUNT)] == found


def test_tasks(url):
    """Tasks that share a client get their own answers."""

    async def main():
        async with AsyncClient(dns, url) as client:
            asked = [client.call(query(f"h{n}.peer.test")) for n in range(50)]
            found = [r.answers[0].rdata for r in await asyncio.gather(*asked)]
            assert [A(f"198.51.100.{n}") for n in range(50)] == found

    asyncio.run(main())


def test_zone_transfer(served):
    """A zone transfer of the example server is read until its end."""
    with (
        served("examples.dns_server:app", "tcp://127.0.0.1:0") as (url,),
        Client(dns, url) as client,
    ):
        records = []
        for response in client.stream(query("example.test", RRType.AXFR)):
            records += response.answers
            if len(records) > 1 and RRType.SOA == records[-1].type:
                break
        assert RRType.SOA == records[0].type
        assert {"example.test", "www.example.test"} <= {r.name for r in records}
        (answer,) = client.call(query("example.test")).answers
        assert A("192.0.2.1") == answer.rdata
