"""
``--json`` of every command: what it prints is JSON, and nothing else.

Those that end by themselves run in this process; those that serve until they are told
to stop are processes, whose only other lines say where they listen. Those of telemetry
need sinks and logs; what they print is read where they are tested.
"""

import json
import socket
import sys

import pytest

from examples import ntp_server
from protoserve.cli.commands import app
from protoserve.client import Client
from protoserve.journal import Journal
from tests.cli.commanding import serving
from tests.cli.station import app as station
from tests.running import PATIENCE, bound, ended, started
from tests.service.kit import Ping, spoken

typer = pytest.importorskip("typer")

SPOKEN = "tests.cli.station:spoken"
PING = ("Ping", "value=200")


@pytest.fixture(scope="module")
def url():
    with serving(station) as url:
        yield url


@pytest.fixture(scope="module")
def ntp():
    with serving(ntp_server.app, "udp") as url:
        yield url


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A journal of one request and its answer."""
    path = tmp_path_factory.mktemp("recorded") / "journal.jsonl"
    with Journal(path) as journal:
        station.journal = journal
        try:
            with (
                serving(station) as url,
                Client(spoken, url, timeout=PATIENCE) as client,
            ):
                client.call(Ping(200))
        finally:
            station.journal = None
    return path


ENDING = {
    "describe": (SPOKEN,),
    "load": (SPOKEN, "{url}", *PING, "--duration", "0.1s", "--warm-up", "0.01s"),
    "replay": ("{journal}", "{url}", "--speed", "max"),
    "journal": ("{journal}",),
    "call": (SPOKEN, "{url}", *PING),
    "send": (SPOKEN, "{url}", *PING),
    "shell": (SPOKEN, "{url}"),
    "decode": (SPOKEN, "010000c8"),
    "export": ("client", SPOKEN, "-o", "{folder}/client.py"),
    "snapshot": (SPOKEN,),
    "compat": (SPOKEN, SPOKEN),
    "torture": ("protocols.ntp:ntp", "{ntp}", "--budget", "20", "--only", "valid"),
}
"""Commands that end by themselves, with their arguments."""

SERVING = {
    "run": ("tests.cli.station:only_datagrams", "--listen", "udp://127.0.0.1:0"),
    "simulate": (SPOKEN, "--listen", "tcp://127.0.0.1:0"),
    "proxy": (SPOKEN, "--listen", "tcp://127.0.0.1:0", "--to", "tcp://127.0.0.1:9"),
    "listen": ("tests.cli.station:datagrams", "udp://127.0.0.1:0", "--count", "1"),
}
"""Commands that serve until they are told to stop."""


def test_every_command_has_it():
    """There is no command without --json."""
    commands = typer.main.get_command(app).commands
    options = {
        name: {o for p in c.params for o in p.opts} for name, c in commands.items()
    }
    assert [] == [name for name, known in options.items() if "--json" not in known]
    assert commands.keys() >= ENDING.keys() | SERVING.keys()


@pytest.mark.parametrize("name", ENDING)
def test_ending(command, name, url, ntp, recorded, tmp_path):
    """What a command prints on standard output is JSON, each line an object."""
    pytest.importorskip("hdrh.histogram" if name == "load" else "typer")
    places = {"url": url, "ntp": ntp, "journal": recorded, "folder": tmp_path}
    arguments = (word.format_map(places) for word in ENDING[name])
    code, out, err = command(name, *arguments, "--json", lines=" ".join(PING))
    assert (0, "") == (code, err)
    try:
        found = [json.loads(out)]
    except ValueError:
        found = [json.loads(line) for line in out.splitlines()]
    assert found
    assert all(isinstance(each, dict) for each in found)


@pytest.mark.parametrize("name", SERVING)
def test_serving(name):
    """What a server prints is JSON, but for the lines that say where it listens."""
    words = (sys.executable, "-m", "protoserve", name, *SERVING[name], "--json")
    with started(words) as process:
        (url,) = bound(process)
        if name == "listen":
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                sock.sendto(bytes.fromhex("010000c8"), ("127.0.0.1", int(url[16:])))
            process.wait(PATIENCE)  # one message is what it was told to wait for
        code, output = ended(process)
    assert 0 == code, output
    found = [json.loads(line) for line in output.splitlines()]
    assert all(isinstance(each, dict) for each in found)
    assert found or name == "run"


def test_what_was_sent(command):
    """`send --json` shows the frame as it was sent, under the key that was chosen."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        where = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        code, out, err = command("send", SPOKEN, where, *PING, "--json")
        peer, _ = listening.accept()
        with peer:
            peer.settimeout(PATIENCE)
            data = peer.recv(100)
    entry = json.loads(out)
    assert (0, "") == (code, err)
    assert data[2:].hex() == entry["raw"]
    assert int.from_bytes(data[3:5], "big") == entry["header"]["sequence"]
    assert ("Ping", {"value": 200}) == (entry["message"], entry["fields"])
    assert ("request", None, where[6:]) == (
        entry["direction"],
        entry["src"],
        entry["dst"],
    )


def test_export(command, tmp_path):
    """It says what was written, what differs, or has the text if there is no file."""
    path = tmp_path / "client.py"
    export = ("export", "client", SPOKEN, "--json")
    _, out, _ = command(*export)
    text = json.loads(out)["text"]
    _, out, _ = command(*export, "-o", path)
    written = json.loads(out)
    assert (str(path), True, True) == tuple(
        written[k] for k in ("file", "written", "same")
    )
    assert text == path.read_text("utf-8")
    path.write_text(text + "pass\n", "utf-8")
    code, out, err = command(*export, "-o", path, "--check")
    found = json.loads(out)
    assert (1, "", False, False) == (code, err, found["written"], found["same"])
    assert "-pass" in found["difference"]


def test_snapshot(command, tmp_path):
    """It says what was written, or is the snapshot on one line."""
    path = tmp_path / "snapshot.json"
    _, out, _ = command("snapshot", SPOKEN, "--json", "-o", path)
    assert {"protocol": SPOKEN, "file": str(path), "written": True} == json.loads(out)
    _, out, _ = command("snapshot", SPOKEN, "--json")
    assert json.loads(path.read_text("utf-8")) == json.loads(out)
    assert 1 == out.count("\n")


def test_journal_as_a_capture(command, recorded, tmp_path):
    """Of a capture that it writes it says how many packets are in it."""
    pytest.importorskip("dpkt")
    path = tmp_path / "journal.pcapng"
    code, out, _ = command("journal", recorded, "--pcapng", path, "--json")
    found = json.loads(out)
    assert (0, str(path)) == (code, found["file"])
    assert 2 < found["packets"]
