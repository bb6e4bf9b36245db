"""
collectd: parts, rows, signatures, encryption and password files.
"""

import datetime as dt
import hashlib
import math
import os
import struct
import subprocess
import sys

import pytest

from protocols import collectd as cd
from protocols.collectd import PartType as T
from protocols.collectd import ValueType as V
from protocols.collectd import security
from protocols.collectd.parts import LONGEST_NAME
from protoserve import Direction, MalformedMessageError

PASSWORDS = {"alice": "secret"}


def part(kind, value):
    return cd.Part(kind, value)


def values(**typed):
    return cd.Values([V[name] for name in typed], list(typed.values()))


LOAD = [
    part(T.HOST, "web-1"),
    part(T.TIME, 1_700_000_000),
    part(T.INTERVAL, 10),
    part(T.PLUGIN, "load"),
    part(T.TYPE, "load"),
    part(T.VALUES, cd.Values([V.GAUGE] * 3, [0.5, 0.25, 0.125])),
]


def parsed(data):
    return cd.collectd.parse(data, Direction.REQUEST).message


@pytest.fixture(autouse=True)
def no_password_file(monkeypatch):
    monkeypatch.delenv(security.AUTH_FILE, raising=False)


def test_bytes():
    """Each part has its bytes where the specification has them."""
    packet = cd.Packet(
        [
            part(T.HOST, "ab"),
            part(T.TIME_HR, 1 << 30),
            part(T.VALUES, values(COUNTER=1, GAUGE=1.0, DERIVE=-1, ABSOLUTE=2)),
        ]
    )
    expected = (
        "0000 0007 616200"
        "0008 000c 0000000040000000"
        "0006 002a 0004 00010203"
        "0000000000000001 000000000000f03f ffffffffffffffff 0000000000000002"
    )
    assert bytes.fromhex(expected) == bytes(packet)
    assert packet == parsed(bytes(packet))


def test_rows():
    """What a part says holds for the values behind it, until another says otherwise."""
    others = [
        part(T.TIME_HR, (1_700_000_001 << 30) + (1 << 29)),
        part(T.INTERVAL_HR, 3 << 29),
        part(T.PLUGIN, "if"),
        part(T.PLUGIN_INSTANCE, "eth0"),
        part(T.TYPE, "octets"),
        part(T.TYPE_INSTANCE, "in"),
        part(T.VALUES, values(COUNTER=2**64 - 1, DERIVE=-5)),
        part(T.TYPE_INSTANCE, ""),
        part(T.VALUES, values(ABSOLUTE=7, GAUGE=math.nan)),
    ]
    rows = list(cd.Packet([*LOAD, *others]).rows())
    first, sixth, last = rows[0], rows[4], rows[-1]
    assert 7 == len(rows)
    moment = dt.datetime.fromtimestamp(1_700_000_000, dt.UTC)
    assert ("web-1", moment, 10.0) == (first.host, first.time, first.interval)
    assert ("load", None, "load", None) == (
        first.plugin,
        first.plugin_instance,
        first.type,
        first.type_instance,
    )
    assert [0, 1, 2] == [row.ds_index for row in rows[:3]]
    assert [0.5, 0.25, 0.125] == [row.value for row in rows[:3]]
    assert moment + dt.timedelta(seconds=1.5) == sixth.time
    assert ("eth0", "in", 1.5) == (
        sixth.plugin_instance,
        sixth.type_instance,
        sixth.interval,
    )
    assert ["counter", "derive", "absolute", "gauge"] == [r.ds_type for r in rows[3:]]
    assert [float(2**64 - 1), -5.0, 7.0, None] == [row.value for row in rows[3:]]
    assert last.type_instance is None
    assert {(False, None)} == {(row.verified, row.username) for row in rows}


def test_notifications():
    """A message is a row of its own, with its severity and where it is from."""
    parts = [*LOAD[:-1], part(T.SEVERITY, 1), part(T.MESSAGE, "too much")]
    (row,) = cd.Packet(parts).rows()
    assert "notifications" == type(row).__table__
    assert ("failure", "too much", "web-1", "load") == (
        row.severity,
        row.message,
        row.host,
        row.plugin,
    )


def test_texts_that_are_cut():
    """A text that was cut inside of a letter is kept, and is readable in rows."""
    data = bytes(cd.Packet(LOAD)).replace(b"web-1", b"web-\xc3")
    packet = parsed(data)
    assert "web-\udcc3" == packet.parts[0].value
    assert data == bytes(packet)
    assert "web-\ufffd" == next(iter(packet.rows())).host


def test_unknown_parts_and_values():
    """A part that is not known is skipped, and a value of an unknown type is a number."""
    odd = part(T.VALUES, cd.Values([9], [5]))
    packet = parsed(bytes(cd.Packet([part(0x7777, b"odd"), *LOAD[:-1], odd])))
    assert b"odd" == packet.parts[0].value
    (row,) = packet.rows()
    assert ("9", 5.0) == (row.ds_type, row.value)


def test_times_that_are_none():
    """A time that no timestamp has room for is none."""
    parts = [part(T.TIME, 2**64 - 1), *LOAD[2:]]
    rows = list(parsed(bytes(cd.Packet(parts))).rows())
    assert {None} == {row.time for row in rows}


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("0000", r"parts\[0\].length"),
        ("0000 0003 61", r"parts\[0\].value"),
        ("0000 0000", r"parts\[0\].value"),
        ("0000 0005 61", "expected a text that ends with a zero"),
        ("0001 000b 00000000000000", r"parts\[0\].value"),
        ("0006 0006 ffff", r"value.types"),
        ("0006 000e 0002 0101 000000000000", r"value.values"),
        ("0200 0010 000000000000000000000000", r"value.mac"),
        ("0200 0024" + 32 * "00" + "00", r"parts\[1\].type"),
        ("0210 0008 00ff 0000", "username"),
    ],
)
def test_malformed(data, match):
    """A part whose length is wrong costs its datagram, and says where."""
    with pytest.raises(MalformedMessageError, match=match):
        parsed(bytes.fromhex(data))


def test_long_names():
    """A name that would be in thousands of rows is refused; a message may be long."""
    longest = "n" * LONGEST_NAME
    parts = [part(T.HOST, longest), part(T.MESSAGE, "m" * 5000)]
    (row,) = parsed(bytes(cd.Packet(parts))).rows()
    assert (longest, 5000) == (row.host, len(row.message))
    for kind in (T.HOST, T.TYPE_INSTANCE):
        with pytest.raises(MalformedMessageError, match="at most 512 bytes, found 513"):
            parsed(bytes(cd.Packet([part(kind, longest + "n")])))
    with pytest.raises(MalformedMessageError, match="at most 512 bytes, found 513"):
        parsed(bytes(cd.Packet.signed(LOAD, longest + "n", "secret")))


def test_a_value_for_each_type():
    """As many values as types are built, and no other number."""
    with pytest.raises(ValueError, match="expected 2 values, got 1"):
        bytes(cd.Values([V.GAUGE, V.GAUGE], [1.0]))


def test_signatures():
    """What is signed is verified where the password is known, and otherwise not."""
    packet = cd.Packet.signed(LOAD, "alice", "secret")
    again = parsed(bytes(packet))
    assert packet == again
    assert (LOAD, True, "alice") == again.opened(PASSWORDS)
    assert (LOAD, False, "alice") == again.opened({"bob": "secret"})
    with pytest.raises(cd.UntrustedError, match="signature of the user 'alice'"):
        again.opened({"alice": "other"})


def test_a_signature_is_of_all_that_follows():
    """Each byte behind a signature counts, and so does the name."""
    data = bytes(cd.Packet.signed(LOAD, "alice", "secret"))
    for place in range(4, len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        try:
            opened = parsed(bytes(changed)).opened(PASSWORDS)
        except (MalformedMessageError, cd.UntrustedError):
            continue
        assert not opened.verified, place
        assert 36 <= place < 41, place  # another user, whose password is not known


def test_nothing_is_before_a_signature():
    """What stands before a signature is not covered by it."""
    sealed = cd.Packet.signed(LOAD, "alice", "secret").parts
    for before in (LOAD, cd.Packet.signed(LOAD, "bob", "x").parts):
        packet = parsed(bytes(cd.Packet([*before, *sealed])))
        with pytest.raises(cd.UntrustedError, match="before all other parts, found"):
            packet.opened(PASSWORDS)


crypto = pytest.importorskip  # the extra collectd


def test_encryption():
    """What is encrypted is read with the password, and only with that one."""
    crypto("cryptography", reason="protoserve[collectd] is not installed")
    packet = cd.Packet.encrypted(LOAD, "alice", "secret")
    again = parsed(bytes(packet))
    assert packet == again
    assert (LOAD, True, "alice") == again.opened(PASSWORDS)
    with pytest.raises(cd.UntrustedError, match="'alice': the password is another"):
        again.opened({"alice": "other"})
    with pytest.raises(cd.UntrustedError, match="'alice', whose password is not known"):
        list(again.rows())
    assert packet != cd.Packet.encrypted(LOAD, "alice", "secret")


def test_what_is_encrypted_is_plain():
    """A datagram is encrypted once, and all of it."""
    crypto("cryptography", reason="protoserve[collectd] is not installed")
    once = cd.Packet.encrypted(LOAD, "alice", "secret")
    twice = parsed(bytes(cd.Packet.encrypted(once.parts, "alice", "secret")))
    with pytest.raises(cd.UntrustedError, match="plain parts inside of encryption"):
        twice.opened(PASSWORDS)
    mixed = parsed(bytes(cd.Packet([*LOAD, *once.parts])))
    with pytest.raises(cd.UntrustedError, match="found 6 before it and 0 behind it"):
        mixed.opened(PASSWORDS)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 20, 33, 1400])
def test_cipher(size):
    """The cipher is AES-256 in mode OFB, for texts of any length."""
    crypto("cryptography", reason="protoserve[collectd] is not installed")
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    plain, iv = bytes(i % 251 for i in range(size)), bytes(range(16))
    key = hashlib.sha256(b"secret").digest()
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    stream, feedback = b"", iv
    while len(stream) < size + 20:
        feedback = block.update(feedback)
        stream += feedback
    text = security.encrypted("secret", iv, plain)
    assert size + 20 == len(text)
    assert plain == bytes(a ^ b for a, b in zip(text, stream, strict=False))[20:]
    assert plain == security.decrypted("secret", iv, text)


def test_without_the_extra():
    """Where the package is missing, one line says which extra has it."""
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from protocols import collectd\n"
        "collectd.Packet.encrypted([], 'alice', 'secret')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert "pip install 'protoserve[collectd]'" in done.stderr.splitlines()[-1]


def test_password_file(tmp_path):
    """A password file has a user a line, and is read again when it has changed."""
    path = tmp_path / "auth"
    path.write_text("# comment: none\nalice: secret: with colons \n\nbob:x\n")
    passwords = cd.PasswordFile(path)
    assert ["secret: with colons", "x", None, None] == [
        passwords.get(name) for name in ("alice", "bob", "carol", "# comment")
    ]
    path.write_text("alice: another\n")
    os.utime(path, ns=(1, 1))
    assert ["another", None] == [passwords.get("alice"), passwords.get("bob")]
    path.unlink()
    with pytest.raises(cd.UntrustedError, match="auth' cannot be read"):
        passwords.get("alice")


def test_password_file_of_the_environment(tmp_path, monkeypatch):
    """Rows are verified with the passwords of the file that the environment names."""
    packet = cd.Packet.signed(LOAD, "alice", "secret")
    assert not next(iter(packet.rows())).verified
    path = tmp_path / "auth"
    path.write_text("alice: secret\n")
    monkeypatch.setenv(security.AUTH_FILE, str(path))
    assert next(iter(packet.rows())).verified


def test_with_passwords(tmp_path):
    """A protocol of its own knows the passwords of a mapping or of a file."""
    path = tmp_path / "auth"
    path.write_text("alice: secret\n")
    data = bytes(cd.Packet.signed(LOAD, "alice", "secret"))
    for given in (PASSWORDS, path, str(path), cd.PasswordFile(path)):
        protocol = cd.with_passwords(given)
        message = protocol.parse(data, Direction.REQUEST).message
        assert isinstance(message, cd.Packet)
        assert next(iter(message.rows())).verified
    other = cd.with_passwords({"alice": "other"}).parse(data, Direction.REQUEST)
    with pytest.raises(cd.UntrustedError):
        next(iter(other.message.rows()))


def test_tables():
    """A collector makes tables of the rows, and says why a datagram is refused."""
    pytest.importorskip("pyarrow", reason="tables are Arrow's")
    import numpy as np

    from protoserve import Peer
    from protoserve.telemetry.tables import Frames
    from protoserve.telemetry.tabulate import tabulator_of

    note = [part(T.SEVERITY, 4), part(T.MESSAGE, "fine")]
    sent = [
        bytes(cd.Packet([*LOAD, *note])),
        bytes(cd.Packet.signed(LOAD, "alice", "secret")),
        bytes(cd.Packet.signed(LOAD, "alice", "other")),
        struct.pack(">HH", 0, 3),
    ]
    sizes = np.array(list(map(len, sent)))
    frames = Frames(
        np.frombuffer(b"".join(sent), np.uint8),
        np.concatenate([[0], np.cumsum(sizes)[:-1]]),
        sizes,
        np.arange(4),
        np.zeros(4, np.int64),
        [Peer("udp", ("192.0.2.250", 40000))],
    )
    made = tabulator_of(cd.with_passwords(PASSWORDS)).tables(frames)
    assert [2, 3] == sorted(refused.index for refused in made.refused)
    assert "signature of the user" in str(
        next(refused.error for refused in made.refused if refused.index == 2)
    )
    table = made.tables["values"]
    assert [False] * 3 + [True] * 3 == table["verified"].to_pylist()
    assert 1 == made.tables["notifications"].num_rows
    assert "timestamp[ns, tz=UTC]" == str(table.schema.field("time").type)
