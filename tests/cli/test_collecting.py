"""
What ``protoserve collect`` says of its options, and how it shows what goes on.
"""

import re
import signal
import sys

import attrs
import pytest

pytest.importorskip("pyarrow", reason="collecting needs pyarrow")

from rich.console import Console

from protoserve.account import Balance
from protoserve.cli import collecting
from protoserve.cli.watched import _number, _picture, _Trouble
from protoserve.telemetry.metrics import Figures, SinkFigures
from tests.cli.commanding import command

__all__ = ["command"]

PLAIN = (
    "protocol: protocols.netflow:netflow\nlisten: udp://127.0.0.1:0\ninto: a.duckdb\n"
)


@pytest.fixture(autouse=True)
def found(tmp_path, monkeypatch):
    """
    Have nothing begin, and leave this process as it was; give settings.
    """
    found = []
    handler, interval = signal.getsignal(signal.SIGTERM), sys.getswitchinterval()
    monkeypatch.setattr(collecting, "set_up_logging", lambda *_, **__: None)

    def begin(made, **_options):
        found.append(made)
        raise collecting.CommandError("it was to begin")

    monkeypatch.setattr("protoserve.telemetry.collecting.Collecting", begin)
    monkeypatch.chdir(tmp_path)
    yield found
    signal.signal(signal.SIGTERM, handler)
    sys.setswitchinterval(interval)


@pytest.fixture
def settings(command, found):
    """
    Run ``collect`` up to where it would begin; give its settings.
    """

    def run(*arguments):
        code, _, err = command("collect", *arguments)
        assert (2, "protoserve: it was to begin\n") == (code, err)
        return found.pop()

    return run


# A file with options --------------------------------------------------------------


def test_a_file_says_what_options_say(tmp_path, settings):
    """Every option may stand in a file, with - or _; numbers and texts are as good."""
    (tmp_path / "all.yaml").write_text(
        PLAIN
        + "filter: dstport = 53\nworkers: 2\nspool-size: 1GiB\nspool_full: block\n"
        "kernel_times: yes\nrate: 7\ndrain: '2.5'\nlimit: [idle=5]\nselect:\n"
    )
    found = settings("--config", "all.yaml")
    assert (["a.duckdb"], "dstport = 53", None) == (
        found.into,
        found.where,
        found.select,
    )
    assert (2, 1 << 30, "block") == (
        found.workers,
        found.spool_size,
        found.spool_when_full,
    )
    assert (True, 7.0, 2.5) == (found.kernel_times, found.rate, found.drain)
    assert 5.0 == found.limits.idle


def test_the_command_line_goes_before_a_file(tmp_path, settings):
    """What is given on the command line counts, wherever the file is named."""
    (tmp_path / "all.yaml").write_text(PLAIN + "filter: a = 1\nrate: 7\n")
    found = settings("--filter", "b = 2", "--config", "all.yaml", "--into", "b.duckdb")
    assert ("b = 2", 7.0, ["b.duckdb"]) == (found.where, found.rate, found.into)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("worker: 2", "all.yaml: there is no option 'worker'; did you mean workers?"),
        ("config: a", "all.yaml: there is no option 'config'; known: protocol, listen"),
        (
            "into: {a: 1}",
            "all.yaml: into: expected a value or a list of values, found {",
        ),
        ("select: [a, b]", "all.yaml: select: expected one value, found ['a', 'b']"),
        ("workers: many", "Invalid value for '--workers': expected a number from 1 to"),
        ("drain: soon", "Invalid value for '--drain': "),
        ("rate: -1", "Invalid value for '--rate': expected a number above 0"),
        ("rate: 0", "Invalid value for '--rate': expected a number above 0, not 0.0"),
        ("rate: .nan", "Invalid value for '--rate': expected a number above 0"),
        ("rate: .inf", "Invalid value for '--rate': expected a number above 0"),
        (
            "spool_full: never",
            "Invalid value for '--spool-full': 'never' is not one of",
        ),
        ("metrics: here", "--metrics: expected HOST:PORT, not 'here'"),
        ("queue: -5", "--queue: expected a size such as 64MiB, not '-5'"),
        ("rate: }", "all.yaml: line 4: expected the node content"),
        ("\0", "all.yaml: unacceptable character"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(tmp_path, command, text, said):
    """Names and values of a file are checked as those of the command line are."""
    (tmp_path / "all.yaml").write_text(PLAIN + text + "\n")
    code, _, err = command("collect", "--config", "all.yaml")
    assert 2 == code
    assert err.startswith(f"protoserve: {said}"), err
    assert 1 == err.count("\n")
    assert ["all.yaml"] == [each.name for each in tmp_path.iterdir()]


@pytest.mark.parametrize("text", ["", "netflow\n", "- a\n"])
def test_a_file_without_names(tmp_path, command, text):
    """A file that does not give names values is told so."""
    (tmp_path / "all.yaml").write_text(text)
    code, _, err = command("collect", "--config", "all.yaml")
    assert 2 == code
    assert (
        "protoserve: all.yaml: expected names with values, as in 'workers: 2'\n" == err
    )


def test_a_sink_twice(command):
    """A sink that is named twice is refused, and its password is not shown."""
    url = "postgresql://me:secret@db/flows"
    code, _, err = command(
        *("collect", "protocols.netflow:netflow", "--listen", "udp://127.0.0.1:0"),
        *("--into", "a.duckdb", "--into", url, "--into", f"{url}?schema=x"),
    )
    assert 2 == code
    assert "protoserve: --into: postgresql://db/flows is given twice\n" == err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--into", "jsonl:a", "--into", "jsonl:a"), "--into: jsonl:a is given twice"),
        (
            ("--into", "a.jsonl", "--into", "jsonl:./a.jsonl?max_age=2"),
            "--into: jsonl:./a.jsonl is given twice, as a.jsonl before",
        ),
        (
            ("--into", "parquet:a", "--into", "parquet:b/../a/"),
            "--into: parquet:b/../a/ is given twice, as parquet:a before",
        ),
        (("--into", "jsonl:a", "--group="), "--group: expected a name"),
        (("--into", "jsonl:a", "--since", "9" * 19), "--since: expected an entry's"),
        (("--into", "jsonl:a", "--spool", "/dev/null"), "/dev/null: it cannot be"),
    ],
)
def test_work_that_cannot_be(command, words, said):
    """What is wrong with a worker is told before the log is looked for."""
    code, _, err = command(
        *("work", "protocols.netflow:netflow", "--from", "nats://127.0.0.1:1"),
        *("--group", "g", *words),
    )
    assert 2 == code
    assert err.startswith(f"protoserve: {said}")
    assert 1 == len(err.splitlines())


# How it goes -----------------------------------------------------------------------


def figures(**changes):
    sink = SinkFigures(
        name="postgresql://db/x", rows=1_234_567, lag=3, retries=0, refused=0, error=""
    )
    counted = {"rows": 12_000, "bytes": 100, "exporters": 2, "missing": 0}
    return Figures(
        balance=Balance(1000, 900, {"kernel": 7, "rate": 0}),
        sinks=(attrs.evolve(sink, **changes),),
        counted=counted,
    )


def drawn(now, errors=(), width=80):
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(_picture(now, figures(), 1.0, errors))
    return captured.get()


def test_a_picture_of_how_it_goes():
    """What comes, what is lost and how far each sink is stand in one line each."""
    lines = [
        re.sub(r" {2,}", "  ", each).strip() for each in drawn(figures()).splitlines()
    ]
    assert [
        "in  0 datagrams/s  0 rows/s  0 B/s  2 exporters",
        "dropped  kernel 7  0 missing  93 in flight  900 delivered",
        "into  postgresql://db/x  1.23 M rows  3 entries behind",
    ] == lines


def test_an_error_is_shown_whole():
    """The end of an error, where its reason is, is on the screen however narrow it is."""
    error = (
        "postgresql://me@db/x: " + "connection to the server failed: " * 4 + "Refused"
    )
    now = figures(retries=1, error=error)
    errors = _Trouble().lately(now, 0.0)
    text = " ".join(drawn(now, errors, width=60).split())
    assert text.endswith("Refused")
    assert "postgresql://db/x: connection to" in text
    assert "me@db" not in text


def test_an_error_that_is_over_is_not_shown():
    """A minute after the last attempt that failed, a sink's last error is history."""
    trouble, error = _Trouble(), "it is away"
    first, again = figures(retries=1, error=error), figures(retries=2, error=error)
    assert ["postgresql://db/x: it is away"] == trouble.lately(first, 0.0)
    assert trouble.lately(first, 59.0)
    assert not trouble.lately(first, 60.0)
    assert trouble.lately(again, 90.0)
    assert not trouble.lately(again, 150.0)


def test_refused_entries_stay_in_the_picture():
    """What a sink has refused is shown for as long as the collector runs."""
    assert "2 refused" in drawn(figures(refused=2))


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0, " rows", "0 rows"),
        (9_999, "", "9,999"),
        (10_000, "B/s", "10 kB/s"),
        (12, "B/s", "12 B/s"),
        (999_400, "", "999 k"),
        (999_600, "", "1 M"),
        (1_240_000, " rows", "1.24 M rows"),
        (999_600_000, "", "1 G"),
    ],
)
def test_numbers_as_people_read_them(value, unit, shown):
    """A number has three digits and a factor, and one space before its unit."""
    assert shown == _number(value, unit)
