"""
Our clients ask chronyd, and the example server, for the time.
"""

import asyncio
import getpass
import socket
import subprocess
import time

import pytest

from protocols import ntp
from protoserve import PeerTimeoutError
from protoserve.client import AsyncClient, Client

pytestmark = pytest.mark.interop

PATIENCE = 60.0


@pytest.fixture(scope="module")
def chronyd(require_program, tmp_path_factory):
    """
    A chronyd that serves its clock; its URL.
    """
    folder = tmp_path_factory.mktemp("chrony")
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = [
        *(f"port {port}", "local stratum 5", "allow 127.0.0.1"),
        *("bindaddress 127.0.0.1", "cmdport 0", f"pidfile {folder}/pid"),
        f"user {getpass.getuser()}",
    ]
    program = require_program("chronyd")
    with subprocess.Popen(
        [program, "-U", "-d", "-x", "-f", "/dev/null", *lines],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        url = f"udp://127.0.0.1:{port}"
        try:
            answers(process, url)
            yield url
        finally:
            process.terminate()


def answers(process, url):
    """
    Wait until the server answers.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None
        with Client(ntp.ntp, url, timeout=0.2) as client:
            try:
                client.call(request())
                return
            except (PeerTimeoutError, ConnectionRefusedError):
                time.sleep(0.02)
    raise AssertionError("chronyd does not answer")


def request():
    return ntp.ClientRequest(transmit_timestamp=ntp.from_unix_ns(time.time_ns()))


@pytest.fixture(params=["chronyd", "example"])
def url(request):
    if request.param == "chronyd":
        yield request.getfixturevalue("chronyd")
        return
    served = request.getfixturevalue("served")
    with served("examples.ntp_server:app", "udp://127.0.0.1:0") as (url,):
        yield url


def test_time(url):
    """The time that comes is near our own, and answers our question."""
    with Client(ntp.ntp, url) as client:
        for _ in range(5):
            asked = request()
            answer = client.call(asked)
            arrived = ntp.from_unix_ns(time.time_ns())
            assert asked.transmit_timestamp == answer.origin_timestamp
            offset, delay = ntp.offset_and_delay(
                asked.transmit_timestamp,
                answer.receive_timestamp,
                answer.transmit_timestamp,
                arrived,
            )
            assert abs(offset) < 0.5
            assert -0.1 < delay < 5


def test_awaited(url):
    """The same, awaited, by tasks that share the client."""

    async def main():
        async with AsyncClient(ntp.ntp, url) as client:
            asked = [ntp.ClientRequest(transmit_timestamp=n) for n in range(1, 9)]
            answers = await asyncio.gather(*map(client.call, asked))
            assert list(range(1, 9)) == [a.origin_timestamp for a in answers]

    asyncio.run(main())
