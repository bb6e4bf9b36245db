"""
The example server is asked by dnspython, and each of the two reads what the other
has written.
"""

import socket
from urllib.parse import urlsplit

import pytest

from protocols import dns
from protoserve import Direction

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def library(require_module):
    """
    Give dnspython, with the parts that are used here.
    """
    for part in (
        "message",
        "query",
        "flags",
        "rcode",
        "rrset",
        "zone",
        "update",
        "edns",
    ):
        require_module(f"dns.{part}")
    return require_module("dns")


@pytest.fixture(scope="module")
def ports(served):
    with served(
        "examples.dns_server:app", "udp://127.0.0.1:0", "tcp://127.0.0.1:0"
    ) as urls:
        yield [urlsplit(url).port for url in urls]


@pytest.fixture(params=["udp", "tcp"])
def ask(request, library, ports):
    """
    Give a function that makes a query and gives dnspython's response.
    """
    send = getattr(library.query, request.param)
    port = ports[request.param == "tcp"]

    def run(name, kind, **options):
        query = library.message.make_query(name, kind, **options)
        return send(query, "127.0.0.1", port=port, timeout=60)

    return run


class TestServer:
    def test_answer(self, ask):
        """
        The library matches the identifier and the question, and finds the answer.
        """
        response = ask("www.example.test", "A")

        assert [str(r) for r in response.answer] == [
            "www.example.test. 3600 IN CNAME example.test.",
            "example.test. 3600 IN A 192.0.2.1",
        ]

    @pytest.mark.parametrize("kind", ["A", "AAAA", "NS", "MX", "TXT", "SOA", "CAA"])
    def test_types(self, ask, kind):
        """
        The library reads records of every kind.
        """
        response = ask("example.test", kind)

        assert [r.rdtype.name for r in response.answer] == [kind]

    def test_edns(self, ask, library):
        """
        The library finds our EDNS, and DNSSEC's flag in it.
        """
        response = ask("example.test", "A", want_dnssec=True)

        assert response.edns == 0
        assert response.ednsflags & library.flags.DO

    def test_extended_code(self, ask, library):
        """
        The library puts the extended response code together.
        """
        assert ask("example.test", "A", use_edns=1).rcode() == library.rcode.BADVERS

    def test_no_such_name(self, ask, library):
        """
        A name that does not exist comes with the SOA record and its short TTL.
        """
        response = ask("nothing.example.test", "A")

        assert response.rcode() == library.rcode.NXDOMAIN
        assert [(r.rdtype.name, r.ttl) for r in response.authority] == [("SOA", 300)]

    def test_transfer(self, library, ports):
        """
        The library makes a zone of a transfer.
        """
        zone = library.zone.Zone("example.test")
        library.query.inbound_xfr("127.0.0.1", zone, port=ports[1], timeout=60)

        assert str(zone.find_rrset("www", "CNAME")[0]) == "@"

    def test_update(self, library, ports):
        """
        A dynamic update is understood, and not implemented.
        """
        update = library.update.UpdateMessage("example.test")
        update.present("www", "CNAME")
        update.delete("www")
        update.add("new", 60, "A", "192.0.2.7")
        response = library.query.udp(update, "127.0.0.1", port=ports[0], timeout=60)

        assert response.rcode() == library.rcode.NOTIMP

    def test_malformed(self, library, ports):
        """
        What has a header and is malformed is a format error.
        """
        query = library.message.make_query("example.test", "A")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(60)
            sock.sendto(query.to_wire()[:-3], ("127.0.0.1", ports[0]))
            response = library.message.from_wire(sock.recv(65_535))

        assert response.rcode() == library.rcode.FORMERR
        assert response.id == query.id


RECORDS = """
a.example.test. 300 IN A 192.0.2.1
a.example.test. 300 IN AAAA 2001:db8::1
a.example.test. 300 IN NS ns.example.test.
b.example.test. 300 IN CNAME a.example.test.
example.test. 300 IN SOA ns.example.test. admin.example.test. 1 2 3 4 5
1.2.0.192.in-addr.arpa. 300 IN PTR a.example.test.
a.example.test. 300 IN HINFO "VAX" "UNIX"
example.test. 300 IN MX 10 mail.example.test.
a.example.test. 300 IN TXT "one" "two \\"quoted\\" \\000\\255"
_sip._tcp.example.test. 300 IN SRV 1 2 5060 a.example.test.
example.test. 300 IN NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:a@example.test!" .
d.example.test. 300 IN DNAME example.org.
example.test. 300 IN DS 12345 8 1 0123456789abcdef0123456789abcdef01234567
example.test. 300 IN DNSKEY 257 3 8 AwEAAcNEU67LJI5GEgF9QLNqLO1SMq1E
a.example.test. 300 IN RRSIG A 8 3 300 20300101000000 20200101000000 1 example.test. AAEC
a.example.test. 300 IN NSEC b.example.test. A MX RRSIG NSEC TYPE1234
a.example.test. 300 IN NSEC3 1 1 12 aabbccdd 2vptu5timamqttgl4luu9kg21e0aor3s A RRSIG
example.test. 300 IN NSEC3PARAM 1 0 12 aabbccdd
example.test. 300 IN CAA 128 issue "ca.example.net"
example.test. 300 IN SVCB 1 svc.example.test. alpn="h2,h3" port="8443"
example.test. 300 IN HTTPS 0 pool.example.test.
example.test. 300 IN SSHFP 1 1 0123456789abcdef0123456789abcdef01234567
a\\.b\\032\\200.example.test. 300 IN TYPE65280 \\# 3 0a0b0c
"""


class TestFormat:
    @pytest.fixture
    def sets(self, library):
        fields = [line.split(maxsplit=4) for line in RECORDS.strip().splitlines()]
        return [
            library.rrset.from_text(name, int(ttl), rrclass, kind, text)
            for name, ttl, rrclass, kind, text in fields
        ]

    def test_read(self, library, sets):
        """
        What the library writes is read, and written again so that it is the same to it.
        """
        message = library.message.Message(id=7)
        message.flags = library.flags.QR
        message.answer = list(sets)
        wire = message.to_wire()
        parsed = dns.dns.parse(wire, Direction.RESPONSE)
        again = dns.dns.build(parsed.message, Direction.RESPONSE, header=parsed.header)

        assert len(parsed.message.answers) == len(RECORDS.strip().splitlines())
        assert library.message.from_wire(again) == message
        assert {type(record.rdata) for record in parsed.message.answers} >= set(
            dns.RDATA.values()
        ) - {dns.OPT, dns.TSIG}

    def test_names(self, library, sets):
        """
        Both give the same labels for every name.
        """
        message = library.message.Message(id=7)
        message.answer = list(sets)
        message.flags = library.flags.QR
        parsed = dns.dns.parse(message.to_wire(), Direction.RESPONSE)
        expected = [found.name.labels[:-1] for found in sets]

        assert expected == [dns.to_labels(r.name) for r in parsed.message.answers]

    def test_options(self, library):
        """
        Options that the library writes are found, with the numbers beside them.
        """
        cookie = library.edns.CookieOption(b"12345678", b"")
        query = library.message.make_query(
            "example.test", "A", use_edns=0, payload=1400, options=[cookie]
        )
        message = dns.dns.parse(query.to_wire(), Direction.REQUEST).message

        assert dns.Edns.of(message) == dns.Edns(
            1400, options=[dns.Option(dns.OptionCode.COOKIE, b"12345678")]
        )

    def test_signed(self, library, require_module):
        """
        A TSIG record that the library writes is found.
        """
        require_module("dns.tsigkeyring")
        key = library.tsigkeyring.from_text({"key.test": "c2VjcmV0c2VjcmV0c2VjcmV0"})
        query = library.message.make_query("example.test", "A")
        query.use_tsig(key)
        wire = query.to_wire()
        parsed = dns.dns.parse(wire, Direction.REQUEST)
        record = parsed.message.additionals[-1]

        assert record.name == "key.test"
        assert record.rdata.algorithm == "hmac-sha256"
        assert record.rdata.mac == query.mac
        assert (
            dns.dns.build(parsed.message, Direction.REQUEST, header=parsed.header)
            == wire
        )
