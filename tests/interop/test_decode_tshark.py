"""
``protoserve decode --json`` against tshark: every frame of the captures.

Compared are which frames hold how many messages, who has sent them to whom and when,
their direction, their bytes, and every field that tshark shows. What is not the same
is listed here with its reason.
"""

import datetime as dt
import json
import struct
import subprocess
from collections import defaultdict

import pytest

from protocols import dns, modbus, ntp
from protoserve.cli.decoded import decode_inputs
from tests.captures import captures

pytestmark = pytest.mark.interop

BETWEEN, WITHIN = "\t", "\x1f"
COMMON = (
    "frame.number",
    "frame.time_epoch",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "udp.srcport",
    "udp.dstport",
    "tcp.srcport",
    "tcp.dstport",
    "udp.payload",
    "tcp.payload",
)


@pytest.fixture(scope="module")
def tshark(require_program):
    """
    Give a function that lets tshark decode a capture: a mapping for each frame.
    """
    program = require_program("tshark")

    def run(path, shown, fields):
        command = [program, "-n", "-r", str(path), "-Y", shown, "-T", "fields"]
        command += ["-E", f"separator={BETWEEN}", "-E", f"aggregator={WITHIN}"]
        for field in (*COMMON, *fields):
            command += ["-e", field]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=100, check=True
        )
        frames = {}
        for line in done.stdout.splitlines():
            values = (v.split(WITHIN) if v else [] for v in line.split(BETWEEN))
            frame = dict(zip((*COMMON, *fields), values, strict=True))
            frames[int(frame["frame.number"][0])] = frame
        return frames

    return run


@pytest.fixture
def decoded(capsys):
    """
    Give a function that decodes a capture: the exit code, lists of messages by frame.
    """

    def run(protocol, path, ports=()):
        target = f"protocols.{protocol}:{protocol}"
        code = decode_inputs(target, [str(path)], as_json=True, ports=ports)
        frames = defaultdict(list)
        for line in capsys.readouterr().out.splitlines():
            entry = json.loads(line)
            frames[entry["n"]].append(entry)
        return code, dict(frames)

    return run


def check_ends(frame, entry):
    """
    Compare when and between whom a message went.
    """
    (time,) = frame["frame.time_epoch"]
    assert entry["time"] == pytest.approx(float(time), abs=1e-6)
    transport = "udp" if frame["udp.srcport"] else "tcp"
    assert transport == entry["transport"]
    for name, end in (("src", "src"), ("dst", "dst")):
        if frame[f"ipv6.{name}"]:
            host = f"[{frame[f'ipv6.{name}'][0]}]"
        else:
            (host,) = frame[f"ip.{name}"]
        (port,) = frame[f"{transport}.{name}port"]
        assert f"{host}:{port}" == entry[end]


def compare(number, frame, expected):
    """
    Compare fields; each difference names its frame.
    """
    for field, value in expected.items():
        assert (number, field, frame[field]) == (number, field, value)


def each(protocol):
    """
    List a protocol's captures as parameters of a test.
    """
    skipped = pytest.param(None, marks=pytest.mark.skip("no captures here"))
    return pytest.mark.parametrize(
        "path", captures(protocol) or [skipped], ids=lambda p: p.name if p else "none"
    )


# DNS ---------------------------------------------------------------------------

RDATA = {
    "A": {"address": "dns.a"},
    "AAAA": {"address": "dns.aaaa"},
    "NS": {"target": "dns.ns"},
    "CNAME": {"target": "dns.cname"},
    "PTR": {"target": "dns.ptr.domain_name"},
    "MX": {"preference": "dns.mx.preference", "exchange": "dns.mx.mail_exchange"},
    "SOA": {
        "mname": "dns.soa.mname",
        "rname": "dns.soa.rname",
        "serial": "dns.soa.serial_number",
        "refresh": "dns.soa.refresh_interval",
        "retry": "dns.soa.retry_interval",
        "expire": "dns.soa.expire_limit",
        "minimum": "dns.soa.minimum_ttl",
    },
    "SRV": {
        "priority": "dns.srv.priority",
        "weight": "dns.srv.weight",
        "port": "dns.srv.port",
        "target": "dns.srv.target",
    },
    "CAA": {"tag": "dns.caa.tag"},
    "NAPTR": {
        "order": "dns.naptr.order",
        "preference": "dns.naptr.preference",
        "replacement": "dns.naptr.replacement",
    },
    "RRSIG": {
        "key_tag": "dns.rrsig.key_tag",
        "signer": "dns.rrsig.signers_name",
        "labels": "dns.rrsig.labels",
        "original_ttl": "dns.rrsig.original_ttl",
    },
    "NSEC": {"next_name": "dns.nsec.next_domain_name"},
    "TSIG": {"algorithm": "dns.tsig.algorithm_name"},
    "SVCB": {"priority": "dns.svcb.svcpriority", "target": "dns.svcb.targetname"},
    "HTTPS": {"priority": "dns.svcb.svcpriority", "target": "dns.svcb.targetname"},
}
NAMES = {
    "target", "exchange", "mname", "rname", "replacement", "signer", "next_name",
    "algorithm",
}  # fmt: skip
DNS_FIELDS = (
    "dns.id",
    "dns.flags.response",
    "dns.flags.opcode",
    "dns.flags.rcode",
    "dns.flags.authoritative",
    "dns.flags.truncated",
    "dns.flags.recdesired",
    "dns.flags.recavail",
    "dns.flags.authenticated",
    "dns.flags.checkdisable",
    "dns.count.queries",
    "dns.count.answers",
    "dns.count.auth_rr",
    "dns.count.add_rr",
    "dns.count.zones",
    "dns.count.prerequisites",
    "dns.count.updates",
    "dns.qry.name",
    "dns.qry.type",
    "dns.qry.class",
    "dns.resp.name",
    "dns.resp.type",
    "dns.resp.ttl",
    "dns.resp.len",
    "dns.txt",
    "dns.opt.code",
    "dns.opt.len",
    "dns.svcb.svcparam.key",
    *sorted({field for fields in RDATA.values() for field in fields.values()}),
)
MALFORMED_DNS = {
    # The counts are those of 64,259 questions and 63,165 answers.
    "tcpdump__dns_fwdptr.pcap": {1: "Response.questions"},
}


def number_of(value, names):
    """
    Give the number of what JSON has by name.
    """
    return value if isinstance(value, int) else int(names[value])


def shown(name):
    """
    Write a name as tshark does.
    """
    labels = [label.decode("utf-8", "replace") for label in dns.to_labels(name)]
    return ".".join(labels) or "<Root>"


def dns_fields(entry):
    """
    Say what tshark shows of a message.
    """
    head, body = entry["header"], entry["fields"]
    sections = ("answers", "authorities", "additionals")
    records = [record for section in sections for record in body[section]]
    found = defaultdict(list)
    for record in records:
        data = record["rdata"]
        for name, field in RDATA.get(record["type"], {}).items():
            if isinstance(data, dict):
                value = data[name]
                found[field].append(shown(value) if name in NAMES else str(value))
        if record["type"] == "TXT" and isinstance(data, dict):
            found["dns.txt"] += [bytes.fromhex(s).decode() for s in data["strings"]]
        if record["type"] == "OPT":
            codes = [number_of(o["code"], dns.OptionCode) for o in data["options"]]
            found["dns.opt.code"] += map(str, codes)
            found["dns.opt.len"] += [str(o["length"]) for o in data["options"]]
        if record["type"] in ("SVCB", "HTTPS") and isinstance(data, dict):
            keys = [number_of(p["key"], dns.SvcParamKey) for p in data["parameters"]]
            found["dns.svcb.svcparam.key"] += map(str, keys)
        found["dns.resp.type"].append(str(number_of(record["type"], dns.RRType)))
        if record["type"] in ("NSEC", "NSEC3"):  # the same field to tshark
            types = [number_of(t, dns.RRType) for t in data["types"]]
            found["dns.resp.type"] += map(str, types)

    def flag(name, *, answers_only=False):
        return [] if answers_only and not head["response"] else [str(int(head[name]))]

    counts = ("queries", "answers", "auth_rr", "add_rr")
    if head["opcode"] == "UPDATE":  # which has other names for the sections
        counts = ("zones", "prerequisites", "updates", "add_rr")
    numbers = ("question_count", "answer_count", "authority_count", "additional_count")
    for ours, theirs in zip(numbers, counts, strict=True):
        found[f"dns.count.{theirs}"].append(str(body[ours]))
    expected = {
        "dns.id": [f"0x{head['id']:04x}"],
        "dns.flags.response": flag("response"),
        "dns.flags.opcode": [str(number_of(head["opcode"], dns.Opcode))],
        "dns.flags.authoritative": flag("authoritative", answers_only=True),
        "dns.flags.truncated": flag("truncated"),
        "dns.flags.recdesired": flag("recursion_desired"),
        "dns.flags.recavail": flag("recursion_available", answers_only=True),
        "dns.flags.checkdisable": flag("checking_disabled"),
        "dns.qry.name": [shown(q["name"]) for q in body["questions"]],
        "dns.qry.type": [
            str(number_of(q["type"], dns.RRType)) for q in body["questions"]
        ],
        # The highest bit is mDNS's own (RFC 6762 section 5.4).
        "dns.qry.class": [
            f"0x{number_of(q['rrclass'], dns.RRClass) & 0x7FFF:04x}"
            for q in body["questions"]
        ],
        # The owners of SRV records are shown in three parts.
        "dns.resp.name": [shown(r["name"]) for r in records if r["type"] != "SRV"],
        "dns.resp.ttl": [str(r["ttl"]) for r in records if r["type"] != "OPT"],
        "dns.resp.len": [str(r["rdlength"]) for r in records],
    }
    if head["response"]:
        rcode = number_of(head["rcode"], dns.Rcode)
        expected["dns.flags.rcode"] = [str(rcode)]
    others = set(DNS_FIELDS) - expected.keys()
    # tshark shows the AD bit of some messages only, and no rcode of queries.
    others -= {"dns.flags.authenticated", "dns.flags.rcode"}
    if entry["dst"].endswith(":5355"):  # LLMNR has other flags in their places
        for name in ("authoritative", "recdesired", "recavail", "checkdisable"):
            others.discard(f"dns.flags.{name}")
            expected.pop(f"dns.flags.{name}")
    return expected | {field: found[field] for field in sorted(others)}


@each("dns")
def test_dns(path, tshark, decoded):
    """
    Every DNS message is to us what it is to tshark.
    """
    # Multicast DNS and LLMNR have the same format at ports of their own.
    code, ours = decoded("dns", path, (53, 5353, 5355))
    theirs = tshark(path, "dns || mdns || llmnr", DNS_FIELDS)
    malformed = MALFORMED_DNS.get(path.name, {})

    assert theirs.keys() == ours.keys()
    assert (1 if malformed else 0) == code
    for number, frame in theirs.items():
        (entry,) = ours[number]
        check_ends(frame, entry)
        payload = frame["udp.payload"] or [frame["tcp.payload"][0][4:]]
        assert payload == [entry["raw"]]
        is_response = frame["dns.flags.response"] == ["1"]
        assert ("response" if is_response else "request") == entry["direction"]
        if number in malformed:
            assert malformed[number] == entry["error"]["path"]
            assert frame["dns.id"] == [f"0x{entry['header']['id']:04x}"]
        else:
            assert entry["error"] is None
            compare(number, frame, dns_fields(entry))


# Modbus ------------------------------------------------------------------------

MODBUS_FIELDS = (
    "mbtcp.trans_id",
    "mbtcp.prot_id",
    "mbtcp.len",
    "mbtcp.unit_id",
    "modbus.func_code",
    "modbus.exception_code",
    "modbus.reference_num",
    "modbus.word_cnt",
    "modbus.bit_cnt",
    "modbus.byte_cnt",
    "modbus.regval_uint16",
    "modbus.diagnostic_code",
    "modbus.data",
    "modbus.read_device_id",
    "modbus.object_id",
)
MALFORMED_MODBUS = {
    "zeek__modbus-eit.pcap": {
        # It says that there are no objects, and has four bytes behind that.
        2: "DeviceIdentification.more_follows",
    },
    "zeek__fuzz-1011.pcap": {
        # A request for 147 registers, where 125 are allowed.
        1: "ReadInputRegisters.count",
    },
    "ics-security-tools__modbus_test_data_part1.pcap": {
        # A byte behind the object's number.
        32: "ReadDeviceIdentification",
        34: "ReadDeviceIdentification",
        # There is no function 42, and the length is three bytes short.
        111: "Mbap.function",
    },
}
BESIDES = {
    "zeek__fuzz-1011.pcap": [
        # The numbers of the fuzzed segments jump: it is told what is missing.
        (5, "a gap in the capture"),
        (6, "a gap in the capture"),
    ],
    "ics-security-tools__modbus_test_data_part1.pcap": [
        # tshark takes these for parts of something longer: a length of 34,820.
        (76, "34820"),
        (80, "451 bytes in which none was found"),
        # Protocol 16 in place of 0, so they are no Modbus.
        (80, "16"),
        (82, "16"),
        # What follows the short frame 111, cut as the stream is: a length of 256.
        (113, "256"),
    ],
}
"""What we tell of frames and tshark does not, by frame and by what is found."""


def modbus_fields(frame, entries):
    """
    Say what tshark shows of a frame's messages.
    """
    heads = [entry["header"] for entry in entries]
    expected = {
        "mbtcp.trans_id": [str(h["transaction"]) for h in heads],
        "mbtcp.prot_id": [str(h["protocol"]) for h in heads],
        "mbtcp.len": [str(h["length"]) for h in heads],
        "mbtcp.unit_id": [str(h["unit"]) for h in heads],
        "modbus.func_code": [str(h["function"] & 0x7F) for h in heads],
    }
    if any(entry["error"] for entry in entries):
        return expected
    named = [(entry["message"], entry["fields"]) for entry in entries]

    def every(field, *messages, write=str):
        return [write(body[field]) for name, body in named if name in messages]

    expected |= {
        "modbus.exception_code": every(
            "code", "ModbusException", write=lambda c: str(number_of(c, modbus.ExceptionCode))
        ),
        "modbus.word_cnt": every("count", "ReadHoldingRegisters", "ReadInputRegisters"),
        "modbus.bit_cnt": every(
            "count", "ReadCoils", "ReadDiscreteInputs", "WriteMultipleCoils",
            "CoilsWritten",
        ),
        "modbus.diagnostic_code": [
            str(number_of(body["diagnostic"], modbus.Diagnostic))
            for _, body in named if "diagnostic" in body
        ],
        "modbus.byte_cnt": [
            str(body["byte_count"])
            for name, body in named
            if "byte_count" in body and name != "ServerId"
        ],
        "modbus.object_id": every("object_id", "ReadDeviceIdentification"),
    }  # fmt: skip
    addressed = [str(body["address"]) for _, body in named if "address" in body]
    if addressed:  # with a response, tshark repeats the request's
        expected["modbus.reference_num"] = addressed
    registers = ("HoldingRegisters", "InputRegisters")
    if frame["modbus.regval_uint16"]:  # shown where it knows the request
        values = [str(v) for n, b in named if n in registers for v in b["values"]]
        expected["modbus.regval_uint16"] = values
    written = every("value", "RegisterWritten", write="{:04x}".format)
    if written:
        expected["modbus.data"] = written
    return expected


@each("modbus")
def test_modbus(path, tshark, decoded):
    """
    Every Modbus message is to us what it is to tshark, but for those listed above.
    """
    code, ours = decoded("modbus", path)
    theirs = tshark(path, "modbus", MODBUS_FIELDS)
    malformed = dict(MALFORMED_MODBUS.get(path.name, {}))
    besides = []
    for number in sorted(ours):
        for entry in list(ours[number]):
            if number not in theirs or not entry["raw"]:
                besides.append((number, entry["error"]["found"]))
                ours[number].remove(entry)

    assert BESIDES.get(path.name, []) == besides
    assert (1 if malformed or besides else 0) == code
    assert theirs.keys() == {number for number in ours if ours[number]}
    for number, frame in theirs.items():
        entries = ours[number]
        stream, raw = frame["tcp.payload"][0], "".join(e["raw"] for e in entries)
        # What follows a length that is too short belongs to the next frame.
        assert stream[: len(raw)] == raw
        assert len(stream) == len(raw) or number in malformed
        to_server = frame["tcp.dstport"] == ["502"]
        for entry in entries:
            check_ends(frame, entry)
            assert ("request" if to_server else "response") == entry["direction"]
            error = entry["error"]
            assert malformed.pop(number, None) == (error and error["path"])
        compare(number, frame, modbus_fields(frame, entries))
    assert not malformed


# NTP ---------------------------------------------------------------------------

NTP_FIELDS = (
    "ntp.flags.li",
    "ntp.flags.vn",
    "ntp.flags.mode",
    "ntp.stratum",
    "ntp.ppoll",
    "ntp.precision",
    "ntp.refid",
    "ntp.reftime",
    "ntp.org",
    "ntp.rec",
    "ntp.xmt",
    "ntp.ext.type",
    "ntp.ext.length",
    "ntp.keyid",
    "ntp.mac",
    "ntp.ctrl.flags2.r",
    "ntp.ctrl.flags2.error",
    "ntp.ctrl.flags2.more",
    "ntp.ctrl.flags2.opcode",
    "ntp.ctrl.sequence",
    "ntp.ctrl.status",
    "ntp.ctrl.associd",
    "ntp.ctrl.offset",
    "ntp.ctrl.count",
    "ntp.rootdelay",
    "ntp.rootdispersion",
)
DIRECTIONS = {0: "request", 3: "request", 4: "response"}


def moment(timestamp):
    """
    Write a timestamp as tshark does, to the nanosecond.
    """
    if not timestamp:
        return "NULL"
    seconds = timestamp >> 32
    seconds += 0 if seconds >> 31 else 1 << 32  # from 2036 on (RFC 4330 section 3)
    at = dt.datetime(1900, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)
    nanoseconds = (timestamp & 0xFFFFFFFF) * 10**9 >> 32
    return f"{at:%b} {at.day:2}, {at:%Y %H:%M:%S}.{nanoseconds:09} UTC"


def ntp_fields(entry):
    """
    Say what tshark shows of a message.
    """
    head, body = entry["header"], entry["fields"]
    mode = number_of(head["mode"], ntp.Mode)
    expected = {
        "ntp.flags.vn": [str(head["version"])],
        "ntp.flags.mode": [str(mode)],
    }
    if entry["message"] == "Control":
        words = [(body["status"], body["association"])]
        if body["response"] and body["opcode"] == "READ_STATUS":
            data = bytes.fromhex(body["data"])
            words += [(s, a) for a, s in struct.iter_unpack(">HH", data)]
        return expected | {
            "ntp.ctrl.flags2.r": [str(int(body["response"]))],
            "ntp.ctrl.flags2.error": [str(int(body["error"]))],
            "ntp.ctrl.flags2.more": [str(int(body["more"]))],
            "ntp.ctrl.flags2.opcode": [str(number_of(body["opcode"], ntp.Opcode))],
            "ntp.ctrl.sequence": [str(body["sequence"])],
            "ntp.ctrl.offset": [str(body["offset"])],
            "ntp.ctrl.count": [str(body["count"])],
            "ntp.ctrl.status": [f"0x{status:04x}" for status, _ in words],
            "ntp.ctrl.associd": [str(association) for _, association in words],
        }
    if entry["message"] == "Private":
        return expected
    mac = body["mac"]
    return expected | {
        "ntp.flags.li": [str(number_of(head["leap"], ntp.Leap))],
        "ntp.stratum": [str(body["stratum"])],
        "ntp.ppoll": [str(body["poll"])],
        "ntp.precision": [str(body["precision"] & 0xFF)],
        "ntp.reftime": [moment(body["reference_timestamp"])],
        "ntp.org": [moment(body["origin_timestamp"])],
        "ntp.rec": [moment(body["receive_timestamp"])],
        "ntp.xmt": [moment(body["transmit_timestamp"])],
        "ntp.refid": [body["reference_id"]],
        "ntp.ext.type": [f"0x{e['kind']:04x}" for e in body["extensions"]],
        "ntp.ext.length": [str(e["length"]) for e in body["extensions"]],
        "ntp.keyid": [f"{mac['key_id']:08x}"] if mac else [],
        "ntp.mac": [mac["digest"]] if mac and mac["digest"] else [],
        "ntp.rootdelay": [str(body["root_delay"])],
        "ntp.rootdispersion": [str(body["root_dispersion"])],
    }


@each("ntp")
def test_ntp(path, tshark, decoded):
    """
    Every NTP message is to us what it is to tshark.
    """
    code, ours = decoded("ntp", path)
    theirs = tshark(path, "ntp", NTP_FIELDS)

    assert 0 == code
    assert theirs.keys() == ours.keys()
    for number, frame in theirs.items():
        (entry,) = ours[number]
        check_ends(frame, entry)
        assert frame["udp.payload"] == [entry["raw"]]
        mode = int(frame["ntp.flags.mode"][0])
        assert DIRECTIONS.get(mode, "message") == entry["direction"]
        compare(number, frame, ntp_fields(entry))
