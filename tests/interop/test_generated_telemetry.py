"""
Clients of syslog, collectd and OSC as ``protoserve export`` writes them, unedited, against
receivers that others wrote: what these have stored is what was sent.
"""

import queue
import threading

import pytest

from protocols import collectd, osc, syslog
from tests.interop import receivers
from tests.interop.conftest import START
from tests.interop.receivers import assert_soon, whole_lines

pytestmark = pytest.mark.interop

PASSWORD = "a secret"


# Syslog ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rsyslogd(require_program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rsyslogd")
    with receivers.rsyslogd(require_program("rsyslogd"), folder) as receiver:
        yield receiver


def logged(receiver, message):
    return [each for each in receiver.stored() if message in each["message"]]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_rsyslogd(client_of, rsyslogd, unique, transport):
    """rsyslogd finds in an entry of RFC 5424 what it was made of."""
    client = client_of("protocols.syslog:syslog", rsyslogd.urls[transport])
    quoted = 'a "quoted" ] \\ value'
    client.log(
        syslog.Entry(
            f"{unique} \N{GREEK SMALL LETTER MU}s\nand a second line",
            facility=syslog.Facility.LOCAL3,
            severity=syslog.Severity.ERR,
            timestamp="2026-03-01T12:00:00.125Z",
            hostname="boiler",
            app_name="burner",
            procid="17",
            msgid="ID47",
            structured_data=[
                syslog.Element("x@32473", [["a", "1"], ["b", quoted]]),
                syslog.Element("origin"),
            ],
        )
    )
    expected = {
        # rsyslogd leaves the mark that RFC 5424 section 6.4 puts before UTF-8.
        "message": f"\ufeff{unique} \N{GREEK SMALL LETTER MU}s#012and a second line",
        "facility": "local3",
        "severity": "err",
        "timestamp": "2026-03-01T12:00:00.125Z",
        "hostname": "boiler",
        "app_name": "burner",
        "procid": "17",
        "msgid": "ID47",
        "structured_data": '[x@32473 a="1" b="a \\"quoted\\" \\] \\\\ value"][origin]',
        "version": "1",
        "transport": f"im{transport}",
    }
    assert_soon([expected], lambda: logged(rsyslogd, unique))


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_rsyslogd_of_old(client_of, rsyslogd, unique, transport):
    """rsyslogd finds in an entry of RFC 3164 what it was made of."""
    client = client_of("protocols.syslog:syslog", rsyslogd.urls[transport])
    client.log(
        syslog.Entry(
            f"{unique} failed",
            facility=syslog.Facility.AUTH,
            severity=syslog.Severity.CRIT,
            version=None,
            timestamp="Oct 11 22:14:15",
            hostname="boiler",
            app_name="su",
            procid="17",
        )
    )
    expected = {
        "timestamp": "-10-11T22:14:15",
        "message": f" {unique} failed",
        "facility": "auth",
        "severity": "crit",
        "hostname": "boiler",
        "app_name": "su",
        "procid": "17",
        "msgid": "-",
        "structured_data": "-",
        "version": "0",
        "transport": f"im{transport}",
    }

    def found():
        # It takes the year that is nearest, and the zone that it is in itself.
        entries = logged(rsyslogd, unique)
        return [{**each, "timestamp": each["timestamp"][4:19]} for each in entries]

    assert_soon([expected], found)


def test_rsyslogd_framing(client_of, rsyslogd, unique):
    """Over TCP counted entries and, where there is no priority, lines follow each other."""
    client = client_of("protocols.syslog:syslog", rsyslogd.urls["tcp"])
    bare = {"facility": None, "severity": None, "version": None, "app_name": "su"}
    bare |= {"timestamp": "Oct 11 22:14:15", "hostname": "boiler"}
    for number in range(2):
        client.log(syslog.Entry(f"{unique} counted {number}\nand more"))
        client.log(syslog.Entry(f"{unique} line {number}", **bare))
    expected = [
        f"{unique} counted 0#012and more",
        f" {unique} line 0",
        f"{unique} counted 1#012and more",
        f" {unique} line 1",
    ]
    assert_soon(
        expected, lambda: [each["message"] for each in logged(rsyslogd, unique)]
    )


def test_rsyslogd_by_lines(client_of, rsyslogd, unique):
    """The client of a protocol that only frames otherwise sends a line an entry."""
    client = client_of("tests.interop.lined:syslog_lines", rsyslogd.urls["tcp"])
    texts = [f"{unique} one", f"{unique} two"]
    for text in texts:
        client.log(syslog.Entry(text, severity=syslog.Severity.DEBUG))

    def found():
        entries = logged(rsyslogd, unique)
        return [(each["message"], each["severity"]) for each in entries]

    assert_soon([(text, "debug") for text in texts], found)


# collectd ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def collectd_daemon(require_program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("collectd")
    path, passwords = require_program("collectd"), {"alice": PASSWORD}
    with receivers.collectd(path, folder, passwords) as receiver:
        yield receiver


def parts(host):
    part, kind, value = collectd.Part, collectd.PartType, collectd.ValueType
    return [
        part(kind.HOST, host),
        part(kind.TIME_HR, int(1_800_000_000.25 * 2**30)),
        part(kind.INTERVAL_HR, 10 << 30),
        part(kind.PLUGIN, "boiler"),
        part(kind.PLUGIN_INSTANCE, "one"),
        part(kind.TYPE, "temperature"),
        part(kind.TYPE_INSTANCE, "water"),
        part(kind.VALUES, collectd.Values([value.GAUGE], [21.5])),
        part(kind.TYPE, "if_octets"),
        part(kind.VALUES, collectd.Values([value.DERIVE] * 2, [1 << 40, 7])),
    ]


def sealed(way, host, password=PASSWORD):
    """Give the parts as they are sent in one of collectd's three ways."""
    if way == "plain":
        return parts(host)
    make = {"signed": collectd.Packet.signed, "encrypted": collectd.Packet.encrypted}
    return make[way](parts(host), "alice", password).parts


@pytest.mark.parametrize("way", ["plain", "signed", "encrypted"])
def test_collectd(client_of, collectd_daemon, unique, way):
    """collectd stores the values, of signed and encrypted packets too."""
    client = client_of("protocols.collectd:collectd", collectd_daemon.urls[way])
    client.packet(sealed(way, unique))
    name = f"{unique}/boiler-one"
    stored = collectd_daemon.stored
    octets = [(1_800_000_000.25, 1 << 40, 7)]
    assert_soon(octets, lambda: stored(f"{name}/if_octets-water"))
    assert_soon([(1_800_000_000.25, 21.5)], lambda: stored(f"{name}/temperature-water"))


@pytest.mark.parametrize("way", ["signed", "encrypted"])
def test_collectd_refuses(client_of, collectd_daemon, unique, way):
    """collectd takes nothing that has another password, and takes what comes after it."""
    client = client_of("protocols.collectd:collectd", collectd_daemon.urls[way])
    client.packet(sealed(way, f"{unique}-wrong", "another"))
    client.packet(sealed(way, f"{unique}-right"))
    name, stored = "boiler-one/temperature-water", collectd_daemon.stored
    right = [(1_800_000_000.25, 21.5)]
    assert_soon(right, lambda: stored(f"{unique}-right/{name}"))
    assert [] == stored(f"{unique}-wrong/{name}")


def test_collectd_notification(client_of, collectd_daemon, unique):
    """collectd passes a notification on."""
    client = client_of("protocols.collectd:collectd", collectd_daemon.urls["plain"])
    part, kind = collectd.Part, collectd.PartType
    client.packet(
        [
            part(kind.HOST, unique),
            part(kind.TIME_HR, 1_800_000_000 << 30),
            part(kind.PLUGIN, "boiler"),
            part(kind.TYPE, "temperature"),
            part(kind.SEVERITY, collectd.Severity.WARNING),
            part(kind.MESSAGE, "too hot"),
        ]
    )
    log = collectd_daemon.folder / "log"

    def told():
        lines = [line for line in whole_lines(log) if unique in line]
        return [line.partition("] ")[2] for line in lines]

    expected = (
        f"Notification: severity = WARNING, host = {unique}, plugin = boiler, "
        "type = temperature, message = too hot"
    )
    assert_soon([expected], told)


# OSC ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oscdump(require_program, tmp_path_factory):
    path, folder = require_program("oscdump"), tmp_path_factory.mktemp
    with (
        receivers.oscdump(path, folder("oscdump"), "udp") as udp,
        receivers.oscdump(path, folder("oscdump"), "tcp") as tcp,
    ):
        yield {"udp": udp, "tcp": tcp}


# Of messages in SLIP, OSC 1.1's framing of streams, liblo 0.31 loses some.
@pytest.mark.parametrize(("version", "transport"), [("osc", "udp"), ("osc_1_0", "tcp")])
def test_oscdump(client_of, oscdump, unique, version, transport):
    """liblo's oscdump shows messages, those of bundles too."""
    ((_, url),) = oscdump[transport].urls.items()
    client = client_of(f"protocols.osc:{version}", url)
    client.osc_message(f"/{unique}", [7, 0.5, "text", b"\x00\xff", True])
    client.osc_message(f"/{unique}/typed", [1 << 40, "x"], types="hc")
    inner = osc.OscMessage(f"/{unique}/last", [None])
    client.bundle(elements=[osc.Bundle(elements=[inner])])

    def shown():
        lines = oscdump[transport].stored()
        return [line for line in lines if f"/{unique}" in line]

    expected = [
        f'/{unique} ifsbT 7 0.500000 "text" [2b 00 0xff] #T',
        f"/{unique}/typed hc 1099511627776 'x'",
        f"/{unique}/last N Nil",
    ]
    assert_soon(expected, shown)


def test_python_osc(client_of, require_module):
    """python-osc's server gets messages in SLIP, OSC 1.1's framing of streams."""
    came = queue.Queue()
    dispatcher = require_module("pythonosc.dispatcher").Dispatcher()
    dispatcher.set_default_handler(lambda address, *args: came.put((address, args)))
    servers = require_module("pythonosc.osc_tcp_server")
    server = servers.BlockingOSCTCPServer(("127.0.0.1", 0), dispatcher, "1.1")
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"tcp://127.0.0.1:{server.server_address[1]}"
            client = client_of("protocols.osc:osc", url)
            client.osc_message("/a", [7, "x", b"\xdb\xc0"])
            client.bundle(elements=[osc.OscMessage("/b", [True])])
            found = [came.get(timeout=START) for _ in range(2)]
            client.close()  # the server waits for the end of each connection
        finally:
            server.shutdown()
            thread.join(START)
    assert [("/a", (7, "x", b"\xdb\xc0")), ("/b", (True,))] == found
