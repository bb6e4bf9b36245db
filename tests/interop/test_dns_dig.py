"""
The example server is asked by dig, of BIND 9.
"""

import re
import socket
import subprocess
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def ports(served):
    with served(
        "examples.dns_server:app", "udp://127.0.0.1:0", "tcp://127.0.0.1:0"
    ) as urls:
        yield [str(urlsplit(url).port) for url in urls]


def asked(program, port, *arguments):
    """
    Run dig against a port of the loopback.
    """
    return subprocess.run(
        [program, "@127.0.0.1", "-p", port, "+tries=1", "+time=30", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def dig(require_program, ports):
    """
    Give a function that runs dig over UDP, or TCP, and gives what it printed.
    """
    program = require_program("dig")

    def run(*arguments, tcp=False):
        options = ["+tcp"] if tcp else ["+notcp", "+ignore"]
        return asked(program, ports[tcp], *options, *arguments)

    return run


def words(text):
    """
    Split dig's lines by white space.
    """
    return [line.split() for line in text.splitlines() if line.strip()]


def status(text):
    return re.search(r"status: (\w+)", text)[1]


def flags(text):
    return re.search(r"flags: ([a-z ]*);", text)[1].split()


def section(text, name):
    found = re.search(rf";; {name} SECTION:\n(.*?)\n\n", text, re.DOTALL)
    return words(found[1]) if found else []


WWW = [
    ["www.example.test.", "3600", "IN", "CNAME", "example.test."],
    ["example.test.", "3600", "IN", "A", "192.0.2.1"],
]


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
class TestAnswers:
    def test_alias(self, dig, tcp):
        """
        An alias is followed to the address.
        """
        assert words(dig("+noall", "+answer", "www.example.test", tcp=tcp)) == WWW

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("A", ["192.0.2.1"]),
            ("AAAA", ["2001:db8::1"]),
            ("NS", ["ns1.example.test."]),
            ("MX", ["10 mail.example.test."]),
            ("TXT", ['"v=spf1 mx -all"']),
            ("CAA", ['0 issue "ca.example.net"']),
            (
                "SOA",
                ["ns1.example.test. admin.example.test. 1 7200 900 1209600 300"],
            ),
        ],
    )
    def test_types(self, dig, tcp, kind, expected):
        """
        Records of every kind are understood.
        """
        assert expected == dig("+short", "example.test", kind, tcp=tcp).splitlines()

    def test_strings(self, dig, tcp):
        """
        A TXT record has several strings.
        """
        answer = dig("txt.example.test", "TXT", "+short", tcp=tcp)

        assert answer == '"hello" "world"\n'

    def test_service(self, dig, tcp):
        """
        An SRV record brings the address of its target.
        """
        answer = dig("_sip._tcp.example.test", "SRV", tcp=tcp)

        assert section(answer, "ANSWER")[0][4:] == [
            "0",
            "5",
            "5060",
            "sip.example.test.",
        ]
        assert section(answer, "ADDITIONAL")[0][4] == "192.0.2.60"

    def test_case(self, dig, tcp):
        """
        A name is found in any case, and answered in the case asked.
        """
        answer = dig("wWw.EXAMPLE.tEst", tcp=tcp)

        assert section(answer, "QUESTION")[0][0] == ";wWw.EXAMPLE.tEst."
        assert section(answer, "ANSWER")[0][0] == "wWw.EXAMPLE.tEst."

    def test_no_such_name(self, dig, tcp):
        """
        A name that does not exist is denied with the SOA record.
        """
        answer = dig("nothing.example.test", tcp=tcp)

        assert status(answer) == "NXDOMAIN"
        assert "aa" in flags(answer)
        assert [r[3] for r in section(answer, "AUTHORITY")] == ["SOA"]

    @pytest.mark.parametrize("name", ["www", "_tcp", "txt"])
    def test_no_such_data(self, dig, tcp, name):
        """
        A name without such records is denied with the SOA record and NOERROR.
        """
        answer = dig(f"{name}.example.test", "SRV", tcp=tcp)

        assert status(answer) == "NOERROR"
        assert [r[3] for r in section(answer, "AUTHORITY")] == ["SOA"]

    def test_elsewhere(self, dig, tcp):
        """
        A name outside the zone is refused.
        """
        answer = dig("www.example.org", tcp=tcp)

        assert status(answer) == "REFUSED"
        assert "aa" not in flags(answer)

    def test_class(self, dig, tcp):
        """
        Another class than IN is refused.
        """
        assert status(dig("CH", "version.bind", "TXT", tcp=tcp)) == "REFUSED"

    @pytest.mark.parametrize("opcode", ["STATUS", "NOTIFY", "UPDATE", "15"])
    def test_opcode(self, dig, tcp, opcode):
        """
        Operations other than queries are not implemented.
        """
        answer = dig(f"+opcode={opcode}", "example.test", "SOA", tcp=tcp)

        assert status(answer) == "NOTIMP"

    def test_options(self, dig, tcp):
        """
        Who speaks EDNS is answered by EDNS, others are not.
        """
        assert "EDNS: version: 0" in dig("+edns=0", "example.test", tcp=tcp)
        assert "EDNS" not in dig("+noedns", "example.test", tcp=tcp)

    def test_version(self, dig, tcp):
        """
        A later version of EDNS is refused with ours.
        """
        answer = dig("+edns=1", "+noednsnegotiation", "example.test", tcp=tcp)

        assert status(answer) == "BADVERS"
        assert section(answer, "ANSWER") == []

    def test_delegation(self, dig, tcp):
        """
        A delegated name is referred to its servers, with glue.
        """
        answer = dig("host.sub.example.test", tcp=tcp)

        assert "aa" not in flags(answer)
        assert section(answer, "AUTHORITY")[0][4] == "ns.sub.example.test."
        assert section(answer, "ADDITIONAL")[0][4] == "192.0.2.54"

    def test_wildcard(self, dig, tcp):
        """
        A wildcard answers with the name that was asked for.
        """
        answer = dig("+noall", "+answer", "any.wild.example.test", tcp=tcp)

        assert words(answer) == [
            ["any.wild.example.test.", "3600", "IN", "A", "192.0.2.99"]
        ]


class TestTransfer:
    def test_tcp(self, dig):
        """
        A zone is transferred with its SOA record first and last.
        """
        every = [
            line[3]
            for line in words(dig("example.test", "AXFR", tcp=True))
            if not line[0].startswith(";")
        ]

        assert every[0] == every[-1] == "SOA"
        assert every.count("SOA") == 2
        assert {"A", "AAAA", "NS", "MX", "TXT", "CNAME", "SRV", "CAA"} < set(every)

    def test_part(self, dig):
        """
        A name that is no zone is not transferred.
        """
        assert "Transfer failed" in dig("www.example.test", "AXFR", tcp=True)


def free_port():
    """
    Find a port that is free for UDP and TCP, where the system takes none by itself.
    """
    for port in range(20_053, 30_000, 100):
        with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            try:
                udp.bind(("127.0.0.1", port))
                tcp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    pytest.fail("no port is free")


class TestSize:
    def test_truncated(self, dig):
        """
        An answer that is too long for a datagram is truncated.
        """
        answer = dig("+noedns", "long.example.test", "TXT")

        assert "tc" in flags(answer)
        assert section(answer, "ANSWER") == []

    def test_large_datagram(self, dig):
        """
        Who can take it gets a larger datagram.
        """
        answer = dig("+bufsize=4096", "long.example.test", "TXT")

        assert "tc" not in flags(answer)
        assert len(section(answer, "ANSWER")) == 1

    def test_any(self, dig):
        """
        ANY is answered in full over TCP, by one set of records over UDP.
        """
        small = words(dig("+noall", "+answer", "example.test", "ANY"))
        whole = words(dig("+noall", "+answer", "example.test", "ANY", tcp=True))

        assert len(small) == 1
        assert {line[3] for line in whole} == {
            "SOA", "NS", "A", "AAAA", "MX", "TXT", "CAA",
        }  # fmt: skip

    def test_fallback(self, require_program, served):
        """
        By itself dig asks again over TCP.
        """
        program = require_program("dig")
        port = free_port()
        urls = [f"{transport}://127.0.0.1:{port}" for transport in ("udp", "tcp")]
        with served("examples.dns_server:app", *urls):
            question = ["long.example.test", "TXT"]
            answer = asked(program, str(port), "+noall", "+answer", *question)

        assert answer.count('"' + "x" * 250 + '"') == 8
