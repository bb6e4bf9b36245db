"""
Zones, and the example server that answers from one, without any socket.
"""

import pytest

from examples.dns_server import ZONE, app
from protocols import dns
from protoserve import Direction, Peer, Role, Session
from protoserve.events import NEED_DATA


def zone(*records):
    soa = dns.record("test", dns.SOA("ns.test", "admin.test"), ttl=100)
    return dns.Zone("test", [soa, *records])


def question(name, kind="A", rrclass=dns.RRClass.IN):
    return dns.Question(name, dns.RRType[kind], rrclass)


class TestDefinition:
    def test_without_soa(self):
        """
        A zone needs its SOA record.
        """
        with pytest.raises(ValueError, match="one SOA"):
            dns.Zone("test", [dns.record("test", dns.NS("ns.test"))])

    def test_two_soa(self):
        """
        A zone has no second SOA record.
        """
        with pytest.raises(ValueError, match="one SOA"):
            zone(dns.record("TEST", dns.SOA("a", "b")))

    @pytest.mark.parametrize("name", [".", "tes", "atest", "test.a"])
    def test_outside(self, name):
        """
        A record outside the zone is refused.
        """
        with pytest.raises(ValueError, match="not in the zone"):
            zone(dns.record(name, dns.A("192.0.2.1")))

    def test_alias_with_others(self):
        """
        RFC 1034 section 3.6.2: an alias has no other records.
        """
        with pytest.raises(ValueError, match="no other records"):
            zone(
                dns.record("a.test", dns.A("192.0.2.1")),
                dns.record("A.test", dns.CNAME("b.test")),
            )

    def test_root(self):
        """
        The root can be a zone.
        """
        root = dns.Zone(
            ".",
            [
                dns.record(".", dns.SOA("a", "b")),
                dns.record("test", dns.A("192.0.2.1")),
            ],
        )

        assert root.covers("anything.at.all")
        assert root.answer(question("test")).answers[0].name == "test"
        assert root.answer(question("no")).rcode == dns.Rcode.NXDOMAIN


class TestAnswers:
    def test_alias_to_nothing(self):
        """
        RFC 2308 section 2.1: an alias to a name that does not exist is NXDOMAIN.
        """
        found = zone(dns.record("a.test", dns.CNAME("b.test"))).answer(
            question("a.test")
        )

        assert found.rcode == dns.Rcode.NXDOMAIN
        assert [r.type for r in found.answers] == [dns.RRType.CNAME]
        assert [r.type for r in found.authorities] == [dns.RRType.SOA]

    def test_alias_elsewhere(self):
        """
        An alias out of the zone is not followed.
        """
        found = zone(dns.record("a.test", dns.CNAME("b.example"))).answer(
            question("a.test")
        )

        assert found.rcode == dns.Rcode.NOERROR
        assert len(found.answers) == 1
        assert found.authorities == []

    def test_alias_asked_for(self):
        """
        Who asks for the alias itself gets no more.
        """
        found = zone(dns.record("a.test", dns.CNAME("test"))).answer(
            question("a.test", "CNAME")
        )

        assert [r.type for r in found.answers] == [dns.RRType.CNAME]

    def test_alias_loop(self):
        """
        Aliases that go round end some time.
        """
        found = zone(
            dns.record("a.test", dns.CNAME("b.test")),
            dns.record("b.test", dns.CNAME("a.test")),
        ).answer(question("a.test"))

        assert 2 <= len(found.answers) <= 16

    def test_alias_as_bytes(self):
        """
        An alias whose data is bytes is answered, not followed.
        """
        alias = dns.ResourceRecord("a.test", dns.RRType.CNAME, rdata=b"\1b\0")

        assert zone(alias).answer(question("a.test")).answers == [alias]

    def test_negative_ttl(self):
        """
        RFC 2308 section 3: a denial lives as long as the SOA's smaller number says.
        """
        found = zone().answer(question("a.test"))

        assert [r.ttl for r in found.authorities] == [100]

    def test_wildcard(self):
        """
        RFC 4592 section 2.2.1: a wildcard answers for names that do not exist.
        """
        wild = zone(
            dns.record("*.test", dns.TXT([b"wild"])),
            dns.record("a.b.test", dns.A("192.0.2.1")),
        )

        def answered(name, kind="TXT"):
            found = wild.answer(question(name, kind))
            return found.rcode.name, [r.name for r in found.answers]

        assert answered("x.test") == ("NOERROR", ["x.test"])
        assert answered("x.y.test") == ("NOERROR", ["x.y.test"])
        assert answered("x.test", "A") == ("NOERROR", [])
        assert answered("b.test") == ("NOERROR", [])
        assert answered("x.b.test") == ("NXDOMAIN", [])
        assert answered("x.a.b.test") == ("NXDOMAIN", [])

    def test_referral(self):
        """
        RFC 1034 section 4.3.2: what is delegated is referred to its servers.
        """
        cut = zone(
            dns.record("sub.test", dns.NS("ns.sub.test")),
            dns.record("sub.test", dns.DS(1, 2, 3, b"4")),
            dns.record("ns.sub.test", dns.A("192.0.2.1")),
            dns.record("www.test", dns.CNAME("a.sub.test")),
        )
        found = cut.answer(question("a.sub.test"))

        assert not found.authoritative
        assert found.answers == []
        assert [r.type for r in found.authorities] == [dns.RRType.NS]
        assert [r.name for r in found.additionals] == ["ns.sub.test"]
        assert cut.answer(question("ns.sub.test")).answers == []
        assert cut.answer(question("sub.test", "DS")).authoritative
        assert cut.answer(question("www.test")).authoritative

    def test_additional(self):
        """
        RFC 1035 section 3.3.9: addresses of the hosts that an answer names come along.
        """
        found = zone(
            dns.record("test", dns.MX(1, "m.test")),
            dns.record("test", dns.MX(2, "M.test")),
            dns.record("test", dns.MX(3, "m.example")),
            dns.record("m.test", dns.AAAA("2001:db8::1")),
            dns.record("m.test", dns.A("192.0.2.1")),
        ).answer(question("test", "MX"))

        assert [r.type.name for r in found.additionals] == ["A", "AAAA"]

    def test_transfer_in_parts(self):
        """
        RFC 5936 section 2.2: a large zone is transferred by several messages.
        """
        large = zone(
            *(dns.record(f"{i}.test", dns.TXT([bytes(200)])) for i in range(300))
        )
        parts = list(large.transfer())
        records = [record for part in parts for record in part]

        assert len(parts) > 3
        assert records[0] == records[-1] == large.soa
        assert len(records) == 302
        for part in parts:
            frame = dns.dns.build(dns.Response(answers=part), Direction.RESPONSE)
            assert len(frame) <= 16_384 + 12
            assert dns.dns.parse(frame, Direction.RESPONSE).message.answers == part


class Conversation:
    """
    A client and the example server, joined in memory.
    """

    def __init__(self, *, stream):
        transport = "tcp" if stream else "udp"
        peer = Peer(transport, ("192.0.2.200", 5300))
        self.server = Session(dns.dns, Role.SERVER, peer, stream=stream)
        self.client = Session(dns.dns, Role.CLIENT, stream=stream)

    def feed(self, data):
        """
        Let the server answer some bytes; give what the client receives.
        """
        self.server.receive_data(data)
        while (event := self.server.next_event()) is not NEED_DATA:
            app.done(app.dispatcher.handle(self.server, event))
        for answer in self.server.data_to_send():
            self.client.receive_data(answer)
        received = []
        while (event := self.client.next_event()) is not NEED_DATA:
            received.append(event)
        return received

    def ask(self, *questions, **sections):
        """
        Send a query; give the responses.
        """
        header = sections.pop("header", dns.Header(id=0x1234))
        self.client.send(dns.Query(list(questions), **sections), header=header)
        return self.feed(b"".join(self.client.data_to_send()))


def udp(*questions, **sections):
    """
    Ask by a datagram; give header and response.
    """
    (event,) = Conversation(stream=False).ask(*questions, **sections)
    return event.header, event.message


class TestServer:
    def test_header(self):
        """
        A reply has the query's identifier, and flags of its own.
        """
        header = dns.Header(
            0x4321,
            authoritative=True,
            truncated=True,
            recursion_desired=True,
            recursion_available=True,
            reserved=True,
            authentic_data=True,
            checking_disabled=True,
            rcode=dns.Rcode.REFUSED,
        )
        replied, _ = udp(question("example.test"), header=header)

        assert replied == dns.Header(
            0x4321,
            response=True,
            authoritative=True,
            recursion_desired=True,
            checking_disabled=True,
        )

    def test_question(self):
        """
        The question comes back as it was asked.
        """
        asked = question("WWW.example.TEST")

        assert udp(asked)[1].questions == [asked]
        assert udp(asked)[1].answers[0].name == "WWW.example.TEST"

    @pytest.mark.parametrize(
        ("asked", "code"),
        [
            ([question("example.test")], "NOERROR"),
            ([question("no.example.test")], "NXDOMAIN"),
            ([question("example.org")], "REFUSED"),
            ([question(".")], "REFUSED"),
            ([question("example.test", rrclass=dns.RRClass.CH)], "REFUSED"),
            ([question("example.test", rrclass=dns.RRClass.ANY)], "REFUSED"),
            ([question("example.test", "AXFR")], "REFUSED"),
            ([question("example.test", "IXFR")], "NOTIMP"),
            ([], "FORMERR"),
            ([question("example.test"), question("www.example.test")], "FORMERR"),
        ],
    )
    def test_code(self, asked, code):
        """
        What cannot be answered gets the code that says why.
        """
        assert udp(*asked)[0].rcode.name == code

    @pytest.mark.parametrize("opcode", [1, 2, 3, 4, 5, 6, 15])
    def test_operation(self, opcode):
        """
        Other operations are not implemented, and keep their code.
        """
        header, _ = udp(question("example.test"), header=dns.Header(opcode=opcode))

        assert header.opcode == opcode
        assert header.rcode == dns.Rcode.NOTIMP

    @pytest.mark.parametrize(
        ("payload", "truncated"), [(None, True), (0, True), (512, True), (4096, False)]
    )
    def test_size(self, payload, truncated):
        """
        RFC 6891 section 6.2.5: a datagram is as large as the client can take.
        """
        opt = [] if payload is None else [dns.Edns(payload).record()]
        header, message = udp(question("long.example.test", "TXT"), additionals=opt)

        assert header.truncated is truncated
        assert bool(message.answers) is not truncated
        assert (dns.Edns.of(message) is not None) is (payload is not None)

    def test_edns(self):
        """
        RFC 3225 section 3: DNSSEC's flag is copied.
        """
        opt = dns.Edns(dnssec_ok=True, options=[dns.Option(10, bytes(8))]).record()
        _, message = udp(question("example.test"), additionals=[opt])

        assert dns.Edns.of(message) == dns.Edns(dnssec_ok=True)

    def test_version(self):
        """
        RFC 6891 section 6.1.3: a later version is refused with BADVERS.
        """
        opt = dns.Edns(version=1).record()
        header, message = udp(question("example.test"), additionals=[opt])

        assert dns.full_rcode(header, message) == dns.Rcode.BADVERS
        assert message.answers == []

    def test_two_options_records(self):
        """
        RFC 6891 section 6.1.1: two OPT records are a format error.
        """
        opt = [dns.Edns().record()] * 2

        assert udp(question("a"), additionals=opt)[0].rcode == dns.Rcode.FORMERR

    def test_any(self):
        """
        RFC 8482 section 4.1: over UDP one set of records answers ANY.
        """
        _, message = udp(question("example.test", "ANY"))
        (event,) = Conversation(stream=True).ask(question("example.test", "ANY"))

        assert len({record.type for record in message.answers}) == 1
        assert len({record.type for record in event.message.answers}) == 7

    def test_transfer(self):
        """
        RFC 5936 section 2.2: over TCP a zone is transferred as a whole.
        """
        opt = dns.Edns().record()
        events = Conversation(stream=True).ask(
            question("EXAMPLE.test", "AXFR"), additionals=[opt]
        )
        records = [r for event in events for r in event.message.answers]

        assert records == [*ZONE.records, ZONE.soa]
        assert all(event.header.authoritative for event in events)

    def test_transfer_of_a_part(self):
        """
        A name inside the zone is no zone.
        """
        (event,) = Conversation(stream=True).ask(question("www.example.test", "AXFR"))

        assert event.header.rcode == dns.Rcode.REFUSED

    @pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])
    def test_malformed(self, stream):
        """
        What has a header and nothing sensible behind it is a format error.
        """
        data = bytes.fromhex("12 34 01 00 00 01 00 00 00 00 00 00 c0 0c")
        if stream:
            data = len(data).to_bytes(2, "big") + data
        (event,) = Conversation(stream=stream).feed(data)

        assert event.header.id == 0x1234
        assert event.header.rcode == dns.Rcode.FORMERR
        assert event.header.recursion_desired

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x12\x34\x01",
            bytes.fromhex("12 34 80 00 00 00 00 00 00 00 00 00"),
            bytes.fromhex("12 34 80 00 ff"),
        ],
    )
    def test_no_answer(self, data):
        """
        Responses, and what has no header, are not answered.
        """
        assert Conversation(stream=False).feed(data) == []

    def test_pipelined(self):
        """
        RFC 7766 section 6.2.1.1: several queries may come at once.
        """
        conversation = Conversation(stream=True)
        for i, name in enumerate(["www.example.test", "example.test"]):
            query = dns.Query([question(name)])
            conversation.client.send(query, header=dns.Header(id=i))
        events = conversation.feed(b"".join(conversation.client.data_to_send()))

        assert [event.header.id for event in events] == [0, 1]
