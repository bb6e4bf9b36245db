"""
The source of clients: that it is formatted, typed, and does what it says.
"""

import ast
import importlib
import importlib.util
import inspect
import json
import shutil
import subprocess
import sys
import threading
import types
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import attrs
import pytest
from construct import Const, Int8ub

from protoserve import (
    ErrorResponse,
    LengthPrefixed,
    Message,
    Protocol,
    Request,
    Service,
    route,
    wire,
)
from protoserve.exporters import TARGETS, ExportError, export
from protoserve.server import ThreadingTCPServer
from tests.exporters import nasty

ROOT = Path(__file__).parents[2]

PACKAGES = sorted(
    f"protocols.{path.parent.name}"
    for path in (ROOT / "protocols").glob("*/__init__.py")
)
PROTOCOLS = {
    f"{package}:{name}": protocol
    for package in PACKAGES
    for name, protocol in vars(importlib.import_module(package)).items()
    if isinstance(protocol, Protocol)
}
"""All that are there."""
PLACES = {
    place.partition(":")[2]: (place, protocol)
    for place, protocol in {
        **PROTOCOLS,
        "tests.exporters.nasty:nasty": nasty.nasty,
    }.items()
}

USE = """
# pyright: strict
from protocols.graphite import Metric
from protocols.modbus import HoldingRegisters, Mbap
from protocols.osc import Bundle, OscMessage
from protocols.sflow import AddressType, FlowFormat, FlowRecord, FlowSample, Sample, SampleType

from graphite_client import GraphiteClient
from modbus_client import AsyncModbusClient, ModbusClient
from nasty_client import NastyThing2Client
from osc_client import OscClient
from sflow_client import SflowClient


def right(client: ModbusClient, other: NastyThing2Client) -> HoldingRegisters:
    other.read_2("b")
    other.list_([[1, 2], [3, 4]])
    with ModbusClient("tcp://127.0.0.1:502", timeout=1) as opened:
        opened.read_coils(1, 2, timeout=0.5)
    return client.read_holding_registers(1, count=2, header=Mbap(unit=3))


async def awaited(client: AsyncModbusClient) -> HoldingRegisters:
    return await client.read_holding_registers(1, 2)


def sent(graphite: GraphiteClient, osc: OscClient, sflow: SflowClient) -> None:
    graphite.metrics([Metric("a.b", 1.5, tags={"host": "web"})])
    metrics: list[Metric] = []
    graphite.metrics(metrics)
    messages: list[OscMessage] = []
    osc.bundle(elements=messages)
    osc.osc_message("/led", [1, "on"])
    osc.bundle(elements=[OscMessage("/led"), Bundle(elements=[])])
    record = FlowRecord(FlowFormat.SAMPLED_HEADER, b"")
    flow = FlowSample(sequence_number=1, sampling_rate=2, flow_records=[record])
    sflow.datagram(
        agent_address_type=AddressType.IP_V4,
        agent_address="192.0.2.1",
        samples=[Sample(SampleType.FLOW, flow)],
    )


def wrong(client: ModbusClient, other: NastyThing2Client, graphite: GraphiteClient) -> None:
    graphite.metrics(["a.b 1.5"])  # E: a text
    graphite.metrics([Metric("a.b", "1.5")])  # E: a text
    graphite.metrics([], timeout=1.0)  # E: nothing is waited for
    client.read_holding_registers("1", 2)  # E: a text
    client.read_holding_registers(1)  # E: too few
    client.read_holding_registers(1, 2, unit=3)  # E: no such field
    client.read_coils(1, 2, header=3)  # E: no header
    other.read(3)  # E: no color
    other.refusable(at=1)  # E: an address is missing, and a time
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with all generated modules, and a program that uses them."""
    path = tmp_path_factory.mktemp("exported")
    for name, (place, protocol) in PLACES.items():
        text = export("client", protocol, place)
        (path / f"{name}_client.py").write_text(text, "utf-8")
        (path / f"strict_{name}.py").write_text(f"# pyright: strict\n{text}", "utf-8")
    (path / "use.py").write_text(USE, "utf-8")
    return path


def module_of(folder, name):
    spec = importlib.util.spec_from_file_location(
        f"{name}_client", folder / f"{name}_client.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_formatted(folder):
    """The formatter would change nothing, and imports are sorted."""
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is None:
        pytest.skip("ruff is not installed")
    files = sorted(map(str, folder.glob("*_client.py")))
    rules = ["--isolated", "--line-length", "88"]
    for command in (
        ["format", "--diff", *rules],
        ["check", "--select=I,F,W,UP", "--target-version=py311", *rules],
    ):
        done = subprocess.run(
            [ruff, *command, *files], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stdout


def mypy_errors(folder, files):
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary"]
    options = ["--hide-error-context", "--explicit-package-bases"]
    done = subprocess.run(
        [*command, *options, *files],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"MYPYPATH": f"{ROOT}:{folder}", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = [
        line.split(":", 2) for line in done.stdout.splitlines() if ": error" in line
    ]
    # By name: mypy remembers the errors of a file that only stood elsewhere before.
    ours = {Path(file).name for file in files}
    return {(Path(f).name, int(n)) for f, n, _ in found if Path(f).name in ours}


def pyright_errors(folder, files):
    config = folder / "pyrightconfig.json"
    config.write_text(
        json.dumps({"extraPaths": [str(ROOT), str(folder)], "pythonVersion": "3.11"})
    )
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "-p", str(config)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=None,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] >= len(files)
    return {
        (Path(e["file"]).name, e["range"]["start"]["line"] + 1)
        for e in report["generalDiagnostics"]
        if e["severity"] == "error"
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("errors_of", [mypy_errors, pyright_errors])
def test_type_checkers_know_it(folder, errors_of):
    """Strict type checkers find nothing in it, and what is wrong in its use."""
    pytest.importorskip(errors_of.__name__.partition("_")[0])
    files = [str(folder / f"strict_{name}.py") for name in PLACES]
    files.append(str(folder / "use.py"))
    lines = USE.splitlines()
    expected = {("use.py", i) for i, line in enumerate(lines, 1) if "# E:" in line}
    assert expected == errors_of(folder, files)


def methods(module, name):
    cls = getattr(module, name)
    return [n for n, v in vars(cls).items() if inspect.isfunction(v) and n[0] != "_"]


def test_names_are_resolved_by_rule(folder):
    """Names of Python and of the client get an underscore, namesakes a number."""
    module = module_of(folder, "nasty")
    expected = [
        "close_",
        "import_",
        "list_",
        "read",
        "refusable",
        "only_refused",
        "frozen",
        (
            "a_very_long_name_for_a_request_that_nobody_would_write_by_hand_but_a_"
            "generator_might"
        ),
        "dynamic",
        "stats_",
        "read_2",
    ]
    assert expected == methods(module, "NastyThing2Client")
    assert expected == methods(module, "AsyncNastyThing2Client")


def test_arguments_are_what_nothing_else_gives(folder):
    """Constants, lengths and counts are no arguments; what a class wants by name is."""
    client = module_of(folder, "nasty").NastyThing2Client
    frozen = inspect.signature(client.frozen).parameters
    assert ["place", "points", "data", "seven"] == list(frozen)[1:5]
    assert inspect.Parameter.KEYWORD_ONLY == frozen["data"].kind
    assert 7 == frozen["seven"].default
    written = inspect.signature(client.import_).parameters
    assert ["header", "timeout", "request", "given", "header_", "timeout_"] == list(
        written
    )[1:]
    coils = inspect.signature(module_of(folder, "modbus").ModbusClient.read_coils)
    assert ["address", "count", "header", "timeout"] == list(coils.parameters)[1:]


def test_a_header_with_nothing_to_say_is_no_argument():
    """A header that the client fills in by itself is left out."""
    plain = Protocol(
        "plain",
        framing=LengthPrefixed(Int8ub),
        header=Plain,
        tag="kind",
        correlate="sequence",
        requests={1: nasty.Close},
        responses={2: nasty.Done},
    )
    text = export("client", plain, "tests.exporters.nasty:plain")
    assert "timeout: float" in text
    assert "header" not in text


class Plain(Message):
    kind: int = wire(Int8ub, default=0)
    sequence: int = wire(Int8ub, default=0)
    magic: int = wire(Const(7, Int8ub))


def test_docstrings_tell_the_declaration(folder):
    """Docs, units and ranges are in the docstring, and which errors there may be."""
    client = module_of(folder, "nasty").NastyThing2Client
    text = inspect.getdoc(client.refusable)
    assert "host: who asks." in text
    assert "at: in s." in text
    assert "share: 100 at most." in text
    assert "ErrorResponse: the answer is a `Refused` or a `Broken`." in text
    text = inspect.getdoc(client.list_)
    assert 'A second paragraph, with a \\ and """ in it.' in text
    assert ">>>" not in text
    client = module_of(folder, "modbus").ModbusClient
    text = inspect.getdoc(client.read_holding_registers)
    assert "count: 1 to 125." in text


def test_what_is_only_sent(folder):
    """A class whose methods only send says so, and none of them takes a time."""
    client = module_of(folder, "statsd").StatsdClient
    about = " ".join(inspect.getdoc(client).split())
    assert "Each message is a method" in about
    assert "Nothing is answered" in about
    assert "timeout" not in about
    assert ["self", "lines"] == list(inspect.signature(client.metrics).parameters)


@attrs.define
class Handler:
    """Answers with what it was asked, as far as that can be seen in an answer."""

    seen: list = attrs.field(factory=list)

    @route
    def close(self, message: nasty.Close) -> nasty.Done:
        self.seen.append(message)
        return nasty.Done()

    @route
    def import_(self, message: nasty.Import) -> nasty.Done:
        self.seen.append(message)
        return nasty.Done()

    @route
    def list_(self, message: nasty.List) -> nasty.Point:
        self.seen.append(message)
        return message.list[-1] if message.list else nasty.Point(0)

    @route
    def read(self, message: nasty.Read) -> nasty.Later:
        self.seen.append(message)
        return nasty.Later(int(message.id))

    @route
    def refusable(self, message: nasty.Refusable) -> nasty.Refused:
        self.seen.append(message)
        return nasty.Refused(7)

    @route
    def frozen(self, message: nasty.Frozen) -> nasty.Done:
        self.seen.append(message)
        return nasty.Done()

    @route
    def plain(self, message: nasty.read) -> None:
        self.seen.append(message)

    @route
    def dynamic(self, message: nasty.Dynamic) -> None:
        self.seen.append(message)


@pytest.fixture
def served():
    handler = Handler()
    service = Service(nasty.nasty, handler)
    with ThreadingTCPServer(("127.0.0.1", 0), service.RequestHandlerClass) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        host, port = server.server_address[:2]
        yield handler.seen, f"tcp://{host}:{port}"
        server.shutdown()
        thread.join()
    service.close()


def test_its_methods_send_what_they_are_given(folder, served):
    """Each method sends its message, with the fields given and the defaults for others."""
    seen, url = served
    with module_of(folder, "nasty").NastyThing2Client(url) as client:
        assert nasty.Done() == client.close_(3)
        client.import_(1, given=[8, 9], header_=nasty.Head(0, unit=4))
        client.import_(2, 5, 6)
        points = [nasty.Point(1), nasty.Point(-2, nasty.Point.Kind.FAR)]
        assert points[1] == client.list_([[1, 2], [3, 4]], points)
        assert nasty.Later(2) == client.read()
        client.read_2("b")
        client.dynamic(1, 2)
        assert nasty.Done() == client.frozen(nasty.Point(5), data=b"abc")
        when = datetime(2026, 1, 2, tzinfo=UTC)
        with pytest.raises(ErrorResponse) as caught:
            client.refusable(host=IPv4Address("192.0.2.1"), at=when, wide=1 << 63)
        assert nasty.Refused(7) == caught.value.response
    both = nasty.Access.READ | nasty.Access.WRITE
    *others, refusable = seen
    assert [
        nasty.Close(3),
        nasty.Import(1, 3, 4, [8, 9]),
        nasty.Import(2, 5, 6, [1, 2]),
        nasty.List([[1, 2], [3, 4]], points),
        nasty.Read(nasty.Color.GREEN, both),
        nasty.read("b"),
        nasty.Dynamic(1, 2),
        nasty.Frozen(place=nasty.Point(5), data=b"abc", seven=7),
    ] == others
    assert (when, b"'\"\\\x00", 1 << 63) == (
        refusable.at,
        refusable.quotes,
        refusable.wide,
    )


def test_the_same_declaration_gives_the_same_text():
    """The text does not depend on the run: sets and hashes do not show."""
    code = (
        "import sys; from protoserve.exporters import export; "
        "from tests.exporters.nasty import nasty; "
        "sys.stdout.write(export('client', nasty, 'tests.exporters.nasty:nasty'))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"},
        ).stdout
        for seed in ("1", "2")
    }
    assert {export("client", *reversed(PLACES["nasty"])).encode()} == texts


def test_a_protocol_of_a_script_is_refused():
    """What cannot be imported cannot be exported."""
    with pytest.raises(ExportError, match="__main__; move the declaration to a module"):
        export("client", nasty.nasty, "__main__:nasty")


def test_a_class_inside_a_function_is_refused(monkeypatch):
    """A message that no module holds is named."""

    class Hidden(Request[nasty.Done]):
        value: int = wire(Int8ub)

    protocol = Protocol(
        "hidden",
        framing=LengthPrefixed(Int8ub),
        header=nasty.Head,
        tag="kind",
        requests={1: Hidden},
        responses={2: nasty.Done},
    )
    module = types.ModuleType("hidden_module")
    module.protocol = protocol
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(ExportError, match="Hidden cannot be imported"):
        export("client", protocol, "hidden_module:protocol")


def test_types_that_cannot_be_written_are_left_open(monkeypatch):
    """An annotation that names nothing becomes Any, and no header is no argument."""
    module = types.ModuleType("open_types")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    source = """
from __future__ import annotations
from construct import Int8ub, Bytes
from protoserve import LengthPrefixed, Message, Protocol, Request, wire

class Done(Message):
    pass

class Enquire(Request[Done]):
    what: Missing = wire(Int8ub)
    few: tuple[int, ...] | None = wire(Bytes(2), default=(1, 2))

tls = Protocol("open", framing=LengthPrefixed(Int8ub), requests=Enquire,
               responses=Done)
"""
    exec(compile(source, "open_types.py", "exec", dont_inherit=True), vars(module))
    text = export("client", module.tls, "open_types:tls")
    # An option of the constructor has that name.
    assert "from open_types import tls as tls_\n" in text
    assert "            tls_,\n            url,\n" in text
    ask = next(
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name == "enquire"
    )
    assert "self, what: Any, few: tuple[int, ...] | None=(1, 2), *, timeout: float | None=None" == ast.unparse(ask.args)  # fmt: skip


def test_an_unknown_target_suggests_the_nearest():
    """A wrong target is answered by the one that was meant."""
    with pytest.raises(
        ExportError, match="no export target 'cleint'; did you mean client"
    ):
        export("cleint", nasty.nasty, "tests.exporters.nasty:nasty")
    with pytest.raises(ExportError, match="known: client"):
        export("zzz", nasty.nasty, "tests.exporters.nasty:nasty")


def test_each_target_is_there():
    """Every entry of the table names a function."""
    from protoserve.exporters import exporter

    assert all(callable(exporter(target)) for target in TARGETS)
