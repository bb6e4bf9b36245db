"""
What we decode is what tshark, of Wireshark, decodes.

Our own messages are compared, and the captures that lie beside the checkout.
"""

import struct
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols import dns
from protoserve import Direction, MalformedMessageError
from tests.captures import captures

pytestmark = pytest.mark.interop

VECTORS = Path(__file__).parents[1] / "vectors/dns"
HOSTILE = {"tcpdump__dns_fwdptr.pcap"}
"""Captures that are malformed, to tshark and to us."""

FIELDS = (
    "frame.number",
    "udp.payload",
    "tcp.payload",
    "dns.id",
    "dns.flags.opcode",
    "dns.flags.rcode",
    "dns.flags.authoritative",
    "dns.flags.truncated",
    "dns.flags.recdesired",
    "dns.flags.recavail",
    "dns.qry.name",
    "dns.qry.type",
    "dns.qry.class",
    "dns.resp.name",
    "dns.resp.type",
    "dns.resp.ttl",
    "dns.resp.len",
    "dns.a",
    "dns.aaaa",
    "dns.ns",
    "dns.cname",
    "dns.ptr.domain_name",
    "dns.mx.mail_exchange",
    "dns.mx.preference",
    "dns.soa.mname",
    "dns.soa.rname",
    "dns.soa.serial_number",
    "dns.soa.minimum_ttl",
    "dns.srv.port",
    "dns.srv.target",
    "dns.txt",
    "dns.caa.tag",
    "dns.naptr.order",
    "dns.naptr.replacement",
    "dns.ds.key_id",
    "dns.rrsig.key_tag",
    "dns.rrsig.signers_name",
    "dns.nsec.next_domain_name",
    "dns.tsig.algorithm_name",
    "dns.svcb.svcpriority",
    "dns.svcb.targetname",
    "dns.svcb.svcparam.key",
    "dns.opt.code",
)
SEPARATOR, AGGREGATOR = "\t", "\x1f"


@pytest.fixture(scope="module")
def tshark(require_program):
    """
    Give a function that lets tshark decode a capture: a mapping for each message.
    """
    program = require_program("tshark")

    def run(path):
        command = [program, "-r", str(path), "-n", "-Y", "dns || mdns", "-T", "fields"]
        command += ["-E", f"separator={SEPARATOR}", "-E", f"aggregator={AGGREGATOR}"]
        for field in FIELDS:
            command += ["-e", field]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=100, check=True
        )
        return [
            dict(zip(FIELDS, line.split(SEPARATOR), strict=True))
            for line in done.stdout.splitlines()
        ]

    return run


def shown(name):
    """
    Write a name as tshark does.
    """
    labels = [label.decode("utf-8", "replace") for label in dns.to_labels(name)]
    return ".".join(labels) or "<Root>"


def values(message, kinds, read) -> Iterator[str]:
    """
    Read something from the data of all records of some types.
    """
    for record in (*message.answers, *message.authorities, *message.additionals):
        if isinstance(record.rdata, kinds):
            found = read(record.rdata)
            yield from found if isinstance(found, list) else [found]


def ours(parsed) -> dict[str, list[str]]:
    """
    Write what we have decoded as tshark does.
    """
    header, message = parsed.header, parsed.message
    records = [*message.answers, *message.authorities, *message.additionals]
    timed = [r for r in records if r.type != dns.RRType.OPT]

    def every(kinds, name, write=str):
        return list(values(message, kinds, lambda data: write(getattr(data, name))))

    services = (dns.SVCB, dns.HTTPS)
    return {
        "dns.id": [f"0x{header.id:04x}"],
        "dns.flags.opcode": [str(int(header.opcode))],
        "dns.flags.rcode": [str(int(header.rcode))] if header.response else [],
        "dns.flags.authoritative": _flag(header, header.authoritative),
        "dns.flags.truncated": [str(int(header.truncated))],
        "dns.flags.recdesired": [str(int(header.recursion_desired))],
        "dns.flags.recavail": _flag(header, header.recursion_available),
        "dns.qry.name": [shown(q.name) for q in message.questions],
        "dns.qry.type": [str(int(q.type)) for q in message.questions],
        "dns.qry.class": [f"0x{q.rrclass & 0x7FFF:04x}" for q in message.questions],
        # The owners of SRV records are shown in three parts.
        "dns.resp.name": [shown(r.name) for r in records if r.type != dns.RRType.SRV],
        "dns.resp.type": [str(int(kind)) for r in records for kind in _types(r)],
        "dns.resp.ttl": [str(r.ttl) for r in timed],
        "dns.resp.len": [str(r.rdlength) for r in records],
        "dns.a": every(dns.A, "address"),
        "dns.aaaa": every(dns.AAAA, "address"),
        "dns.ns": every(dns.NS, "target", shown),
        "dns.cname": every(dns.CNAME, "target", shown),
        "dns.ptr.domain_name": every(dns.PTR, "target", shown),
        "dns.mx.mail_exchange": every(dns.MX, "exchange", shown),
        "dns.mx.preference": every(dns.MX, "preference"),
        "dns.soa.mname": every(dns.SOA, "mname", shown),
        "dns.soa.rname": every(dns.SOA, "rname", shown),
        "dns.soa.serial_number": every(dns.SOA, "serial"),
        "dns.soa.minimum_ttl": every(dns.SOA, "minimum"),
        "dns.srv.port": every(dns.SRV, "port"),
        "dns.srv.target": every(dns.SRV, "target", shown),
        "dns.txt": every(dns.TXT, "strings", lambda s: [t.decode() for t in s]),
        "dns.caa.tag": every(dns.CAA, "tag"),
        "dns.naptr.order": every(dns.NAPTR, "order"),
        "dns.naptr.replacement": every(dns.NAPTR, "replacement", shown),
        "dns.ds.key_id": every(dns.DS, "key_tag", "0x{:04x}".format),
        "dns.rrsig.key_tag": every(dns.RRSIG, "key_tag"),
        "dns.rrsig.signers_name": every(dns.RRSIG, "signer", shown),
        "dns.nsec.next_domain_name": every(dns.NSEC, "next_name", shown),
        "dns.tsig.algorithm_name": every(dns.TSIG, "algorithm", shown),
        "dns.svcb.svcpriority": every(services, "priority"),
        "dns.svcb.targetname": every(services, "target", shown),
        "dns.svcb.svcparam.key": every(
            services, "parameters", lambda ps: [str(int(p.key)) for p in ps]
        ),
        "dns.opt.code": every(
            dns.OPT, "options", lambda options: [str(int(o.code)) for o in options]
        ),
    }


def _types(record):
    """
    A record's type, and those in its bitmap, which are the same field to tshark.
    """
    bitmap = isinstance(record.rdata, dns.NSEC | dns.NSEC3)
    return [record.type, *(record.rdata.types if bitmap else ())]


def _flag(header, value):
    """
    A flag that tshark shows in responses only.
    """
    return [str(int(value))] if header.response else []


def capture(path, frames):
    """
    Write messages to a capture, as UDP datagrams over raw IPv4.
    """
    raw_ip = 101
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, raw_ip)
    for frame in frames:
        ports = (53, 5300) if frame[2] & 0x80 else (5300, 53)
        udp = struct.pack("!HHHH", *ports, 8 + len(frame), 0) + frame
        ip = struct.pack(
            "!BBHHHBBH4s4s",
            *(0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0),
            *(bytes([127, 0, 0, 1]), bytes([127, 0, 0, 1])),
        )
        packet = ip + udp
        data += struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet
    path.write_bytes(data)


def compare(decoded):
    """
    Compare everything that tshark has decoded.
    """
    for found in decoded:
        # Over TCP the length comes first (RFC 1035 section 4.2.2).
        data = bytes.fromhex(found["udp.payload"] or found["tcp.payload"][4:])
        way = Direction.RESPONSE if data[2] & 0x80 else Direction.REQUEST
        for field, expected in ours(dns.dns.parse(data, way)).items():
            theirs = found[field].split(AGGREGATOR) if found[field] else []
            assert (found["frame.number"], field, theirs) == (
                found["frame.number"],
                field,
                expected,
            )


def records():
    """
    Give a record of each type, from the vectors.
    """
    vectors = tomllib.loads((VECTORS / "records.toml").read_text())["record"]
    for vector in vectors:
        kind = dns.RRType[vector["type"]]
        data = bytes.fromhex(vector["hex"])
        if kind != dns.RRType.TXT:
            yield dns.record("x.test", dns.RDATA[kind].parse(data))
    # Strings that are no text are shown in a way of tshark's own.
    yield dns.record("x.test", dns.TXT([b"a=b", b"c d", b"e" * 255]))


class TestOwnMessages:
    def test_vectors(self, tshark, tmp_path):
        """
        The vectors are to tshark what they are to us.
        """
        vectors = tomllib.loads((VECTORS / "messages.toml").read_text())["message"]
        path = tmp_path / "vectors.pcap"
        capture(path, [bytes.fromhex(vector["hex"]) for vector in vectors])
        decoded = tshark(path)

        assert len(decoded) == len(vectors)
        compare(decoded)

    def test_every_type(self, tshark, tmp_path):
        """
        Records of all types that we have built are to tshark what we meant.
        """
        frames = [
            dns.dns.build(
                dns.Response([dns.Question("x.test")], [record]), Direction.RESPONSE
            )
            for record in records()
        ]
        path = tmp_path / "records.pcap"
        capture(path, frames)
        decoded = tshark(path)

        assert len(decoded) == len(frames)
        compare(decoded)


@pytest.mark.parametrize(
    "path",
    captures("dns") or [pytest.param(None, marks=pytest.mark.skip("no captures here"))],
    ids=lambda path: path.name if path else "none",
)
def test_capture(path, tshark):
    """
    Every message of a capture is to tshark what it is to us.
    """
    decoded = tshark(path)

    assert decoded
    if path.name in HOSTILE:
        with pytest.raises(MalformedMessageError):
            compare(decoded)
    else:
        compare(decoded)
