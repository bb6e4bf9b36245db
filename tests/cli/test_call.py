"""
``protoserve call``: a request from words, and its answer.
"""

import json
import ssl

import pytest
import trustme
from construct import Array, Int8ub, Int16ub, PascalString, this

from examples import dns_server, modbus_station, ntp_server
from protoserve import (
    LengthPrefixed,
    Message,
    Protocol,
    Request,
    Service,
    count_of,
    route,
    wire,
)
from tests.cli.commanding import serving
from tests.service.kit import Ping as SpokenPing
from tests.service.kit import spoken

MODBUS = "protocols.modbus:modbus"
DNS = "protocols.dns:dns"
NTP = "protocols.ntp:ntp"


@pytest.fixture(scope="module")
def modbus_url():
    with serving(modbus_station.app) as url:
        yield url


@pytest.fixture(scope="module", params=["tcp", "udp"])
def dns_url(request):
    with serving(dns_server.app, request.param) as url:
        yield url


def test_answer_is_a_tree(command, dns_url):
    """An answer is shown with names for numbers, and units."""
    code, out, err = command(
        "call", DNS, dns_url, "Query", "questions.0.name=www.example.test"
    )
    assert (0, "") == (code, err)
    first, *rest = out.splitlines()
    assert first.startswith(f"Response  from {dns_url} in ")
    for line in ("type CNAME (5)", "ttl 3600 s", "rdata A", "address 192.0.2.1"):
        assert any(line in each for each in rest), line


def test_answer_as_json(command, dns_url):
    """With --json the answer is one object, with the keys of all commands."""
    code, out, err = command(
        *(
            "call",
            DNS,
            dns_url,
            "Query",
            "--json",
            "--header",
            "recursion_desired=true",
        ),
        *("questions.0.name=example.test", "questions.0.type=mx"),
    )
    assert (0, "") == (code, err)
    (line,) = out.splitlines()
    entry = json.loads(line)
    keys = "n time transport src dst direction message header fields raw error"
    assert keys.split() == list(entry)
    assert "Response" == entry["message"]
    assert entry["header"]["recursion_desired"] is True
    assert "MX" == entry["fields"]["answers"][0]["type"]
    assert "mail.example.test" == entry["fields"]["answers"][0]["rdata"]["exchange"]
    assert entry["raw"].startswith(f"{entry['header']['id']:04x}")
    assert entry["error"] is None
    assert dns_url == f"{entry['transport']}://{entry['src']}"


def test_ntp(command):
    """A protocol of datagrams alone is asked in the same way."""
    with serving(ntp_server.app, "udp") as url:
        code, out, _ = command("call", NTP, url, "ClientRequest", "poll=-3", "--json")
    assert 0 == code
    assert "SERVER" == json.loads(out)["header"]["mode"]


@pytest.mark.parametrize(
    "words",
    [
        ["address=5", "values.0=7", "values.1=8"],
        ["address=0x5", "values=[7, 8]"],
        ["--data", '{"address": 5, "values": [7, 8]}'],
        ["--data", '{"address": 1, "values": [7, 8]}', "address=5"],
    ],
)
def test_ways_to_write_fields(command, modbus_url, words):
    """Fields go by dots, as JSON values, or all in one JSON object."""
    code, out, _ = command(
        "call", MODBUS, modbus_url, "WriteMultipleRegisters", *words, "--json"
    )
    assert 0 == code
    assert {"address": 5, "count": 2} == json.loads(out)["fields"]


def test_data_from_standard_input(command, modbus_url):
    """--data - reads the fields."""
    code, out, _ = command(
        *("call", MODBUS, modbus_url, "WriteSingleRegister", "--data", "-"),
        lines='{"address": 9, "value": 513}',
    )
    assert 0 == code
    assert "value 513" in out


def test_error_response(command, modbus_url):
    """A declared error is shown, and is exit code 1."""
    ask = (
        "call",
        MODBUS,
        modbus_url,
        "ReadHoldingRegisters",
        "address=5000",
        "count=1",
    )
    code, out, _ = command(*ask)
    assert 1 == code
    assert "ModbusException  an error from tcp://" in out
    assert "ILLEGAL_DATA_ADDRESS (2)" in out
    code, out, _ = command(*ask, "--json")
    assert 1 == code
    entry = json.loads(out)
    assert {"code": "ILLEGAL_DATA_ADDRESS", "extra": ""} == entry["fields"]
    assert entry["raw"].endswith("018302")


WRONG = [
    ("protocols.modbs:modbus", "ReadCoils", [], "did you mean protocols.modbus?"),
    ("modbus:modbus", "ReadCoils", [], "did you mean protocols.modbus?"),
    ("protocol.modbus:modbus", "ReadCoils", [], "did you mean protocols.modbus?"),
    ("protocols.modbus:modbsu", "ReadCoils", [], "did you mean modbus?"),
    ("modbus", "ReadCoils", [], "expected MODULE:NAME, as in protocols.modbus:modbus"),
    ("mdbus", "ReadCoils", [], "expected MODULE:NAME, as in protocols.modbus:modbus"),
    (MODBUS, "ReadCoil", [], "no request 'ReadCoil'; did you mean ReadCoils?"),
    (MODBUS, "Coils", [], "Coils is a response of modbus, which a client does not"),
    (MODBUS, "ReadCoils", ["adress=1"], "did you mean address?"),
    (MODBUS, "ReadCoils", ["count=1"], "ReadCoils needs address=VALUE (uint16, big-"),
    (MODBUS, "ReadCoils", ["address=1", "address=1"], "it is given already, address=1"),
    (MODBUS, "ReadCoils", ["address"], "'address': expected FIELD=VALUE, as in addr"),
    (MODBUS, "ReadCoils", ["address=x"], "expected an integer in 0..65535 (Int16ub)"),
    (MODBUS, "ReadCoils", ["address=70000", "count=1"], "in 0..65535 (Int16ub), found"),
    (MODBUS, "ReadCoils", ["address=1", "count=9999"], "must be <= 2000"),
    (MODBUS, "ReadCoils", ["address.0=1"], "found [1]"),
    (MODBUS, "ReadCoils", ["a..b=1"], "names joined by single dots"),
    (MODBUS, "ReadCoils", ["--data", "{"], "--data: no JSON: "),
    (MODBUS, "ReadCoils", ["--data", "[1]"], "a JSON object with the message's fields"),
    (MODBUS, "ReadCoils", ["--header", "unti=1"], "did you mean unit?"),
    (
        MODBUS,
        "ReadCoils",
        ["address=1", "count=1", "--header", "unit=900"],
        "Mbap.unit: expected an integer in 0..255 (Int8ub), found 900",
    ),
    (MODBUS, "ReadCoils", ["--timeout", "0"], "expected a time above 0, not '0'"),
    (MODBUS, "ReadCoils", ["--timeout", "soon"], "a time such as 10s or 500ms"),
    (
        MODBUS,
        "ReadExceptionStatus",
        ["--tls-ca", "x"],
        "are for tls://HOST:PORT, not tcp://",
    ),
    (MODBUS, "ReadCoils", ["--tiemout", "1"], "No such option: --tiemout"),
    (
        MODBUS,
        "WriteMultipleCoils",
        ["address=1", "byte_count=9"],
        "it is filled in, as",
    ),
    (MODBUS, "ReadCoils", ["--header", "transaction=1"], "the client chooses it"),
    (
        DNS,
        "Query",
        ["questions.0.name=a", "questions.0.type=AAAAA"],
        "did you mean AAAA?",
    ),
    (DNS, "Query", ["questions.1.name=a"], "the number of an element, 0, found '1'"),
    (DNS, "Query", ["questions.0.name=[1]"], "expected text"),
    (NTP, "ClientRequest", ["reference_id=zz"], "bytes, as hex:0a0b or text:hello"),
    (NTP, "ClientRequest", [], "ntp exists on datagrams only"),
]


@pytest.mark.parametrize(("target", "message", "words", "text"), WRONG)
def test_what_is_typed_wrong(command, target, message, words, text):
    """What is wrong is one line that says so, exit code 2, and nothing is sent."""
    code, out, err = command("call", target, "tcp://127.0.0.1:1", message, *words)
    assert (2, "") == (code, out)
    assert 1 == err.count("\n")
    assert text in err


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("tpc://127.0.0.1:1", "unknown transport 'tpc'; did you mean tcp?"),
        ("127.0.0.1:1", "is no URL"),
        ("tcp://127.0.0.1", "expected HOST:PORT"),
        ("tcp://127.0.0.1:0", "port 0 is no port to connect to"),
    ],
)
def test_wrong_urls(command, url, text):
    """A URL that cannot be one is exit code 2."""
    code, _, err = command("call", MODBUS, url, "ReadExceptionStatus")
    assert 2 == code
    assert text in err


def test_nearest_command(command):
    """An unknown command suggests the nearest."""
    code, _, err = command("cal")
    assert 2 == code
    assert "Did you mean 'call'" in err


def test_what_is_no_request(command):
    """A message that nothing is known to answer is not asked: send is for that."""
    url = "udp://127.0.0.1:1"
    code, _, err = command("call", NTP, url, "Broadcast")
    assert 2 == code
    assert "protoserve send sends it" in err


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_refused(command, transport):
    """That nobody listens is told, and exit code 1."""
    code, out, err = command(
        "call", MODBUS, f"{transport}://127.0.0.1:1", "ReadExceptionStatus"
    )
    assert (1, "") == (code, out)
    text = f"protoserve: refused: nobody listens at {transport}://127.0.0.1:1\n"
    assert text == err


def test_timeout(command):
    """That no answer comes in time is told, and exit code 1."""

    class Silent:
        @route
        def ping(self, message: SpokenPing):
            pass

    with serving(Service(spoken, Silent()), "tcp") as url:
        code, out, err = command(
            *("call", "tests.service.kit:spoken", url, "Ping", "value=1"),
            *("--timeout", "50ms"),
        )
    assert (1, "") == (code, out)
    assert err.startswith("protoserve: timed out: no answer to Ping from tcp://")


class Head(Message):
    kind: int = wire(Int8ub, default=0)
    number: int = wire(Int16ub, default=0)


class Pong(Message):
    word: str = wire(PascalString(Int8ub, "utf8"))
    count: int = wire(Int8ub, value=count_of("levels"))
    levels: list = wire(Array(this.count, Int16ub), factory=list)


class Bad(Message):
    what: int = wire(Int16ub)


class Ping(Request[Pong]):
    word: str = wire(PascalString(Int8ub, "utf8"), default="x")


class Poke(Request[Bad]):
    word: str = wire(PascalString(Int8ub, "utf8"), default="x")


talk = Protocol(
    "talk",
    framing=LengthPrefixed(Int16ub, max_size=4096),
    header=Head,
    tag="kind",
    requests={1: Ping},
    responses={2: Pong},
    correlate="number",
)
broken = Protocol(
    "broken",
    framing=LengthPrefixed(Int16ub, max_size=4096),
    header=Head,
    tag="kind",
    requests={1: Poke},
    responses={2: Bad},
    correlate="number",
)


class Speaker:
    @route
    def ping(self, message: Ping) -> Pong:
        return Pong(message.word, levels=list(range(100)))


class Breaker:
    @route
    def poke(self, message: Poke) -> Bad:
        return Bad(7)


def test_nothing_of_a_peer_reaches_the_terminal_as_it_is(command):
    """Escape sequences and line ends of a peer are shown escaped, long lists cut."""
    word = "\x1b[31mred\n[bold]"
    with serving(Service(talk, Speaker())) as url:
        code, out, _ = command(
            "call", "tests.cli.test_call:talk", url, "Ping", f"word={word}"
        )
    assert 0 == code
    assert "\x1b" not in out
    assert r"word \x1b[31mred\n[bold]" in out
    assert "63, … 36 more]" in out


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_malformed_answer(command, form):
    """An answer that is none is told, in JSON with its place, and exit code 1."""
    with serving(Service(broken, Breaker())) as url:
        code, out, err = command("call", "tests.cli.test_call:talk", url, "Ping", *form)
    assert 1 == code
    if form:
        error = json.loads(out)["error"]
        assert ["path", "offset", "expected", "found"] == list(error)
        assert "Pong.levels[0]" == error["path"]
    else:
        assert "the peer broke the protocol: Pong.levels[0] at offset 5" in err


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    (folder / "none.pem").write_text("nothing")
    return folder


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--tls-ca", "ca.pem"], 0, ""),
        (["--insecure"], 0, ""),
        ([], 1, "TLS with tls://127.0.0.1:"),
        (["--tls-ca", "missing.pem"], 2, "missing.pem: No such file"),
        (["--tls-ca", "none.pem"], 2, "none.pem: no PEM file that fits"),
        (["--tls-key", "server.pem"], 2, "--tls-key is given without --tls-cert"),
        (["--insecure", "--tls-cert", "none.pem"], 2, "no PEM file that fits"),
    ],
)
def test_tls(command, certificates, monkeypatch, options, code, text):
    """The server's certificate is checked, by what one says."""
    monkeypatch.chdir(certificates)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.pem")
    with serving(Service(talk, Speaker()), "tls", context) as url:
        ended, _, err = command(
            "call", "tests.cli.test_call:talk", url, "Ping", *options
        )
    assert code == ended, err
    assert text in err
