"""
NTP packets: vectors, what may follow them, control messages, and what is refused.
"""

import hashlib
import tomllib
from pathlib import Path

import construct
import pytest

from protocols import ntp
from protoserve import (
    Direction,
    InvalidMessageError,
    MalformedMessageError,
    Role,
    Session,
    UnknownMessageError,
)

VECTORS = {
    packet["name"]: packet | {"data": bytes.fromhex(packet["hex"])}
    for packet in tomllib.loads(
        (Path(__file__).parents[1] / "vectors/ntp/packets.toml").read_text()
    )["packet"]
}
EVERY = pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS.keys())

DATE = 0xEEAD1A1408CFDF11
FIELD = ntp.ExtensionField(ntp.FieldType.UNIQUE_IDENTIFIER, bytes(range(32)))


def parse(data, direction="request"):
    return ntp.ntp.parse(data, Direction(direction))


def build(message, direction="request", **header):
    made = ntp.Header(**header) if header else None
    return ntp.ntp.build(message, Direction(direction), header=made)


def plain(value):
    """
    Bring a field's value to what a vector says.
    """
    if isinstance(value, bytes):
        return value.hex()
    return value


def expected(value):
    return int(value, 16) if str(value).startswith("0x") else value


class TestVectors:
    @EVERY
    def test_fields(self, vector):
        """
        Every field of a vector is found.
        """
        parsed = parse(vector["data"], vector["direction"])
        found = {
            name: plain(getattr(parsed.message, name)) for name in vector["fields"]
        }
        assert vector["message"] == type(parsed.message).__name__
        assert {n: expected(v) for n, v in vector["fields"].items()} == found
        header = {name: int(getattr(parsed.header, name)) for name in vector["header"]}
        assert vector["header"] == header

    @EVERY
    def test_what_follows(self, vector):
        """
        Extension fields and MAC are told apart.
        """
        message = parse(vector["data"], vector["direction"]).message
        mac = getattr(message, "mac", None)
        found = mac and {"key_id": mac.key_id, "digest": mac.digest.hex()}
        assert vector.get("mac") == found
        extensions = [
            {"kind": e.kind, "value": e.value.hex()}
            for e in getattr(message, "extensions", [])
        ]
        assert vector.get("extensions", []) == extensions

    @EVERY
    def test_builds_the_same(self, vector):
        """
        What was parsed is built to the very same bytes, with or without its header.
        """
        way = Direction(vector["direction"])
        parsed = parse(vector["data"], vector["direction"])
        built = ntp.ntp.build(parsed.message, way, header=parsed.header)
        assert vector["data"] == built
        assert vector["data"][1:] == bytes(parsed.message)
        assert parsed.message == type(parsed.message).parse(vector["data"][1:])

    @EVERY
    def test_cut_at_every_byte(self, vector):
        """
        A cut packet is malformed, unless it is cut where a packet may end.
        """
        whole, mode = vector["data"], vector["header"]["mode"]
        ends = {size for size in range(1, len(whole)) if mode == ntp.Mode.PRIVATE}
        if mode not in (ntp.Mode.PRIVATE, ntp.Mode.CONTROL):
            after = 48 + (28 if "extensions" in vector else 0)
            ends |= {base + mac for base in (48, after) for mac in (0, 4, 12, 20, 24)}
        if mode == ntp.Mode.CONTROL:
            used = 12 + vector["fields"]["count"]
            # Behind padding of 32 or 64 bits, or behind some MAC.
            ends |= {size for size in range(used, used + 8) if not size % 4}
            padded = {used + -used % 4, used + -used % 8}
            ends |= {size + mac for size in padded for mac in (12, 20, 24)}
        for size in range(len(whole)):
            if size in ends:
                message = parse(whole[:size], vector["direction"]).message
                assert whole[1:size] == bytes(message)
            else:
                with pytest.raises(MalformedMessageError):
                    parse(whole[:size], vector["direction"])

    @pytest.mark.parametrize(
        "name", [name for name in VECTORS if "key" in VECTORS[name]]
    )
    def test_digest(self, name):
        """
        The MAC starts where its sender's did: the digest over all before it is right.
        """
        data, key = VECTORS[name]["data"], VECTORS[name]["key"]
        mac = parse(data, VECTORS[name]["direction"]).message.mac
        signed = bytes.fromhex(key["hex"]) + data[: -len(bytes(mac))]
        assert hashlib.new(key["hash"], signed).digest() == mac.digest


class TestTimePackets:
    @pytest.mark.parametrize(
        ("cls", "direction", "mode"),
        [
            (ntp.Version1Request, "request", 0),
            (ntp.SymmetricActive, "request", 1),
            (ntp.SymmetricPassive, "response", 2),
            (ntp.ClientRequest, "request", 3),
            (ntp.ServerResponse, "response", 4),
            (ntp.Broadcast, "response", 5),
        ],
    )
    def test_each_mode(self, cls, direction, mode):
        """
        The mode follows from the class, and the class from the mode.
        """
        message = cls(
            stratum=255,
            poll=-128,
            precision=127,
            root_delay=0xFFFFFFFF,
            root_dispersion=1,
            reference_id=b"\0\1\2\3",
            reference_timestamp=1,
            origin_timestamp=2**64 - 1,
            receive_timestamp=DATE,
            transmit_timestamp=0,
            extensions=[FIELD],
            mac=ntp.Mac(7, bytes(16)),
        )
        data = build(message, direction)
        parsed = parse(data, direction)
        assert 0x20 | mode == data[0]
        assert len(data) == 48 + 36 + 20
        assert message == parsed.message
        assert type(message) is type(parsed.message)

    def test_answers_have_their_own_direction(self):
        """
        A server's answer is no request, nor a request an answer.
        """
        with pytest.raises(UnknownMessageError):
            parse(build(ntp.ServerResponse(), "response"), "request")
        with pytest.raises(UnknownMessageError):
            parse(build(ntp.ClientRequest()), "response")

    @pytest.mark.parametrize(
        ("stratum", "reference_id", "text", "kiss"),
        [
            (0, b"RATE", "RATE", "RATE"),
            (0, bytes(4), "", None),
            (0, b"\xff\0AB", "\\xff\0AB", "\\xff\0AB"),
            (1, b"GPS\0", "GPS", None),
            (2, bytes([192, 0, 2, 1]), "192.0.2.1", None),
        ],
    )
    def test_reference(self, stratum, reference_id, text, kiss):
        """
        The stratum tells what the reference id is.
        """
        message = ntp.ServerResponse(stratum=stratum, reference_id=reference_id)
        assert text == message.reference_text
        assert kiss == message.kiss_code

    def test_answer_is_tied_to_its_request(self):
        """
        Answers find their requests by the transmit timestamp, in any order.
        """
        client = Session(ntp.ntp, Role.CLIENT, stream=False)
        server = Session(ntp.ntp, Role.SERVER, stream=False)
        asked = [
            ntp.ClientRequest(transmit_timestamp=5),
            ntp.Version1Request(transmit_timestamp=6),
            ntp.SymmetricActive(transmit_timestamp=7),
            ntp.Control(opcode=ntp.Opcode.READ_VARIABLES, sequence=5),
        ]
        for request in asked:
            client.send(request)
            server.receive_data(client.data_to_send()[0])
            assert request == server.next_event().message
        answers = [
            (ntp.Broadcast(), None),
            (ntp.ServerResponse(origin_timestamp=8), None),
            (ntp.Control(response=1, sequence=5), asked[3]),
            (ntp.SymmetricPassive(origin_timestamp=7), asked[2]),
            (ntp.ServerResponse(origin_timestamp=6), asked[1]),
            (ntp.ServerResponse(origin_timestamp=5), asked[0]),
            (ntp.ServerResponse(origin_timestamp=5), None),
        ]
        for answer, request in answers:
            server.send(answer)
            client.receive_data(server.data_to_send()[0])
            assert request is client.next_event().request


class TestExtensionFields:
    @pytest.mark.parametrize("mac", [None, 0, 8, 16, 20])
    @pytest.mark.parametrize("sizes", [[28], [16, 28], [28, 16, 16, 64], [65532]])
    def test_round_trip(self, sizes, mac):
        """
        Any number of extension fields stands before any MAC.
        """
        if mac is None and sizes[-1] < 28:
            sizes = [*sizes, 28]
        message = ntp.ClientRequest(
            extensions=[
                ntp.ExtensionField(i, bytes(n - 4)) for i, n in enumerate(sizes)
            ],
            mac=None if mac is None else ntp.Mac(1, bytes(mac)),
        )
        parsed = parse(build(message)).message
        assert message == parsed
        assert sizes == [field.length for field in parsed.extensions]

    def test_types(self):
        """
        Registered types have names, others stay numbers.
        """
        fields = [FIELD, ntp.ExtensionField(0xF323, bytes(24))]
        kinds = [f.kind for f in parse(build(ntp.ClientRequest(extensions=fields))).message.extensions]  # fmt: skip
        assert kinds == [ntp.FieldType.UNIQUE_IDENTIFIER, 0xF323]
        assert isinstance(kinds[0], ntp.FieldType)

    @pytest.mark.parametrize("size", [16, 20, 24])
    def test_last_one_needs_28_bytes(self, size):
        """
        What would be taken for a MAC is not built, as RFC 7822 section 3 has it.
        """
        short = ntp.ExtensionField(1, bytes(size - 4))
        with pytest.raises(InvalidMessageError, match="28 bytes"):
            build(ntp.ClientRequest(extensions=[short]))
        message = ntp.ClientRequest(extensions=[short], mac=ntp.Mac(1, bytes(16)))
        assert message == parse(build(message)).message

    @pytest.mark.parametrize("size", [16, 20])
    def test_last_one_before_a_crypto_nak(self, size):
        """
        A MAC of 4 bytes does not make up for a short extension field.
        """
        field = ntp.ExtensionField(1, bytes(size - 4))
        with pytest.raises(InvalidMessageError, match="24 bytes"):
            build(ntp.ClientRequest(extensions=[field], mac=ntp.Mac()))

    def test_no_fixed_size(self):
        """
        How long a packet is depends on the datagram.
        """
        with pytest.raises(construct.SizeofError):
            ntp.ClientRequest.construct.sizeof()

    @pytest.mark.parametrize("size", [0, 8, 11, 13, 14, 15, 65532])
    def test_wrong_size(self, size):
        """
        A value that is too short, too long or no whole words is refused.
        """
        with pytest.raises(ValueError, match="RFC 7822"):
            ntp.ExtensionField(1, bytes(size))

    @pytest.mark.parametrize(
        ("field", "path"),
        [
            ("01040000" + "00" * 24, "ClientRequest.extensions[0].value"),
            ("01040003" + "00" * 24, "ClientRequest.extensions[0].value"),
            ("01040008" + "00" * 24, "ClientRequest.extensions[0].value"),
            ("01040012" + "00" * 24, "ClientRequest.extensions[0].value"),
            ("01040020" + "00" * 24, "ClientRequest.extensions[0].value"),
            ("0104ffff" + "00" * 24, "ClientRequest.extensions[0].value"),
            ("01040010" + "00" * 14, None),
            ("0104001c" + "00" * 24 + "0104001d" + "00" * 24, "ClientRequest.extensions[1].value"),
        ],
    )  # fmt: skip
    def test_malformed(self, field, path):
        """
        A length that cannot be is told with the place of the field.
        """
        data = bytes.fromhex("23" + "00" * 47 + field)
        with pytest.raises(MalformedMessageError) as caught:
            parse(data)
        assert path in (None, caught.value.path)
        assert caught.value.offset >= 48


class TestMac:
    @pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 11, 13, 16, 19, 21, 23])
    def test_wrong_size(self, size):
        """
        Bytes behind the packet that are no MAC are malformed.
        """
        with pytest.raises(MalformedMessageError) as caught:
            parse(bytes.fromhex("23" + "00" * 47) + bytes(size))
        assert caught.value.path.startswith("ClientRequest.mac")

    def test_wrong_digest(self):
        """
        A digest of no known algorithm's size is refused.
        """
        with pytest.raises(ValueError, match="expected 0, 8, 16, 20 bytes, got 4"):
            ntp.Mac(1, bytes(4))


class TestControl:
    def test_defaults(self):
        """
        A command is made from its opcode alone, and padded.
        """
        message = ntp.Control(opcode=ntp.Opcode.READ_VARIABLES, data=b"stratum")
        data = build(message, version=2)
        assert data.hex(" ", 4) == "16020000 00000000 00000007 73747261 74756d00"
        assert message.count == 7

    @pytest.mark.parametrize("size", range(9))
    @pytest.mark.parametrize("digest", [None, 8, 16, 20])
    def test_padding(self, size, digest):
        """
        Data is padded to 32 bits, before a MAC to 64.
        """
        mac = None if digest is None else ntp.Mac(1, b"\x55" * digest)
        message = ntp.Control(data=b"\xaa" * size, mac=mac)
        data = build(message)
        parsed = parse(data).message
        assert message == parsed
        before = len(data) - (0 if mac is None else len(bytes(mac)))
        assert before % (4 if mac is None else 8) == 0
        assert bytes(before - 12 - size) == parsed.padding

    def test_changed_data_is_padded_anew(self):
        """
        Padding that was parsed is kept as long as it fits.
        """
        data = bytes.fromhex("16020000 00000000 00000001 61626364")
        message = parse(data).message
        assert message.padding == b"bcd"
        assert data[1:] == bytes(message)
        message.data = b"aa"
        assert bytes(message)[11:] == b"aa\0\0"

    def test_padding_of_32_bits_before_a_mac(self):
        """
        A MAC is found behind padding of 32 bits too.
        """
        data = bytes.fromhex("16020000 00000000 00000004 61626364") + b"\x55" * 20
        odd = (
            bytes.fromhex("16020000 00000000 00000005 61626364 65000000") + b"\x55" * 20
        )
        for packet, padding in ((data, b""), (odd, bytes(3))):
            message = parse(packet).message
            assert ntp.Mac(0x55555555, b"\x55" * 16) == message.mac
            assert padding == message.padding
            assert packet[1:] == bytes(message)

    @pytest.mark.parametrize("rest", [1, 2, 3, 5, 8, 9, 13, 15, 17, 29])
    def test_what_is_no_padding(self, rest):
        """
        Bytes behind the data that are neither padding nor a MAC are malformed.
        """
        with pytest.raises(MalformedMessageError) as caught:
            parse(bytes.fromhex("16020000 00000000 00000000") + bytes(rest))
        assert caught.value.path == "Control.padding"

    def test_count_past_the_end(self):
        """
        A count of more bytes than there are is malformed.
        """
        with pytest.raises(MalformedMessageError) as caught:
            parse(bytes.fromhex("16020000 00000000 00000009 0000000000000000"))
        assert caught.value.path == "Control.data"

    @pytest.mark.parametrize(
        ("control", "word"),
        [
            (
                ntp.Control(response=1, status=0x0618),
                ntp.SystemStatus(
                    source=ntp.ClockSource.NTP, event_count=1, event_code=8
                ),
            ),
            (
                ntp.Control(response=1, association=1, status=0x961A),
                ntp.PeerStatus(
                    configured=1,
                    reachable=1,
                    selection=ntp.PeerSelection.SYSTEM_PEER,
                    event_count=1,
                    event_code=10,
                ),
            ),
            (
                ntp.Control(opcode=ntp.Opcode.READ_CLOCK_VARIABLES, status=0x0203),
                ntp.ClockStatus(status=2, event_code=3),
            ),
            (
                ntp.Control(error=1, association=1, status=0x0700),
                ntp.ErrorStatus(code=ntp.ControlError.PROHIBITED),
            ),
        ],
    )
    def test_status_word(self, control, word):
        """
        What the message is about tells what its status word means.
        """
        assert word == control.status_word
        assert control.status == int.from_bytes(bytes(word))


def test_protocol():
    """
    The protocol is spoken on datagrams to port 123, and says which modes there are.
    """
    assert ntp.ntp.ports == {"udp": 123}
    assert ntp.ntp.framing is None
    assert sorted(ntp.ntp.table(Direction.REQUEST)) == [0, 1, 2, 3, 5, 6, 7]
    assert sorted(ntp.ntp.table(Direction.RESPONSE)) == [1, 2, 4, 5, 6, 7]


def test_leap_and_version():
    """
    The first byte is the leap indicator, the version and the mode, high bits first.
    """
    data = build(ntp.ClientRequest(), leap=ntp.Leap.DELETE_SECOND, version=3)
    assert data[0] == 0b10_011_011
    header = parse(data).header
    assert ntp.Header(ntp.Leap.DELETE_SECOND, 3, ntp.Mode.CLIENT) == header
    assert header.mode is ntp.Mode.CLIENT


def test_empty_datagram():
    """
    No bytes are no packet.
    """
    with pytest.raises(MalformedMessageError):
        parse(b"")
