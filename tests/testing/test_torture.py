"""
Torture of services, and what is done with what it finds.
"""

import contextlib
import enum
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import attrs
import pytest
from construct import Int8ub, Int16ub

from examples.sensor_station import app, sensors
from protoserve import (
    DeclarationError,
    Direction,
    MalformedMessageError,
    Message,
    Protocol,
    Request,
    Service,
    route,
    wire,
)
from protoserve.cli import torturing
from protoserve.cli.targets import CommandError
from protoserve.cli.torturing import torture_server
from protoserve.journal import read_journal
from protoserve.replaying import SourceError
from protoserve.serve import StartError
from protoserve.testing import torture
from protoserve.testing.torturing import KINDS, as_junit, requests_in, save, symptoms
from protoserve.testing.torturing.breaking import (
    FIELDS,
    broken_fields,
    broken_framing,
    truncated,
)
from protoserve.testing.torturing.judging import Conversation
from protoserve.testing.torturing.making import cases
from protoserve.testing.torturing.memory import Memory
from protoserve.testing.torturing.plans import Plan
from protoserve.testing.torturing.seeds import Seed, drawn
from tests.testing.planted import Add, Paint, Planted, toy

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


class Kind(enum.IntEnum):
    GOOD = 1
    ODD = 2


class Done(Message):
    value: int = wire(Int16ub)


class Work(Request[Done]):
    kind: Kind | int = wire(Int8ub, enum=Kind)


class Header(Message):
    sequence: int = wire(Int16ub, default=0)


work = Protocol(
    "work", header=Header, requests=Work, responses=Done, correlate="sequence"
)


@attrs.define
class Worker:
    """Fails for what is no kind."""

    careful: bool

    @route
    def work(self, message: Work) -> Done:
        """Do it."""
        if message.kind > 200 and not self.careful:
            raise LookupError(f"no kind {message.kind}")
        return Done(int(message.kind))


@pytest.mark.parametrize(
    ("mode", "transport"),
    [
        ("threads", "tcp"),
        ("loop", "unix"),
        ("prefork", "tcp"),
        ("batch", "udp"),
        ("pool", "tls"),
        ("loop", "unixgram"),
    ],
)
def test_services_pass(mode, transport):
    """A service of ours survives, in every mode and over every transport."""
    report = torture(app, mode=mode, transport=transport, budget=120, seed=5)
    assert [] == report.findings
    assert 120 == report.cases == sum(report.by_kind.values())


def test_exception():
    """What a handler raises is told with its place, and the case that did it."""
    report = torture(
        Service(work, Worker(careful=False)), transport="udp", budget=150, shrink=0.5
    )
    (finding,) = report.findings
    assert "exception" == finding.category
    assert "LookupError: no kind" in finding.text
    assert "test_torture.py" in finding.text
    assert finding.case is not None


def test_careful():
    """The same service passes when it does not raise."""
    report = torture(Service(work, Worker(careful=True)), transport="udp", budget=150)
    assert [] == report.findings


def plan():
    return Plan(toy, stream=True, seeds=drawn(toy, 4, 1, stream=True))


def test_reproducible():
    """The same seed gives the same cases, another one others."""
    first, again, other = (
        [next(source) for _ in range(200)]
        for source in (cases(plan(), 1), cases(plan(), 1), cases(plan(), 2))
    )
    assert first == again
    assert first != other


def test_classes():
    """A small budget has cases of every class that the protocol can have."""
    source = cases(plan(), 1)
    kinds = {next(source).kind for _ in range(300)}
    answered = {"coalesced", "duplicated", "half-open", "interleaved", "reordered"}
    assert kinds == set(KINDS) - answered - {"slow", "split"} - {
        "constant",
        "length",
        "state",
    }


def test_truncated():
    """A frame is cut at every byte."""
    assert [b"", b"a", b"ab"] == [broken.data for broken in truncated(b"abc")]


def frame():
    return Seed(toy, None, Add(values=[7, 8])).frame(5)


@pytest.mark.parametrize("kind", ["count", "checksum", "tag"])
def test_broken_fields(kind):
    """A field is broken by itself: what is malformed is that field, or due to it."""
    found = list(broken_fields(toy, frame(), kind))
    assert found
    for broken in found:
        assert len(frame()) == len(broken.data)
        if kind != "tag":
            with pytest.raises(MalformedMessageError) as caught:
                toy.parse(broken.data, Direction.REQUEST)
            assert ("check" in caught.value.path) is (kind == "checksum")


def test_field_boundaries():
    """A byte gets the values at which programs go wrong."""
    values = {broken.data[3] for broken in broken_fields(toy, frame(), "count")}
    assert {0, 1, 3, 127, 128, 254, 255} <= values
    assert 2 not in values


def test_broken_framing():
    """What goes before a frame is broken like a number."""
    sent = toy.framing.encode(frame())
    prefixes = {broken.data[:2] for broken in broken_framing(frame(), sent)}
    assert {b"\0\0", b"\xff\xff", b"\x7f\xff", b"\0\x09"} <= prefixes


def grow(*sizes):
    memory = Memory()
    for i, size in enumerate(sizes):
        memory.sample(100 * i, size * MIB)
    return memory.verdict()


def test_memory():
    """Memory that grows to the end is told; a step, or a little, is not."""
    assert "it grew from" in grow(*range(50, 250, 10))
    assert grow(*[50] * 10, *[120] * 10) is None
    assert grow(*range(50, 60)) is None
    assert grow(50, 90, 130) is None


def test_saved(tmp_path):
    """A finding becomes a journal, and a test that fails as long as it is there."""
    with Planted("count unchecked") as planted:
        report = torture(
            toy, planted.url, budget=200, deadline=0.5, most=1, shrink=0.5, seed=2
        )
        journal, test = save(
            report.findings[0],
            tmp_path,
            protocol=toy,
            target="tests.testing.planted:toy",
            url=planted.url,
            probe=report.probe,
        )
        assert [step.data for step in report.findings[0].case.steps] == [
            entry.raw for entry in read_journal(journal)
        ]
        space = {}
        exec(compile(test.read_text(), str(test), "exec"), space)
        with pytest.raises(AssertionError):
            space["test_" + report.findings[0].name]()
        case = space["CASE"]
    with Planted() as healthy:
        assert [] == symptoms(toy, healthy.url, case, probe=report.probe)


def test_junit():
    """JUnit's XML has a test case for each class, and one that fails for a finding."""
    with Planted("checksum unchecked") as planted:
        report = torture(
            toy, planted.url, budget=100, deadline=0.5, most=1, shrink=0.3, seed=2
        )
    suite = ET.fromstring(as_junit(report)).find("testsuite")
    assert {*KINDS, "server"} == {case.get("name") for case in suite}
    (failure,) = suite.iter("failure")
    assert "accepted" == failure.get("type")
    assert "1" == suite.get("failures")


def test_recorded():
    """Requests of a recording are played; one that has none is refused."""
    seen = []
    with Planted() as planted:
        report = torture(
            toy,
            planted.url,
            budget=60,
            recorded=[frame()],
            only=["valid"],
            progress=seen.append,
        )
    assert [] == report.findings
    assert {"valid": 60} == report.by_kind
    assert report is seen[-1]
    with pytest.raises(StartError, match="none of the 1 recorded"):
        torture(sensors, "tcp://127.0.0.1:1", recorded=[b"?"])


def test_recording_without_requests(tmp_path):
    """A journal without a request of the protocol is told."""
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    with pytest.raises(SourceError, match="no request of toy"):
        requests_in(toy, str(path))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((toy,), "needs the server's url="),
        ((app, "tcp://127.0.0.1:1"), "leave url= out"),
        ((7,), "takes a Service or a Protocol"),
        ((work, "tcp://127.0.0.1:1"), "no framing="),
    ],
)
def test_wrong_use(arguments, text):
    """Wrong use is told in a line."""
    with pytest.raises(DeclarationError, match=text):
        torture(*arguments)


def test_wrong_class():
    """The nearest class of cases is suggested."""
    with pytest.raises(DeclarationError, match="did you mean truncated"):
        torture(app, only=["truncate"])


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "protoserve", "torture", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


TARGET = "tests.testing.planted:toy"


def test_command(tmp_path):
    """The command writes JSON, JUnit's XML and files, and exits with 1 for a finding."""
    with Planted("wrong type") as planted:
        done = command(
            TARGET,
            planted.url,
            "--budget",
            60,
            "--json",
            "--timeout",
            "0.5",
            "--junit",
            tmp_path / "junit.xml",
            "--save",
            tmp_path / "found",
            "--pid",
            planted.pid,
        )
    assert (1, "") == (done.returncode, done.stderr)
    (finding,) = json.loads(done.stdout)["findings"]
    assert "wrong-type" == finding["category"]
    assert (tmp_path / "junit.xml").read_text().startswith("<?xml")
    assert 2 == len(list((tmp_path / "found").iterdir()))


def run_here(*arguments, **options):
    given = dict.fromkeys(("source", "save", "junit"))
    options = {**given, "ports": (), "as_json": False, "budget": 60, **options}
    return torture_server(TARGET, *arguments, **options)


def test_command_shows(capsys):
    """The command shows what is sent and answered, field by field."""
    with Planted("wrong type") as planted:
        code = run_here(planted.url, deadline=0.5, shrink=0.5)
    assert 1 == code
    shown = capsys.readouterr().out
    assert "1. wrong-type: Paint is answered by Sum" in shown
    assert "colour" in shown
    assert shown.endswith("1 finding\n")


def test_command_passes(capsys):
    """The command exits with 0 where nothing is found."""
    with Planted() as planted:
        assert 0 == run_here(planted.url, seed=4)
    assert capsys.readouterr().out.endswith("nothing found\n")


def test_command_is_interrupted(capsys, monkeypatch):
    """What was found until then is shown, and the rest is not played."""
    told = []

    def interrupt(report):
        told.append(report.cases)
        if report.findings:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def bar(_console, _budget):
        yield interrupt

    monkeypatch.setattr(torturing, "_bar", bar)
    with Planted("wrong type") as planted:
        assert 1 == run_here(planted.url, deadline=0.5, shrink=0.5, budget=100_000)
    shown = capsys.readouterr().out
    assert "1. wrong-type" in shown
    assert "stopped: it was interrupted" in shown
    assert told


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "cannot reach tcp://127.0.0.1:1: "),
        ({"source": "/none.pcap"}, "cannot read /none.pcap: "),
        ({"junit": "/none/x.xml"}, "cannot write /none/x.xml: there is no folder"),
        ({"pid": 99_999_999}, "there is no process 99999999"),
    ],
)
def test_command_refuses(options, text):
    """What cannot be begun is told in one line."""
    with pytest.raises(CommandError, match=text) as caught:
        run_here("tcp://127.0.0.1:1", **options)
    assert "\n" not in str(caught.value)


def test_fields():
    """Every kind of field that is broken is a class of cases."""
    assert set(FIELDS) <= set(KINDS)


@pytest.mark.parametrize(
    ("kept", "told"),
    [({"Paint"}, []), ({"Paint", "Add"}, ["closed instead of answering a valid Add"])],
)
@pytest.mark.parametrize("forgotten", [False, True])
def test_who_is_blamed_for_closing(kept, told, forgotten):
    """Of several requests the first is blamed, unless one may be closed upon."""
    conversation = Conversation(toy, stream=True)
    conversation.kept = frozenset(kept)
    for message in (Add(values=[1]), Paint(1)):
        conversation.sent(toy.framing.encode(Seed(toy, None, message).frame(5)))
    if forgotten:
        conversation.forget()
        told = [text.replace("Add", "Paint") for text in told]
    conversation.lost(reset=False)
    conversation.judge_closing()
    assert told == [
        s.text.removeprefix("the connection is ") for s in conversation.suspicions
    ]
