"""
``protoserve shell``: lines in, answers out.
"""

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest
from construct import Int8ub, Int16ub

from examples import modbus_station
from protocols.dns import dns
from protocols.modbus import modbus
from protoserve import (
    LengthPrefixed,
    Protocol,
    Request,
    Service,
    Session,
    connected,
    route,
    wire,
)
from protoserve.cli.shell import _history, completions
from tests.cli.commanding import serving
from tests.cli.kit import ROOT
from tests.service.kit import PATIENCE, Header, Ping, Pong, Text, spoken

MODBUS = "protocols.modbus:modbus"


class Knock(Request[Pong]):
    value: int = wire(Int8ub, default=0)


pushed = Protocol(
    "pushed",
    framing=LengthPrefixed(Int16ub, max_size=16_000),
    header=Header,
    tag="kind",
    correlate="sequence",
    requests={1: Knock},
    responses={2: Pong},
    messages={3: Text},
)


@pytest.fixture(scope="module")
def url():
    with serving(modbus_station.app) as url:
        yield url


def test_script(command, url):
    """Lines are done one after the other, in one conversation, comments left out."""
    script = """
        # what is there, after it was changed
        WriteSingleRegister address=7 value=99
        send ReadCoils address=0 count=1
        json on
        ReadHoldingRegisters address=7 count=1
        quit
        ReadHoldingRegisters address=8 count=1
    """
    code, out, err = command("shell", MODBUS, url, lines=script)
    assert (0, "") == (code, err)
    assert "RegisterWritten  from tcp://" in out
    assert [99] == json.loads(out.splitlines()[-1])["fields"]["values"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("ReadCoil address=1", "no message or command 'ReadCoil'; did you mean ReadC"),
        ("hepl", "did you mean help?"),
        ("ReadCoils adress=1", "did you mean address?"),
        ("ReadCoils count=1", "ReadCoils needs address=VALUE"),
        ("ReadCoils 'address=1", "no closing quotation"),
        ("ReadCoils --heder unit=1", "expected FIELD=VALUE or --header FIELD=VALUE"),
        ("ReadCoils --header", "expected FIELD=VALUE"),
        ("ReadCoils address=1 count=1 --header unit=900", "found 900"),
        ("help ReadCoil", "did you mean ReadCoils?"),
        ("send", "send: expected MESSAGE FIELD=VALUE"),
        ("timeout 0", "timeout: expected seconds above 0, found '0'"),
        ("timeout", "timeout: expected seconds above 0, found None"),
        ("json maybe", "json: expected on or off, found 'maybe'"),
        ("receive soon", "receive: expected seconds above 0, found 'soon'"),
        ("receive 0.01", "nothing came within 0.01 s"),
        ("Coils", "Coils is a response of modbus"),
    ],
)
def test_errors_are_lines(command, url, line, text):
    """What is wrong with a line is one line; the next works; exit code 1 in the end."""
    code, out, err = command(
        "shell", MODBUS, url, lines=f"{line}\nReadCoils address=0 count=1\n"
    )
    assert 1 == code
    assert text in err
    assert 1 == err.count("\n")
    assert "Coils  from tcp://" in out


def test_error_response(command, url):
    """An error response is shown, and counts as one."""
    line = "ReadCoils address=60000 count=1"
    code, out, _ = command("shell", MODBUS, url, lines=line)
    assert 1 == code
    assert "ModbusException  an error from tcp://" in out


def test_help(command, url):
    """help lists messages and commands; help MESSAGE shows its bytes."""
    code, out, _ = command("shell", MODBUS, url, lines="help\nhelp ReadCoils\n")
    assert 0 == code
    assert "ReadCoils" in out
    assert "json [on|off]: show answers as JSON" in out
    assert re.search(r"address +uint16, big-endian +of the first coil", out)


def test_survives_a_lost_connection(command):
    """A server that goes away is told; when it is there again, lines work again."""

    class Leaving:
        @route
        def ping(self, message: Ping, session: Session) -> Pong:
            if message.value == 0:
                session.close()
            return Pong(message.value)

    with serving(Service(spoken, Leaving())) as url:
        code, out, err = command(
            *("shell", "tests.service.kit:spoken", url, "--timeout", "2"),
            lines="Ping value=1\nPing value=0\nPing value=3\n",
        )
    assert 1 == code
    assert 1 == err.count("\n")
    assert "closed: " in err
    assert "value 1" in out
    assert "value 3" in out


def test_nobody_there(command):
    """Without a server each line says so, and the shell goes on."""
    code, _, err = command(
        "shell", MODBUS, "tcp://127.0.0.1:1", lines="ReadExceptionStatus\n" * 2
    )
    assert 1 == code
    assert 2 == err.count("refused: nobody listens at tcp://127.0.0.1:1")


class Pushing:
    @connected
    def greet(self, session: Session):
        session.send(Text(b"welcome"))

    @route
    def knock(self, message: Knock) -> Pong:
        return Pong(message.value)

    @route
    def text(self, message: Text, session: Session):
        session.send(Text(b"pushed"))


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        ("receive 20\n", ['text 77656c636f6d65  "welcome"']),
        ("json\nreceive 20\n", ['{"text": "77656c636f6d65"}']),
        # The answer comes behind what is pushed.
        ("Text\nKnock value=5\n", ["value 5", 'text 707573686564  "pushed"']),
        # What came before the line was read is receive's too.
        ("receive 20\nText\nreceive 20", ['707573686564  "pushed"']),
        (
            "json on\nreceive 20\nText\nreceive 20\nKnock\n",
            ['{"n": 1, ', '\n{"n": 2, ', '\n{"n": 3, '],
        ),
    ],
)
def test_what_comes_by_itself(command, lines, shown):
    """Messages that nobody asked for are shown with the next line, or by receive."""
    with serving(Service(pushed, Pushing())) as url:
        code, out, err = command(
            "shell", "tests.cli.test_shell:pushed", url, lines=lines
        )
    assert (0, "") == (code, err)
    for text in shown:
        assert text in out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Que", ["Query"]),
        ("he", ["help"]),
        ("send Q", ["Query"]),
        ("help Q", ["Query"]),
        ("Query questions.0.t", ["questions.0.type=MX", "questions.0.type=A"]),
        ("Query questions.0.type=m", ["questions.0.type=MX"]),
        ("Query ans", ["answers.0.name=", "answers.0.rdata."]),
        ("Query answers.0.rdata.pre", ["answers.0.rdata.preference="]),
        ("Query --header opc", ["opcode=QUERY"]),
        ("Query --header authoritative=", ["authoritative=true"]),
        ("Query nothing.x", []),
        ("Nothing x", []),
    ],
)
def test_completion(line, expected):
    """Messages, fields and the names of values are completed."""
    found = [text for _, text, _ in completions(dns, line)]
    assert set(expected) <= set(found)
    assert bool(expected) is bool(found)
    assert not any("_count" in text or "rdlength" in text for text in found)


def test_completion_leaves_out_what_is_there():
    """A field that has its value is not offered again."""
    found = [text for _, text, _ in completions(modbus, "ReadCoils address=1 ")]
    assert ["count="] == found


def test_history_is_bounded(tmp_path, monkeypatch):
    """A history that has grown too long loses its older half; others keep out."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "protoserve" / "x.history"
    path.parent.mkdir()
    path.write_text("\n# 2024\n+line\n" * 40_000)
    history = _history("x")
    assert path.stat().st_size < 140_000
    assert "line" == next(iter(history.load_history_strings()))
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    assert "InMemoryHistory" == type(_history("x")).__name__


def test_on_a_terminal(url, tmp_path):
    """On a terminal lines are edited, completed with Tab and kept in a history."""
    parent, child = pty.openpty()
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "protoserve", "shell", MODBUS, url],
        stdin=child,
        stdout=child,
        stderr=child,
        cwd=ROOT,
        env=environment,
    )
    os.close(child)
    seen = ""

    def until(text):
        nonlocal seen
        deadline = time.monotonic() + PATIENCE
        while text not in seen:
            ready, _, _ = select.select([parent], [], [], deadline - time.monotonic())
            assert ready, seen
            data = os.read(parent, 65536)
            if b"\x1b[6n" in data:  # it asks where the cursor is
                os.write(parent, b"\x1b[1;1R")
            seen += data.decode(errors="replace")
        seen = seen.partition(text)[2]

    try:
        until("help lists what there is")
        until("modbus>")
        os.write(parent, b"ReadHoldingR")
        until("egisters")  # in the menu
        os.write(parent, b"\t")
        until("egisters")
        os.write(parent, b" address=0 count=3\r")
        until("values")
        until("modbus>")
        os.write(parent, b"\x04")
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            os.close(parent)
    assert 0 == process.returncode
    kept = (tmp_path / "protoserve" / "modbus.history").read_text()
    assert "+ReadHoldingRegisters address=0 count=3" in kept
