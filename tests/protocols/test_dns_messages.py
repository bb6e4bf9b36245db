"""
DNS messages: vectors, the header's bits, records both ways, EDNS.
"""

import tomllib
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import dns
from protocols.dns.bitmaps import TypeBitmaps
from protocols.dns.messages import MAX_ELEMENTS
from protoserve import (
    Direction,
    InvalidMessageError,
    MalformedMessageError,
    Message,
    Role,
    Session,
    UnknownMessageError,
)
from protoserve.events import NEED_DATA
from protoserve.testing import from_message, from_protocol

VECTORS = Path(__file__).parents[1] / "vectors/dns"
RECORDS = tomllib.loads((VECTORS / "records.toml").read_text())["record"]
MESSAGES = tomllib.loads((VECTORS / "messages.toml").read_text())["message"]

KINDS = {
    dns.Name: lambda _node: st.lists(
        st.binary(min_size=1, max_size=12), max_size=5
    ).map(dns.to_text),
    type(TypeBitmaps): lambda _node: st.lists(
        st.sampled_from(dns.RRType) | st.integers(300, 60_000), unique=True
    ).map(sorted),
}


def by_name(vectors):
    return pytest.mark.parametrize(
        "vector", vectors, ids=[vector["name"] for vector in vectors]
    )


def plain(value):
    """
    Bring a field's value to what a vector says.
    """
    if isinstance(value, bytes):
        return f"hex:{value.hex()}"
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, Message):
        return {
            field.name: plain(getattr(value, field.name))
            for field in attrs.fields(type(value))
            if field.init
        }
    return getattr(value, "name", value)


def line(record):
    """
    Write a record as a vector does.
    """
    values = plain(record.rdata).values() if record.rdata else []
    parts = [
        record.name, record.ttl, plain(record.rrclass), plain(record.type), *values
    ]  # fmt: skip
    return " ".join(map(str, parts))


def parse(data):
    way = Direction.RESPONSE if data[2] & 0x80 else Direction.REQUEST
    return dns.dns.parse(data, way)


def build(parsed):
    way = Direction.RESPONSE if parsed.header.response else Direction.REQUEST
    return dns.dns.build(parsed.message, way, header=parsed.header)


def response(*answers, **sections):
    """
    Build a response with some records.
    """
    message = dns.Response(answers=list(answers), **sections)
    return dns.dns.build(message, Direction.RESPONSE)


def raw(kind, data, *, rrclass="00 01", length=None):
    """
    Lay out a response with one record by hand.
    """
    size = len(data) if length is None else length
    return (
        bytes.fromhex(f"00 00 80 00 0000 0001 0000 0000 00 {kind:04x} {rrclass}")
        + bytes(4)
        + size.to_bytes(2, "big")
        + data
    )


class TestRecords:
    @by_name(RECORDS)
    def test_parse(self, vector):
        """
        Every field of a vector is found.
        """
        data = dns.RDATA[dns.RRType[vector["type"]]].parse(bytes.fromhex(vector["hex"]))

        assert plain(data) == vector["fields"]

    @by_name(RECORDS)
    def test_build(self, vector):
        """
        A vector is built again, octet by octet, with the length before it.
        """
        kind = dns.RRType[vector["type"]]
        data = bytes.fromhex(vector["hex"])
        parsed = dns.RDATA[kind].parse(data)
        frame = response(dns.record("x", parsed))

        assert bytes(parsed) == data
        assert frame.endswith(len(data).to_bytes(2, "big") + data)
        assert parse(frame).message.answers == [dns.record("x", parsed)]

    @pytest.mark.parametrize("kind", dns.RDATA, ids=lambda kind: kind.name)
    def test_vectors_are_complete(self, kind):
        """
        Every type with a class of its own has a vector.
        """
        assert kind.name in {vector["type"] for vector in RECORDS}

    @pytest.mark.parametrize("kind", dns.RDATA, ids=lambda kind: kind.name)
    @given(st.data())
    def test_round_trip(self, kind, data):
        """
        The data of every type comes back from its octets.
        """
        message = data.draw(from_message(dns.RDATA[kind], KINDS))

        assert type(message).parse(bytes(message)) == message

    @pytest.mark.parametrize("data", [b"", b"\0", b"any \xff bytes"])
    def test_unknown_type(self, data):
        """
        RFC 3597 section 3: the data of an unknown type is bytes.
        """
        record = dns.ResourceRecord("x", 65_280, rdata=data)

        assert parse(response(record)).message.answers == [record]

    def test_unknown_class(self):
        """
        An unknown class stays a number.
        """
        answer = parse(raw(1, bytes(4), rrclass="80 01")).message.answers[0]

        assert answer.rrclass == 0x8001
        assert answer.rdata == dns.A("0.0.0.0")

    def test_chaosnet(self):
        """
        RFC 1035 section 3.4: an A record's data has its form in IN only.
        """
        answer = parse(raw(1, b"\1a\0\0\7", rrclass="00 03")).message.answers[0]

        assert answer.rdata == b"\1a\0\0\7"

    def test_without_data(self):
        """
        RFC 2136 section 2.4: a record of an update may have no data.
        """
        frame = raw(dns.RRType.MX, b"", rrclass="00 ff")
        parsed = parse(frame)

        assert parsed.message.answers[0].rdata == b""
        assert build(parsed) == frame

    def test_any_bytes(self):
        """
        The data of a known type may be given as bytes.
        """
        record = dns.ResourceRecord("x", dns.RRType.A, rdata=b"\1\2\3\4")

        assert parse(response(record)).message.answers[0].rdata == dns.A("1.2.3.4")

    @pytest.mark.parametrize(
        ("kind", "data", "length", "path"),
        [
            ("A", b"\1\2\3\4\5", None, "rdata"),
            ("A", b"\1\2\3", None, "rdata.address"),
            ("A", b"\1\2\3\4", 3, "rdata.address"),
            ("A", b"\1\2\3\4", 5, "rdata"),
            ("MX", b"\0\1\1a\0\0", None, "rdata"),
            ("MX", b"\0\1\1a\0", 4, "rdata.exchange"),
            ("NS", b"\xc0\x00", 1, "rdata.target"),
            ("SOA", b"\0\0" + bytes(19), None, "rdata.minimum"),
            ("TXT", b"\5abc", None, "rdata.strings[0]"),
            ("OPT", b"\0\1\0\5abc", None, "rdata.options[0].data"),
            ("TSIG", b"\0" + bytes(8) + b"\0\7abc", None, "rdata.mac"),
            ("NSEC", b"\0\0\0", None, "rdata.types"),
            ("NSEC", b"\0\0\x21" + bytes(33), None, "rdata.types"),
            ("NSEC", b"\0\1\1\1\1\1\1", None, "rdata.types"),
            ("NSEC", b"\0\0\2\1", None, "rdata.types"),
            ("NSEC", b"\0\0", None, "rdata.types"),
            ("CAA", b"\0\1\xff", None, "rdata.tag"),
        ],
    )
    def test_length(self, kind, data, length, path):
        """
        The data has to be as long as it says, and as its type needs.
        """
        with pytest.raises(MalformedMessageError) as caught:
            parse(raw(dns.RRType[kind], data, length=length))

        assert caught.value.path == f"Response.answers[0].{path}"

    @pytest.mark.parametrize(
        "record",
        [
            dns.record("x", dns.A("1.2.3")),
            dns.record("x", dns.A("::1")),
            dns.record("x", dns.AAAA("1.2.3.4")),
            dns.record("x", dns.TXT([bytes(256)])),
            dns.record("x", dns.NSEC("y", [65_536])),
            dns.record("x", dns.NSEC("y", [-1])),
            dns.record("x", dns.SOA("y", "z", serial=1 << 32)),
            dns.ResourceRecord("x", dns.RRType.A, rdata=dns.NS("y")),
            dns.ResourceRecord("x", 65_280, rdata=dns.NS("y")),
            dns.ResourceRecord("x", dns.RRType.A, rdata="1.2.3.4"),
            dns.ResourceRecord("x", 65_280, rdata=bytes(65_536)),
        ],
    )
    def test_impossible(self, record):
        """
        What does not fit its type cannot be built.
        """
        with pytest.raises(InvalidMessageError, match=r"rdata|rdlength"):
            response(record)

    def test_bitmaps_are_bounded(self):
        """
        Bitmaps cannot make millions of types out of a message.
        """
        windows = b"".join(bytes((i, 32)) + b"\xff" * 32 for i in range(65))
        with pytest.raises(MalformedMessageError, match="at most 16384 types"):
            parse(raw(dns.RRType.NSEC, b"\0" + windows))


class TestMessages:
    @by_name(MESSAGES)
    def test_parse(self, vector):
        """
        Every question and record of a vector is found.
        """
        message = parse(bytes.fromhex(vector["hex"])).message

        assert [
            f"{q.name} {q.rrclass.name} {q.type.name}" for q in message.questions
        ] == vector["questions"]
        for section in ("answers", "authorities", "additionals"):
            records = [r for r in getattr(message, section) if r.type != dns.RRType.OPT]
            assert list(map(line, records)) == vector.get(section, [])

    @by_name(MESSAGES)
    def test_build(self, vector):
        """
        A vector is built again octet by octet, compressed as it was.
        """
        data = bytes.fromhex(vector["hex"])

        assert build(parse(data)) == data

    @by_name(MESSAGES)
    def test_cut(self, vector):
        """
        Every cut of a vector is malformed; nothing else happens.
        """
        data = bytes.fromhex(vector["hex"])
        for end in range(len(data)):
            with pytest.raises(MalformedMessageError):
                dns.dns.parse(
                    data[:end],
                    Direction.RESPONSE if data[2] & 0x80 else Direction.REQUEST,
                )

    @by_name(MESSAGES)
    def test_more(self, vector):
        """
        Nothing may stand behind the last record.
        """
        with pytest.raises(MalformedMessageError, match="the end of the"):
            parse(bytes.fromhex(vector["hex"]) + b"\0")

    @pytest.mark.parametrize(
        ("octets", "field", "value"),
        [
            ("80 00", "response", True),
            ("28 00", "opcode", dns.Opcode.UPDATE),
            ("78 00", "opcode", 15),
            ("04 00", "authoritative", True),
            ("02 00", "truncated", True),
            ("01 00", "recursion_desired", True),
            ("00 80", "recursion_available", True),
            ("00 40", "reserved", True),
            ("00 20", "authentic_data", True),
            ("00 10", "checking_disabled", True),
            ("00 03", "rcode", dns.Rcode.NXDOMAIN),
            ("00 0f", "rcode", 15),
        ],
    )
    def test_flags(self, octets, field, value):
        """
        RFC 1035 section 4.1.1, RFC 4035 section 3: every flag has its bit.
        """
        header = dns.Header(0x1234, **{field: value})

        assert bytes(header) == bytes.fromhex(f"12 34 {octets}")
        assert dns.Header.parse(bytes(header)) == header

    def test_clear(self):
        """
        A reply keeps the identifier, the operation and what the client asked for.
        """
        header = dns.Header.parse(b"\x12\x34\x2f\xff")
        header.clear()

        assert bytes(header) == b"\x12\x34\x29\x10"

    def test_direction(self):
        """
        The QR bit tells queries from responses.
        """
        query = dns.dns.build(dns.Query(), Direction.REQUEST)

        assert isinstance(parse(query).message, dns.Query)
        assert isinstance(parse(response()).message, dns.Response)
        with pytest.raises(UnknownMessageError):
            dns.dns.parse(query, Direction.RESPONSE)
        with pytest.raises(UnknownMessageError):
            dns.dns.parse(response(), Direction.REQUEST)

    def test_names_only(self):
        """
        A question is for an address in IN unless it says otherwise.
        """
        query = dns.Query([dns.Question("www.example.test")])

        assert query.questions[0].type == dns.RRType.A
        assert query.questions[0].rrclass == dns.RRClass.IN

    def test_repeated_names(self):
        """
        Owners and the old types are compressed, newer types are not.
        """
        frame = response(
            dns.record("a.test", dns.MX(1, "a.test")),
            dns.record("a.test", dns.SRV(1, 2, 3, "a.test")),
        )

        assert frame.count(b"\1a\4test\0") == 2
        assert frame.count(b"\xc0\x0c") == 2

    def test_compressed_data(self):
        """
        RFC 3597 section 4: names in newer types are followed nevertheless.
        """
        data = bytes.fromhex("00 01 00 02 00 03 c0 0c")
        frame = raw(dns.RRType.SRV, data)
        frame = frame[:12] + b"\1a\0" + frame[13:]

        assert parse(frame).message.answers[0].rdata.target == "a"

    def test_most_elements(self):
        """
        A message holds a bounded number of things.
        """
        question = bytes.fromhex("00 0001 0001")

        def questions(number):
            counts = number.to_bytes(2, "big") + bytes(6)
            return parse(bytes(4) + counts + question * number)

        assert len(questions(MAX_ELEMENTS).message.questions) == MAX_ELEMENTS
        with pytest.raises(MalformedMessageError, match=f"at most {MAX_ELEMENTS}"):
            questions(MAX_ELEMENTS + 1)

    @pytest.mark.parametrize("direction", Direction)
    @settings(max_examples=40)
    @given(st.data())
    def test_round_trip(self, direction, data):
        """
        Every message comes back from its octets.
        """
        example = data.draw(from_protocol(dns.dns, direction, kinds=KINDS))

        assert dns.dns.parse(example.frame, direction).message == example.message


class TestStream:
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
    def test_split(self, size):
        """
        RFC 1035 section 4.2.2: messages come with their length, split anyhow.
        """
        queries = [
            bytes.fromhex(vector["hex"])
            for vector in MESSAGES
            if not bytes.fromhex(vector["hex"])[2] & 0x80
        ]
        stream = b"".join(len(q).to_bytes(2, "big") + q for q in queries)
        session = Session(dns.dns, Role.SERVER)
        frames = []
        for start in range(0, len(stream), size):
            session.receive_data(stream[start : start + size])
            while (event := session.next_event()) is not NEED_DATA:
                frames.append(event.frame.data)

        assert frames == queries

    def test_correlation(self):
        """
        A response is tied to its query by the identifier.
        """
        client = Session(dns.dns, Role.CLIENT)
        server = Session(dns.dns, Role.SERVER)
        queries = [dns.Query([dns.Question(name)]) for name in ("a", "b")]
        for query in queries:
            client.send(query)
        for data in client.data_to_send():
            server.receive_data(data)
        received = [server.next_event(), server.next_event()]
        for event in reversed(received):
            server.send(dns.Response(event.message.questions), reply_to=event.header)
        for data in server.data_to_send():
            client.receive_data(data)

        assert [client.next_event().request for _ in queries] == queries[::-1]


class TestEdns:
    def test_record(self):
        """
        RFC 6891 section 6.1.3: the numbers stand in the class and the TTL.
        """
        edns = dns.Edns(4096, 1, 2, dnssec_ok=True, flags=3)

        assert bytes(edns.record()).hex(" ") == "00 00 29 10 00 01 02 80 03 00 00"

    @given(
        st.builds(
            dns.Edns,
            st.integers(0, 65_535),
            st.integers(0, 255),
            st.integers(0, 255),
            st.booleans(),
            st.integers(0, 0x7FFF),
            st.lists(
                st.builds(
                    dns.Option, st.sampled_from(dns.OptionCode), st.binary(max_size=9)
                ),
                max_size=3,
            ),
        )
    )
    def test_round_trip(self, edns):
        """
        What is said by EDNS is read.
        """
        message = dns.Response(additionals=[edns.record()])

        assert dns.Edns.of(parse(response(**_sections(message))).message) == edns

    def test_none(self):
        """
        A message without an OPT record has no EDNS.
        """
        assert dns.Edns.of(dns.Query()) is None

    @pytest.mark.parametrize(
        "records",
        [
            [dns.Edns().record(), dns.Edns().record()],
            [dns.ResourceRecord("x", dns.RRType.OPT, rdata=dns.OPT())],
            [dns.ResourceRecord(".", dns.RRType.OPT, rdata=b"\0")],
        ],
    )
    def test_malformed(self, records):
        """
        RFC 6891 section 6.1.1: there is one at most, owned by the root.
        """
        with pytest.raises(ValueError, match="one OPT record"):
            dns.Edns.of(dns.Query(additionals=records))

    @pytest.mark.parametrize(
        ("payload", "size"), [(0, 512), (511, 512), (1232, 1232), (65_535, 4096)]
    )
    def test_size(self, payload, size):
        """
        RFC 6891 section 6.2.3: less than 512 octets count as 512.
        """
        assert dns.Edns(payload).size == size

    @pytest.mark.parametrize(
        ("bits", "low", "code"),
        [
            (None, 3, dns.Rcode.NXDOMAIN),
            (0, 3, dns.Rcode.NXDOMAIN),
            (1, 0, dns.Rcode.BADVERS),
            (255, 15, 4095),
        ],
    )
    def test_full_rcode(self, bits, low, code):
        """
        RFC 6891 section 6.1.3: the response code has twelve bits.
        """
        opt = [] if bits is None else [dns.Edns(rcode_bits=bits).record()]
        found = dns.full_rcode(dns.Header(rcode=low), dns.Response(additionals=opt))

        assert found == code
        assert isinstance(found, dns.Rcode) is (code != 4095)


class TestFit:
    ANSWER = dns.record("a.test", dns.TXT([b"x" * 200]))
    MORE = dns.record("b.test", dns.TXT([b"y" * 200]))
    OPT = dns.Edns().record()

    def make(self):
        return dns.Response(
            [dns.Question("a.test")], [self.ANSWER], [], [self.MORE, self.OPT]
        )

    def test_whole(self):
        """
        What fits exactly is left alone.
        """
        whole = self.make()
        size = len(dns.dns.build(whole, Direction.RESPONSE))

        assert dns.fit(whole, size) == (whole, False)

    def test_additional(self):
        """
        RFC 2181 section 9: additional records may be left out silently.
        """
        whole = self.make()
        size = len(dns.dns.build(whole, Direction.RESPONSE))
        smaller, truncated = dns.fit(whole, size - 1)

        assert smaller.answers == [self.ANSWER]
        assert smaller.additionals == [self.OPT]
        assert not truncated

    def test_truncated(self):
        """
        An answer is left out as a whole, the question and EDNS stay.
        """
        smaller, truncated = dns.fit(self.make(), 100)

        assert smaller == dns.Response([dns.Question("a.test")], additionals=[self.OPT])
        assert truncated


def _sections(message):
    return {
        name: getattr(message, name)
        for name in ("questions", "authorities", "additionals")
    }
