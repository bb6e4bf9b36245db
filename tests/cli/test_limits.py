"""
``protoserve run --limit``, in every mode.
"""

import pytest

from protoserve.serve import MODES
from tests.cli.kit import in_mode
from tests.cli.test_run import failed
from tests.service.kit import Ping, Pong, until

FIXED = """
from construct import Int8ub
from protoserve import Message, Protocol, Service, route, wire
from protoserve.framing import FixedSize

class Byte(Message):
    value: int = wire(Int8ub)

class Handler:
    @route
    def byte(self, message: Byte) -> None: ...

app = Service(Protocol("fixed", framing=FixedSize(12), messages=Byte), Handler())
"""


@pytest.mark.parametrize("mode", MODES)
def test_limits(run, mode):
    """What exceeds a limit is ended, and one line tells which; the next is served."""
    options = ("--limit", "frame_size=20", "--limit", "first_frame=0.2")
    process = run(options=in_mode(mode, *options))
    with process.client() as client:
        client.sock.sendall((21).to_bytes(2, "big"))
        assert b"" == client.rest()
    with process.client() as client:
        assert b"" == client.rest()
    with process.client() as client:
        assert Pong(200) == client.call(Ping(200))
    told = ("frame length 21 read", "is outside 0..20", "limit first_frame: exceeded")
    until(lambda: all(words in "\n".join(process.lines) for words in told))
    assert 0 == process.stop()[0]
    assert "Traceback" not in "\n".join(process.lines)


@pytest.mark.parametrize("mode", ["fork", "prefork", "batch"])
def test_none(run, mode):
    """All limits can be switched off."""
    names = (
        "connections connections_per_address first_frame handshake frame idle "
        "frame_size write_buffer write requests queue peers peer_idle"
    )
    options = [word for name in names.split() for word in ("--limit", f"{name}=none")]
    process = run(
        "tcp://127.0.0.1:0", "udp://127.0.0.1:0", options=in_mode(mode, *options)
    )
    for which in (0, 1):
        with process.client(which) as client:
            assert Pong(200) == client.call(Ping(200))
    assert 0 == process.stop()[0]


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("frame_size=11", "limit frame_size: FixedSize(size=12) has no frames of at"),
        ("frame_size=0", "limit frame_size: expected a whole number above 0 or None"),
        ("queue=many", "limit queue: expected a whole number or none, not 'many'"),
    ],
)
def test_wrong_limits(folder, assignment, told):
    """A limit that cannot be is refused in one line."""
    (folder / "fixed.py").write_text(FIXED)
    listen = ("--listen", "tcp://127.0.0.1:0")
    line = failed("run", "fixed:app", *listen, "--limit", assignment, cwd=folder)
    assert told in line
