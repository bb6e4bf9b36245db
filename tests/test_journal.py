"""
The wire journal: what is written, by whom, and what is left when it cannot be.
"""

import errno
import json
import logging
import os
import shutil
import subprocess
import threading
import time

import attrs
import pytest
from construct import Int8ub

from protoserve import Delimited, LengthPrefixed, Role, Service, Session, Slip, route
from protoserve.framing import Datagram, SyncWord
from protoserve.journal import Entry, Journal, JournalError, read_journal
from protoserve.replaying import write_pcapng
from protoserve.session import Peer
from tests.forking import forked
from tests.service.kit import Ping, Pong, Text, spoken

PING = bytes.fromhex("0004 01 0007 09")
PONG = bytes.fromhex("0004 02 0007 09")
PEER = Peer("tcp", ("192.0.2.7", 40_000))


class Echo:
    @route
    def ping(self, message: Ping) -> Pong:
        return Pong(message.value)


def entry(**changes):
    return attrs.evolve(
        Entry(
            time=1.5,
            transport="tcp",
            local="tcp://192.0.2.1:9000",
            peer="tcp://192.0.2.7:40000",
            direction="in",
            raw=PING,
        ),
        **changes,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


@pytest.fixture
def journal(path):
    with Journal(path) as made:
        yield made


@pytest.fixture
def recorded(journal):
    """Let a service's session receive bytes, in pieces; give the journal's entries."""

    def run(*pieces, protocol=spoken, handler=None, stream=True, peer=PEER):
        service = Service(protocol, handler or Echo(), journal=journal)
        session = service.session(peer, stream=stream)
        for piece in pieces:
            session.receive_data(piece)
            service.answer(session)
        if stream:
            session.receive_eof()
            service.answer(session)
        return list(read_journal(journal.path))

    return run


# What is written -----------------------------------------------------------


def test_a_request_and_its_answer(recorded):
    """Each message has its number, its bytes as they came, and what they mean."""
    came, sent = recorded(PING)
    assert (1, 1, "in", PING, "ok") == (
        came.n,
        came.session,
        came.direction,
        came.raw,
        came.outcome,
    )
    assert ("Ping", {"kind": 1, "sequence": 7}, {"value": 9}) == (
        came.message,
        came.header,
        came.fields,
    )
    assert ("tcp", "tcp://192.0.2.7:40000") == (came.transport, came.peer)
    assert (2, 1, "out", PONG) == (sent.n, sent.session, sent.direction, sent.raw)
    assert ("Pong", {"kind": 2, "sequence": 7}, {"value": 9}) == (
        sent.message,
        sent.header,
        sent.fields,
    )
    assert came.from_client
    assert not sent.from_client


def test_lines_are_json(recorded, journal):
    """A line has all that an entry has, by the same names."""
    recorded(PING)
    (first, *_) = journal.path.read_text().splitlines()
    plain = json.loads(first)
    assert [field.name for field in attrs.fields(Entry)] == list(plain)
    assert PING.hex() == plain["raw"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
def test_splits(recorded, size):
    """However the stream is split, each message has its own bytes."""
    data = PING * 5
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    entries = recorded(*pieces)
    assert [PING] * 5 == [e.raw for e in entries if e.direction == "in"]
    assert [PONG] * 5 == [e.raw for e in entries if e.direction == "out"]


@pytest.mark.parametrize(
    ("framing", "data"),
    [
        (Delimited((b"\r\n", b"\n")), [b"\1\0\7\3\n", b"\1\0\7\3\r\n"]),
        (Slip(), [b"\xc0\1\0\7\xdb\xdc\xc0", b"\1\0\7\3\xc0"]),
    ],
)
def test_bytes_are_as_they_came(recorded, framing, data):
    """Where a frame can be sent in several ways, the way that it came in is kept."""
    protocol = attrs.evolve(spoken, framing=framing)
    entries = recorded(b"".join(data), protocol=protocol)
    assert data == [e.raw for e in entries if e.direction == "in"]


def test_what_belongs_to_no_frame(recorded):
    """Bytes that a framing skips are an entry of their own, or stand before the frame."""

    class Silent:
        @route
        def ping(self, message: Ping) -> None:
            pass

    protocol = attrs.evolve(spoken, framing=SyncWord(b"\1", lambda _head: 4))
    noise, frame = bytes(100), b"\1\0\7\3"
    pieces = (noise, noise + frame)
    skipped, came = recorded(*pieces, protocol=protocol, handler=Silent())
    assert "100 bytes that belong to no frame were skipped" == skipped.outcome
    assert pieces == (skipped.raw, came.raw)
    assert "Ping" == came.message


MALFORMED = bytes.fromhex("0003 01 0007")
UNKNOWN = bytes.fromhex("09 0007 00")


def test_rejected(recorded):
    """What is unknown is written with what is wrong, in one line."""
    (entry,) = recorded(UNKNOWN, stream=False)
    assert (None, UNKNOWN) == (entry.message, entry.raw)
    assert "no message has tag" in entry.outcome
    assert "\n" not in entry.outcome


def test_rejected_header(recorded):
    """The header of a malformed message is there if it could be parsed."""
    (entry,) = recorded(MALFORMED)
    assert ({"kind": 1, "sequence": 7}, None) == (entry.header, entry.fields)
    assert "Ping.value" in entry.outcome
    assert MALFORMED == entry.raw


def test_broken_stream(recorded):
    """A stream that cannot be cut is written as it is, behind what could be."""
    entries = recorded(PING + b"GET / HTTP/1.1\r\n")
    assert ["Ping", "Pong", None] == [e.message for e in entries]
    assert b"GET / HTTP/1.1\r\n" == entries[-1].raw
    assert "HTTP request" in entries[-1].outcome


def test_unfinished_stream(recorded):
    """The beginning of a frame that never ended is written when the stream ends."""
    *_, last = recorded(PING + PING[:3])
    assert PING[:3] == last.raw
    assert "ended 3 bytes into a frame" in last.outcome


def test_datagrams_of_several_frames(recorded):
    """Each frame of a datagram has its part of it."""
    protocol = attrs.evolve(
        spoken, framing=Datagram(LengthPrefixed(Int8ub)), correlate=None
    )
    data = b"\4\1\0\7\3" + b"\4\1\0\7\4"
    entries = recorded(data, protocol=protocol, stream=False)
    assert [data[:5], data[5:]] == [e.raw for e in entries if e.direction == "in"]
    assert [b"\4\2\0\7\3", b"\4\2\0\7\4"] == [
        e.raw for e in entries if e.direction == "out"
    ]


def test_datagram_that_is_no_frame(recorded):
    """A datagram that cannot be cut is written whole."""
    protocol = attrs.evolve(spoken, framing=Datagram(LengthPrefixed(Int8ub)))
    (entry,) = recorded(b"\4\1\0\7", protocol=protocol, stream=False)
    assert b"\4\1\0\7" == entry.raw
    assert entry.outcome != "ok"


def test_pushes_of_threads(journal):
    """What threads push is written as well, each message once, with one number each."""

    class Pushing(Echo):
        def connected(self, session: Session):
            session.send(Text(b"hello"))

    service = Service(spoken, Pushing(), journal=journal)
    session = service.session(PEER)
    service.done(service.dispatcher.connected(session))
    threads = [
        threading.Thread(target=lambda: [session.send(Text(b"x")) for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = list(read_journal(journal.path))
    assert list(range(1, 202)) == [e.n for e in entries]
    assert {1} == {e.session for e in entries}
    assert {"out"} == {e.direction for e in entries}


def test_fields_that_cannot_be_shown(recorded, monkeypatch):
    """A message whose fields cannot be shown is written without them."""

    def broken(_message):
        raise RuntimeError("no")

    monkeypatch.setattr("protoserve.recording.to_plain", broken)
    came, sent = recorded(PING)
    assert [(PING, None), (PONG, None)] == [(e.raw, e.fields) for e in (came, sent)]
    monkeypatch.setattr("protoserve.recording.to_plain", lambda _message: {1, 2})
    assert [PING, PONG] == [e.raw for e in recorded(PING)[2:]]


def test_nothing_without_a_journal():
    """A service without a journal answers in passing, and its sessions are plain."""
    service = Service(spoken, Echo())
    assert service.dispatcher.in_passing
    assert "RecordedSession" != type(service.session(PEER)).__name__
    assert service.dispatcher.datagram_pump() is not None


def test_journal_set_later(journal):
    """A journal that is set before serving is used."""
    service = Service(spoken, Echo())
    service.journal = journal
    assert journal is service.journal
    assert service.dispatcher.datagram_pump() is None
    session = service.session(PEER)
    session.receive_data(PING)
    service.answer(session)
    assert 2 == len(list(read_journal(journal.path)))


# The file ------------------------------------------------------------------


def test_numbers_go_on(path):
    """A journal that is opened again goes on with the next number."""
    for _ in range(3):
        with Journal(path) as journal:
            journal.write(entry())
            journal.write(entry(session=1))
    assert [1, 2, 3, 4, 5, 6] == [e.n for e in read_journal(path)]
    assert [1, 1, 3, 1, 5, 1] == [e.session for e in read_journal(path)]


def test_forked_processes(path, monkeypatch):
    """Processes that were forked write to one file, one after the other."""
    write = os.write

    def slow(file, data):
        time.sleep(0.001)  # so that others are between a number and its line
        return write(file, data)

    monkeypatch.setattr("protoserve.journal.os.write", slow)
    with Journal(path) as journal:

        def work():
            journal.make_private()
            for _ in range(25):
                journal.write(entry(peer="tcp://192.0.2.1:1"))

        children = [forked(work) for _ in range(4)]
        for pid in children:
            assert (pid, 0) == os.waitpid(pid, 0)
        journal.write(entry())
    entries = list(read_journal(path))
    assert list(range(1, 102)) == [e.n for e in entries]


def test_unfinished_line(path, caplog):
    """A line that was left unfinished is skipped; what is written later is not lost."""
    with Journal(path) as journal:
        journal.write(entry())
    with path.open("a") as file:
        file.write(entry(n=2).as_json()[:50])
    with Journal(path) as journal:
        journal.write(entry())
    assert [1, 2] == [e.n for e in read_journal(path)]
    assert "line 2 is skipped" in caplog.text


def test_only_an_unfinished_line(path):
    """A journal whose only line is unfinished can be gone on with."""
    path.write_text(entry(n=1).as_json()[:50])
    with Journal(path) as journal:
        assert 1 == journal.write(entry())


def test_long_lines(path):
    """The last entry is found, however long it is."""
    with Journal(path) as journal:
        journal.write(entry())
        journal.write(entry(raw=bytes(1 << 20)))
    with Journal(path) as journal:
        assert 3 == journal.write(entry())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no journal", "line 1: it is no JSON"),
        ("no journal\n", "line 1: it is no JSON"),
        ("{}\n", "line 1: it is no journal entry: it has no 'direction'"),
        ("[1]\n", "line 1: it is no journal entry: it has no 'direction'"),
    ],
)
def test_other_files(path, text, words):
    """A file that is something else is not written to, and not read."""
    path.write_text(text)
    with pytest.raises(JournalError, match="is not empty, and no journal"):
        Journal(path)
    with pytest.raises(JournalError, match=words):
        list(read_journal(path))
    assert text == path.read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"raw": "0g"}, "non-hexadecimal"),
        ({"raw": 7}, "it is no journal entry"),
        ({"time": "now"}, "'time'"),
        ({"direction": "up"}, "'direction'"),
        ({"session": None}, "'session'"),
    ],
)
def test_wrong_entries(path, change, words):
    """What is wrong with a line is told, with its number."""
    path.write_text(json.dumps(json.loads(entry().as_json()) | change) + "\n")
    with pytest.raises(JournalError, match="line 1") as caught:
        list(read_journal(path))
    assert words in str(caught.value)


def test_entries_of_later_versions(path):
    """Keys that are not known are left aside."""
    path.write_text(json.dumps(json.loads(entry(n=5).as_json()) | {"new": 1}) + "\n")
    assert [5] == [e.n for e in read_journal(path)]


# When it cannot be written -------------------------------------------------


def test_full_disk(caplog):
    """A full disk costs entries and one line in the log; the service goes on."""
    with Journal("/dev/full") as journal:
        service = Service(spoken, Echo(), journal=journal)
        session = service.session(PEER)
        for _ in range(5):
            session.receive_data(PING)
            service.answer(session)
        assert [PONG] * 5 == session.data_to_send()
        assert 10 == journal.lost
    assert 1 == len(caplog.records)
    assert "entries are lost: No space left on device" in caplog.text


def test_disk_with_room_again(path, monkeypatch, caplog):
    """What a failed write has left is cut off, and the journal goes on."""
    caplog.set_level(logging.WARNING)
    write, full = os.write, [True]

    def half(file, data):
        if not full[0]:
            return write(file, data)
        if len(data) % 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: len(data) // 2])

    with Journal(path) as journal:
        journal.write(entry())
        monkeypatch.setattr("protoserve.journal.os.write", half)
        full[0] = True
        for size in range(4):
            journal.write(entry(raw=bytes(size), outcome="x" * (size % 2)))
        full[0] = False
        journal.write(entry())
    lines = path.read_text().splitlines()
    assert [1, 6] == [json.loads(line)["n"] for line in lines]
    assert 4 == journal.lost
    assert 2 == len(caplog.records)
    assert "goes on; 4 entries are lost" in caplog.text


def test_closed(journal):
    """What comes after it was closed is lost, and nothing else."""
    journal.close()
    journal.close()
    journal.write(entry())
    assert 1 == journal.lost


# As a capture --------------------------------------------------------------

TSHARK = shutil.which("tshark")


def tshark(path, *fields, only):
    ran = subprocess.run(
        [TSHARK, "-r", path, "-Y", only, "-T", "fields"]
        + ["-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
        + ["-o", "ip.check_checksum:TRUE"]
        + [word for field in fields for word in ("-e", field)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [line.split("\t") for line in ran.stdout.splitlines()]


@pytest.mark.interop
@pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
def test_capture(tmp_path):
    """Wireshark reads the capture: the same bytes, right checksums, whole streams."""
    pytest.importorskip("dpkt")
    long = bytes(range(256)) * 200
    entries = [
        entry(n=1, session=1, raw=PING),
        entry(n=2, session=1, direction="out", raw=long, time=1.0),
        entry(n=3, session=1, raw=PING + b"\1", time=2.5),
    ] + [
        entry(n=4 + i, session=4 + i, transport=transport, local=local, peer=peer)
        for i, (transport, local, peer) in enumerate(
            [
                ("udp", "udp://192.0.2.1:7000", "udp://192.0.2.7:4000"),
                ("udp", "udp://[::1]:7000", "udp://[::1]:4001"),
                ("tcp", "tcp://[::1]:7000", "tcp://[fe80::1%eth0]:4002"),
                ("unix", "unix:///run/s", "unix://(unnamed)"),
            ]
        )
    ]
    path = tmp_path / "made.pcapng"
    write_pcapng(entries, path, port=4000)
    bad = "tcp.checksum.status == 0 || udp.checksum.status == 0 || "
    bad += "ip.checksum.status == 0 || tcp.analysis.flags || _ws.malformed"
    assert [] == tshark(path, "frame.number", only=bad)
    data = tshark(
        path, "tcp.srcport", "tcp.payload", only="tcp.stream == 0 && tcp.len > 0"
    )
    assert PING.hex() == data[0][1]
    assert long.hex() == "".join(d for port, d in data if port == "9000")
    assert (PING + b"\1").hex() == data[-1][1]
    ends = tshark(path, "tcp.stream", only="tcp.flags.syn == 1 || tcp.flags.fin == 1")
    assert ["0", "1", "2"] == sorted({row[0] for row in ends})
    assert 4 * 3 == len(ends)
    datagrams = tshark(path, "udp.srcport", "udp.dstport", "udp.length", only="udp")
    assert [["4000", "7000", "14"], ["4001", "7000", "14"]] == datagrams
    unix = tshark(
        path, "tcp.dstport", "tcp.payload", only="tcp.stream == 2 && tcp.len > 0"
    )
    assert [["4000", PING.hex()]] == unix


@pytest.mark.interop
@pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
def test_capture_of_dns(journal, tmp_path):
    """A capture of DNS decodes in Wireshark to what the service has decoded."""
    pytest.importorskip("dpkt")
    from examples.dns_server import app
    from protocols.dns import Query, Question

    client = Session(app.protocol, Role.CLIENT, stream=False)
    client.send(Query(questions=[Question("www.example.test")]))
    service = Service(app.protocol, app.handler, journal=journal)
    session = service.session(Peer("udp", ("192.0.2.7", 40_000)), stream=False)
    for data in client.data_to_send():
        session.receive_data(data)
    service.answer(session)
    entries = [
        attrs.evolve(e, local="udp://192.0.2.1:53") for e in read_journal(journal.path)
    ]
    path = tmp_path / "dns.pcapng"
    write_pcapng(entries, path)
    names = ("dns.id", "dns.qry.name", "dns.count.answers")
    shown = tshark(path, *names, only="dns")
    assert [
        [
            f"0x{e.header['id']:04x}",
            e.fields["questions"][0]["name"].rstrip("."),
            str(len(e.fields["answers"])),
        ]
        for e in entries
    ] == shown
