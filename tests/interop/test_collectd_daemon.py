"""
What collectd itself sends, from its plugin `network`: plain, signed and encrypted.

One collectd with its own folder sends the same values to three sockets of ours.
"""

import contextlib
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from protocols import collectd as cd
from protoserve import Direction
from tests.interop.conftest import STOP

pytestmark = pytest.mark.interop

PASSWORD = "a secret: with a colon"
WAIT = 60.0
"""Seconds until collectd has sent; a busy machine takes its time."""
PLUGINS = Path("/usr/lib/collectd")
CONFIG = """
Hostname "host-1"
FQDNLookup false
BaseDir "{folder}"
PIDFile "{folder}/pid"
PluginDir "/usr/lib/collectd"
TypesDB "/usr/share/collectd/types.db"
Interval 1
LoadPlugin logfile
LoadPlugin load
LoadPlugin memory
LoadPlugin network
LoadPlugin threshold
<Plugin logfile>
  LogLevel info
  File stderr
</Plugin>
<Plugin network>
  <Server "127.0.0.1" "{plain}">
  </Server>
  <Server "127.0.0.1" "{signed}">
    SecurityLevel Sign
    Username "alice"
    Password "{password}"
  </Server>
  <Server "127.0.0.1" "{encrypted}">
    SecurityLevel Encrypt
    Username "alice"
    Password "{password}"
  </Server>
</Plugin>
<Plugin threshold>
  <Type "load">
    WarningMin 1000
    Persist true
  </Type>
</Plugin>
"""


@pytest.fixture(scope="module")
def sent(require_program, tmp_path_factory):
    """
    The first datagrams that collectd sends in each way, enough to hold everything.
    """
    program = require_program("collectd")
    folder = tmp_path_factory.mktemp("collectd")
    with contextlib.ExitStack() as stack:
        sockets = {}
        for way in ("plain", "signed", "encrypted"):
            sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            sock.bind(("127.0.0.1", 0))
            sock.settimeout(WAIT)
            sockets[way] = sock
        ports = {way: sock.getsockname()[1] for way, sock in sockets.items()}
        config = folder / "collectd.conf"
        config.write_text(CONFIG.format(folder=folder, password=PASSWORD, **ports))
        process = stack.enter_context(
            subprocess.Popen(
                [program, "-f", "-C", str(config)], stderr=subprocess.PIPE, text=True
            )
        )
        said = []
        reader = threading.Thread(target=said.extend, args=[process.stderr])
        reader.start()
        stack.callback(reader.join, STOP)
        stack.callback(process.kill)
        found = {way: received(sock, said) for way, sock in sockets.items()}
        process.terminate()
        process.wait(WAIT)
    return found


def received(sock, said):
    """
    Receive until there is what the tests look for, of at most a hundred datagrams.
    """
    datagrams, plugins = [], set()
    for _ in range(100):
        try:
            datagrams.append(sock.recv(65_535))
        except TimeoutError:
            pytest.fail(f"collectd sends nothing:\n{''.join(said)}")
        rows = list(read(datagrams[-1]))
        plugins |= {(type(row), row.plugin) for row in rows}
        if plugins >= WANTED:
            return datagrams
    return pytest.fail(f"only {plugins} came:\n{''.join(said)}")


WANTED = {
    (cd.ValueRow, "load"),
    (cd.ValueRow, "memory"),
    (cd.NotificationRow, "load"),
}
secured = cd.with_passwords({"alice": PASSWORD})


def read(datagram, protocol=secured):
    """
    Give the rows of a datagram.
    """
    return protocol.parse(datagram, Direction.REQUEST).message.rows()


@pytest.mark.parametrize(
    ("way", "verified", "user"),
    [("plain", False, None), ("signed", True, "alice"), ("encrypted", True, "alice")],
)
def test_values(sent, way, verified, user):
    """
    collectd's values and notifications come with who has sent them.
    """
    rows = [row for datagram in sent[way] for row in read(datagram)]
    assert {"host-1"} == {row.host for row in rows}
    assert {(verified, user)} == {(row.verified, row.username) for row in rows}
    load = [row for row in rows if (type(row), row.plugin) == (cd.ValueRow, "load")]
    assert [0, 1, 2] == [row.ds_index for row in load[:3]]
    assert all(row.value >= 0 and row.interval == 1.0 for row in load)
    memory = {row.type_instance: row.value for row in rows if row.plugin == "memory"}
    assert memory["used"] > 1_000_000
    note = next(row for row in rows if isinstance(row, cd.NotificationRow))
    assert ("warning", "load") == (note.severity, note.type)
    assert "below the warning threshold" in note.message


def test_times(sent):
    """
    The same value has the same time in each way, and successive ones are apart.
    """
    times = {}
    for way, datagrams in sent.items():
        rows = [row for datagram in datagrams for row in read(datagram)]
        times[way] = [
            (row.time, row.value)
            for row in rows
            if (type(row), row.plugin) == (cd.ValueRow, "load")
        ]
    shortest = min(map(len, times.values()))
    first = times["plain"][:shortest]
    assert first
    assert all(first == others[:shortest] for others in times.values())


def test_signed_without_a_password(sent):
    """
    What is signed is read without its password, and is not verified.
    """
    rows = [row for datagram in sent["signed"] for row in read(datagram, cd.collectd)]
    assert {(False, "alice")} == {(row.verified, row.username) for row in rows}


def test_a_changed_datagram(sent):
    """
    A datagram that was changed on its way is refused, signed or encrypted.
    """
    for way in ("signed", "encrypted"):
        datagram = bytearray(sent[way][0])
        datagram[-2] ^= 1  # inside of the last value, or of the last text
        with pytest.raises(cd.UntrustedError):
            list(read(bytes(datagram)))


def test_encrypted_without_a_password(sent):
    """
    What is encrypted by someone whose password is not known is refused, and says why.
    """
    with pytest.raises(cd.UntrustedError, match=r"'alice'.*COLLECTD_AUTH_FILE"):
        list(read(sent["encrypted"][0], cd.collectd))


def test_built_like_collectd(sent):
    """
    What was read builds to collectd's bytes, signatures and encryption included.
    """
    for way in ("plain", "signed"):
        for datagram in sent[way]:
            packet = cd.Packet.parse(datagram)
            assert datagram == bytes(packet)
    packet = cd.Packet.parse(sent["signed"][0])
    parts = packet.opened({"alice": PASSWORD}).parts
    assert packet == cd.Packet.signed(parts, "alice", PASSWORD)
    datagram = sent["encrypted"][0]
    packet = cd.Packet.parse(datagram)
    parts = packet.opened({"alice": PASSWORD}).parts
    iv = packet.parts[0].value.iv
    again = cd.Packet.encrypted(parts, "alice", PASSWORD, iv=iv)
    assert datagram == bytes(again)
