"""
``protoserve decode``: messages out of captures and out of hex.
"""

import io
import json
import os
import re
import subprocess
import sys
import types

import pytest
from rich.console import Console

from protocols import dns
from protocols import modbus as mb
from protoserve import Direction
from protoserve.captures import Decoded
from protoserve.cli import decoded as decoding
from protoserve.cli import decoded_forms as forms
from protoserve.cli.annotate import annotated
from protoserve.codec.spans import spans
from protoserve.errors import CorruptedFrameError, RemoteProtocolError
from tests.cli.kit import ROOT
from tests.packets import ACK, CLIENT, ETHERNET, RAW, SERVER, SYN, pcap, tcp, udp

pytest.importorskip("dpkt", reason="captures are read with dpkt")

MODBUS, DNS = "protocols.modbus:modbus", "protocols.dns:dns"
KEYS = [
    *("n", "time", "transport", "src", "dst", "direction"),
    *("message", "header", "fields", "raw", "error"),
]


def ask(transaction=0, count=2):
    header = mb.Mbap(transaction, function=3)
    message = mb.ReadHoldingRegisters(16, count)
    return mb.modbus.build(message, Direction.REQUEST, header=header)


def answer(transaction=0):
    header = mb.Mbap(transaction, function=3)
    message = mb.HoldingRegisters([5, 6])
    return mb.modbus.build(message, Direction.RESPONSE, header=header)


REFUSED = ask(2, 1)[:-1] + b"\0"
"""It asks for no registers."""

OPENING = [
    tcp(CLIENT, SERVER, 99, flags=SYN),
    tcp(SERVER, CLIENT, 499, flags=SYN | ACK),
]
GOOD = [*OPENING, tcp(CLIENT, SERVER, 100, ask(1)), tcp(SERVER, CLIENT, 500, answer(1))]
BAD = [*GOOD, tcp(CLIENT, SERVER, 112, REFUSED), tcp(CLIENT, SERVER, 124, ask(3))]


@pytest.fixture
def capture(tmp_path):
    """
    Give a function that writes a capture; it gives the path.
    """

    def write(packets, linktype=RAW, name="some.pcap"):
        path = tmp_path / name
        path.write_bytes(
            packets if isinstance(packets, bytes) else pcap(packets, linktype)
        )
        return path

    return write


@pytest.fixture
def stdin(monkeypatch):
    """
    Give a function that puts bytes on standard input.
    """

    def put(data):
        buffer = io.BufferedReader(io.BytesIO(data))
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=buffer))

    return put


def entries(out):
    return [json.loads(line) for line in out.splitlines()]


class TestJson:
    def test_keys(self, command, capture):
        """
        Each message is one object with the keys that all commands use.
        """
        code, out, err = command("decode", MODBUS, capture(GOOD), "--json")
        first, second = entries(out)

        assert (0, "") == (code, err)
        assert KEYS == list(first) == list(second)
        assert {
            "n": 3,
            "time": 1000.5,
            "transport": "tcp",
            "src": "192.0.2.7:40000",
            "dst": "192.0.2.1:502",
            "direction": "request",
            "message": "ReadHoldingRegisters",
            "header": {
                "transaction": 1,
                "protocol": 0,
                "length": 6,
                "unit": 1,
                "function": 3,
            },
            "fields": {"address": 16, "count": 2},
            "raw": ask(1).hex(),
            "error": None,
        } == first
        assert ("response", [5, 6]) == (
            second["direction"],
            second["fields"]["values"],
        )

    def test_malformed(self, command, capture):
        """
        What is malformed is an object as well; decoding goes on, the exit code is 1.
        """
        code, out, _ = command("decode", MODBUS, capture(BAD), "--json")
        *_, third, fourth = entries(out)

        assert 1 == code
        assert (None, None, REFUSED.hex()) == (
            third["message"],
            third["fields"],
            third["raw"],
        )
        error = third["error"]
        assert ("ReadHoldingRegisters.count", 10, "0") == (
            error["path"],
            error["offset"],
            error["found"],
        )
        assert ("ReadHoldingRegisters", None) == (fourth["message"], fourth["error"])

    @pytest.mark.parametrize(
        ("stream", "path", "offset", "found"),
        [
            (bytes.fromhex("0001 0000 0002 01 63"), "Mbap.function", 7, "99"),
            (bytes.fromhex("0001 0000 ffff 01 63"), "modbus", 4, "65535"),
            (ask()[:7], "modbus", None, "the end of the stream, 7 bytes into"),
            (ask() + ask()[3:], "modbus", 16, "768"),
        ],
    )
    def test_errors(self, command, capture, stream, path, offset, found):
        """
        Whatever is wrong, it is told in the same four words.
        """
        packets = [*OPENING, tcp(CLIENT, SERVER, 100, stream)]
        code, out, _ = command("decode", MODBUS, capture(packets), "--json")
        error = next(e["error"] for e in entries(out) if e["error"])

        assert 1 == code
        assert ["path", "offset", "expected", "found"] == list(error)
        assert (path, offset) == (error["path"], error["offset"])
        assert error["found"].startswith(found)

    @pytest.mark.parametrize(
        ("error", "path", "offset", "found"),
        [
            (CorruptedFrameError("bad escape", 9, b"x"), "modbus", 9, "bad escape"),
            (RemoteProtocolError("not now"), "ReadCoils", 0, "not now"),
        ],
    )
    def test_other_errors(self, error, path, offset, found):
        """
        So are errors that Modbus has no use for.
        """
        message = mb.ReadCoils(1, 2)
        decoded = Decoded(
            *(1, 0.0, "tcp", "", "", "request", Direction.REQUEST, message),
            header=None,
            raw=b"",
            error=error,
        )
        plain = forms.error_as_plain(mb.modbus, decoded)

        assert (path, offset, found) == (
            plain["path"],
            plain["offset"],
            plain["found"],
        )


class TestLines:
    def test_table(self, command, capture):
        """
        A line has number, time, ends and fields, and which request is answered.
        """
        code, out, _ = command("decode", MODBUS, capture(GOOD))
        heading, first, second = out.splitlines()

        assert 0 == code
        assert ["#", "seconds", "from", "→", "to", "message"] == heading.split()
        assert first.split() == [
            "3",
            "0.000000",
            "192.0.2.7:40000",
            "→",
            "192.0.2.1:502",
            "ReadHoldingRegisters",
            "address=16",
            "count=2",
        ]
        assert "HoldingRegisters (answers 3, 250.000 ms) values=[5 6]" in second

    def test_error(self, command, capture):
        """
        An error stands in its message's place.
        """
        code, out, _ = command("decode", MODBUS, capture(BAD))

        assert 1 == code
        assert "ReadHoldingRegisters.count at offset 10: expected" in out
        assert 5 == len(out.splitlines())

    def test_terminal(self, capture):
        """
        On a terminal each message is one line, in colours.
        """
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, width=90, highlight=False)
        decoding.decode_inputs(MODBUS, [str(capture(GOOD))], console=console)
        lines = file.getvalue().splitlines()

        assert 3 == len(lines)
        assert "\x1b[1;36mReadHoldingRegisters" in lines[1]

    def test_nothing_for_the_terminal(self, command, capture):
        """
        What a stranger sends reaches the terminal in printable form only.
        """
        name = dns.Question("a\\027[2J\\155.test")
        frame = dns.dns.build(dns.Query([name]), Direction.REQUEST)
        packets = [udp(CLIENT, ("192.0.2.1", 53), frame)]
        for options in ((), ("--annotate",), ("--sequence",)):
            _, out, _ = command("decode", DNS, capture(packets), *options)
            assert all(c.isprintable() or c == "\n" for c in out)


class TestAnnotate:
    def test_fields(self, command, capture):
        """
        Each message's bytes have the names and the values of their fields.
        """
        code, out, _ = command("decode", MODBUS, capture(GOOD), "--annotate")

        assert 0 == code
        assert "0007  03                       function     3 (tag)" in out
        assert re.search(r"^000a  00 02 +count +2$", out, re.MULTILINE)

    def test_fault(self, command, capture):
        """
        The faulty byte is marked, with what was expected.
        """
        _, out, _ = command("decode", MODBUS, capture(BAD), "--annotate")
        lines = out.splitlines()
        at = next(i for i, line in enumerate(lines) if line == "      ^^")

        assert lines[at - 1].startswith("000a  00 00 ")
        assert lines[at + 1].startswith("ReadHoldingRegisters.count at offset 10: ")

    def test_colours(self):
        """
        On a terminal neighbours differ in colour, and the faulty byte is reversed.
        """
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, width=90, highlight=False)
        annotated(console, spans(mb.modbus, REFUSED, Direction.REQUEST), REFUSED)
        shown = file.getvalue()

        assert "\x1b[36m00 02" in shown
        assert "\x1b[32m00 00" in shown
        assert "\x1b[1;7;31m00\x1b[0m" in shown


class TestSequence:
    def test_diagram(self, command, capture):
        """
        The diagram has the ends by name, and an arrow for each message.
        """
        code, out, _ = command("decode", MODBUS, capture(BAD), "--sequence")

        assert 1 == code
        assert [
            "sequenceDiagram",
            "    participant p1 as client 192.0.2.7",
            "    participant p2 as server 192.0.2.1:502",
            "    p1->>p2: ReadHoldingRegisters address=16 count=2",
            "    p2-->>p1: HoldingRegisters values=[5 6]",
        ] == out.splitlines()[:5]
        assert out.splitlines()[5].startswith("    p1-xp2: ReadHoldingRegisters.count")

    def test_ends(self, command, capture, monkeypatch):
        """
        Only so many ends are drawn.
        """
        monkeypatch.setattr(forms, "_MOST_ENDS", 3)
        hosts = [(f"192.0.2.{n}", 999) for n in range(10, 20)]
        packets = [tcp(host, SERVER, 5, ask()) for host in hosts]
        _, out, _ = command("decode", MODBUS, capture(packets), "--sequence")

        assert (3, 2) == (out.count("participant"), out.count("->>"))
        assert out.endswith("%% 8 more messages are not shown\n")

    def test_equal_ports(self, command, capture):
        """
        Where nobody knows who serves, an end is its address.
        """
        one, two = ("192.0.2.1", 502), ("192.0.2.2", 502)
        packets = [tcp(one, two, 5, ask())]
        _, out, _ = command("decode", MODBUS, capture(packets), "--sequence")

        assert "participant p1 as 192.0.2.1:502" in out

    def test_hex(self, command):
        """
        A message that is of no capture goes from a peer to a peer.
        """
        _, out, _ = command("decode", MODBUS, "--sequence", ask().hex())

        assert "p1->>p1: ReadHoldingRegisters" in out

    def test_bounded(self, command, capture, monkeypatch):
        """
        Only so many messages are drawn; how many more there are is told.
        """
        monkeypatch.setattr(forms, "_MOST_ARROWS", 3)
        packets = [tcp(CLIENT, SERVER, 100 + 12 * i, ask(i)) for i in range(10)]
        _, out, _ = command("decode", MODBUS, capture(packets), "--sequence")

        assert 3 == out.count("->>")
        assert "    %% 7 more messages are not shown" == out.splitlines()[-1]

    def test_text(self, command, capture):
        """
        What Mermaid would take for its own is written so that it does not.
        """
        question = dns.Question("a#b;c.test")
        frame = dns.dns.build(dns.Query([question]), Direction.REQUEST)
        packets = [udp(CLIENT, ("192.0.2.1", 53), frame)]
        _, out, _ = command("decode", DNS, capture(packets), "--sequence")

        assert "a#35;b#59;c.test" in out


class TestHex:
    def test_messages(self, command):
        """
        Each argument is one message; its direction is whichever fits.
        """
        code, out, _ = command("decode", DNS, "--json", *self.both())
        one, two = entries(out)

        assert 0 == code
        assert (1, "request", "Query") == (one["n"], one["direction"], one["message"])
        assert (2, "response", "Response") == (
            two["n"],
            two["direction"],
            two["message"],
        )
        assert [None] * 4 == [one[k] for k in ("time", "transport", "src", "dst")]

    def both(self):
        body = [dns.Question("a.test")]
        return (
            dns.dns.build(dns.Query(body), Direction.REQUEST).hex(),
            dns.dns.build(dns.Response(body), Direction.RESPONSE).hex(" "),
        )

    @pytest.mark.parametrize("text", ["{}", "0x{}", "hex:{}", " {} "])
    def test_spellings(self, command, text):
        """
        Hex may be written as it usually is.
        """
        code, out, _ = command("decode", MODBUS, text.format(ask().hex()))

        assert (0, "     1  ReadHoldingRegisters address=16 count=2\n") == (code, out)

    def test_direction(self, command):
        """
        The direction may be given: then only its table counts.
        """
        code, out, _ = command(
            "decode", MODBUS, ask().hex(), "--direction", "response", "--json"
        )
        (entry,) = entries(out)

        assert (1, "response") == (code, entry["direction"])
        assert entry["error"]["path"].startswith("HoldingRegisters")

    def test_malformed(self, command):
        """
        Of two errors the one is told that comes later in the message.
        """
        code, out, _ = command("decode", MODBUS, REFUSED.hex())

        assert 1 == code
        assert "ReadHoldingRegisters.count at offset 10" in out

    def test_standard_input(self, command, stdin):
        """
        Standard input may hold hex, a message on each line.
        """
        stdin(f"{ask(1).hex(' ')}\n\n{answer(1).hex()}\n".encode())
        code, out, _ = command("decode", MODBUS, "-", "--json")

        assert 0 == code
        assert [1, 2] == [entry["n"] for entry in entries(out)]


class TestCaptures:
    def test_standard_input(self, command, stdin):
        """
        Standard input may be a capture.
        """
        stdin(pcap(GOOD))
        code, out, _ = command("decode", MODBUS, "-", "--json")

        assert (0, [3, 4]) == (code, [entry["n"] for entry in entries(out)])

    def test_several(self, command, capture):
        """
        Several files are decoded one after the other.
        """
        paths = capture(GOOD), capture(GOOD, name="other.pcap")
        _, out, _ = command("decode", MODBUS, *paths, "--json")

        assert [3, 4, 3, 4] == [entry["n"] for entry in entries(out)]

    def test_cut_file(self, command, capture):
        """
        A file that ends early is decoded up to there, and the place is told.
        """
        path = capture(pcap(GOOD)[:-3])
        code, out, err = command("decode", MODBUS, path, "--json")

        assert (1, [3]) == (code, [entry["n"] for entry in entries(out)])
        assert f"protoserve: {path}: packet 4 at byte " in err
        assert "the file ends inside of it" in err

    def test_unreadable(self, command, capture):
        """
        Where a capture cannot be read any further, packet and place are told.
        """
        path = capture(pcap(GOOD) + b"\xff" * 40)
        code, out, err = command("decode", MODBUS, path, "--json")

        assert (1, 2) == (code, len(entries(out)))
        assert f"protoserve: {path}: packet 5 at byte " in err
        assert 1 == len(err.splitlines())

    def test_no_messages(self, command, capture):
        """
        Where nothing is at the protocol's port, that is told, with the way out.
        """
        code, out, err = command("decode", DNS, capture(GOOD), "--json")

        assert (0, "") == (code, out)
        assert "none of its 4 packets has dns at port 53" in err
        assert "--port N" in err

    def test_ports(self, command, capture):
        """
        Ports that are given stand in for the protocol's own.
        """
        here = ("192.0.2.1", 5020)
        packets = [tcp(CLIENT, here, 1, ask()), tcp(CLIENT, SERVER, 1, ask())]
        arguments = ("decode", MODBUS, capture(packets), "--json")
        _, out, _ = command(*arguments, "--port", "5020", "--port", "5021")

        assert ["192.0.2.1:5020"] == [entry["dst"] for entry in entries(out)]

    def test_link_type(self, command, capture):
        """
        Packets of a link type that is not known are told of.
        """
        code, _, err = command("decode", MODBUS, capture(GOOD, 147))

        assert 1 == code
        assert "found 147 (4 packets)" in err

    def test_ethernet(self, command, capture):
        """
        A capture of an Ethernet interface is decoded like any other.
        """
        framed = [bytes(12) + b"\x08\x00" + packet for packet in GOOD]
        _, out, _ = command("decode", MODBUS, capture(framed, ETHERNET), "--json")

        assert 2 == len(entries(out))


class TestRefused:
    def test_no_such_file(self, refused, capture):
        """
        A file that is not there is told, with the nearest name.
        """
        path = capture(GOOD)
        line = refused("decode", MODBUS, path.with_name("sone.pcap"))

        assert f"did you mean {path}?" in line

    def test_neither(self, refused):
        """
        What is neither a file nor hex is told so.
        """
        assert "expected a capture file, - or bytes as hex" in refused(
            "decode", MODBUS, "00zz"
        )

    def test_no_capture(self, refused, capture):
        """
        A file that is no capture is told by its first bytes.
        """
        line = refused("decode", MODBUS, capture(b"# notes\n"))

        assert (
            "expected a pcap or pcapng file, found one that starts with 23 20" in line
        )

    def test_folder(self, refused, tmp_path):
        """
        A folder is no file.
        """
        assert "cannot read" in refused("decode", MODBUS, tmp_path)

    def test_standard_input(self, refused, stdin):
        """
        What is on standard input has to be one or the other.
        """
        stdin(b"00ff\nhello\n")
        assert "-: line 2: expected a capture or bytes as hex, found 'hello'" in (
            refused("decode", MODBUS, "-")
        )

    def test_too_much(self, refused, stdin, monkeypatch):
        """
        Hex on standard input has a largest size.
        """
        monkeypatch.setattr(decoding, "_MOST_HEX", 10)
        stdin(b"00" * 6)
        assert "at most 10 characters of hex" in refused("decode", MODBUS, "-")

    def test_no_folder(self, refused):
        """
        Where there is not even the folder, there is nothing to suggest.
        """
        assert "did you mean" not in refused("decode", MODBUS, "nowhere/x.pcap")

    def test_nothing(self, refused, stdin):
        """
        Nothing on standard input is told as well.
        """
        stdin(b"\n")
        assert "found nothing" in refused("decode", MODBUS, "-")

    def test_no_ports(self, refused, capture):
        """
        A protocol without ports of its own needs to be told where it is.
        """
        line = refused("decode", "tests.cli.station:spoken", capture(GOOD))

        assert "no ports of its own" in line
        assert "--port N" in line

    @pytest.mark.parametrize(
        "options",
        [("--json", "--sequence"), ("--json", "--annotate")],
    )
    def test_forms(self, refused, capture, options):
        """
        Forms exclude each other.
        """
        line = refused("decode", MODBUS, capture(GOOD), *options)

        assert " and ".join(options) in line

    def test_direction(self, refused):
        """
        A direction is one of two; the nearest is suggested.
        """
        assert "did you mean request?" in refused(
            "decode", MODBUS, "00", "--direction", "requestt"
        )

    def test_without_dpkt(self, refused, capture, monkeypatch):
        """
        Without the library that reads captures, what to install is told.
        """
        monkeypatch.setitem(sys.modules, "dpkt", None)
        monkeypatch.setitem(sys.modules, "dpkt.pcap", None)

        assert "protoserve[captures]" in refused("decode", MODBUS, capture(GOOD))


class TestLong:
    def test_progress(self, capture, monkeypatch, capsys):
        """
        A long file has a progress bar where standard error is a terminal.
        """
        monkeypatch.setattr(decoding, "_LONG", 100)
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        decoding.decode_inputs(MODBUS, [str(capture(GOOD))], as_json=True)
        shown = capsys.readouterr()

        assert 2 == len(entries(shown.out))
        assert "━" in shown.err

    def test_no_progress(self, capture, monkeypatch, capsys):
        """
        There is none where it is not.
        """
        monkeypatch.setattr(decoding, "_LONG", 100)
        decoding.decode_inputs(MODBUS, [str(capture(GOOD))], as_json=True)

        assert "" == capsys.readouterr().err

    def test_nobody_reads(self, capture):
        """
        When who reads has gone, as head does, it ends without a word.
        """
        packets = [tcp(CLIENT, SERVER, 100 + 12 * i, ask(i)) for i in range(3000)]
        path = capture(packets)
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "wb") as nobody:
            done = subprocess.run(
                [sys.executable, "-m", "protoserve", "decode", MODBUS, path, "--json"],
                stdout=nobody,
                stderr=subprocess.PIPE,
                cwd=ROOT,
                timeout=60,
                text=True,
            )
        assert (0, "") == (done.returncode, done.stderr)
