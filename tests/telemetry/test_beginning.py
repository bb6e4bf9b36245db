"""
What is told before anything is collected: columns that there are not, places that cannot be.
"""

import os
import subprocess
import sys
from collections.abc import Iterator

import attrs
import pyarrow as pa
import pytest
from construct import Int8ub, Int16ub

from protocols.netflow import netflow
from protocols.sflow import sflow
from protoserve import DeclarationError, Message, Protocol, wire
from protoserve.telemetry.columns import check_columns, columns_of
from protoserve.telemetry.selecting import Selection
from protoserve.telemetry.sinks.places import check_place
from tests.running import ROOT, ran

pytest.importorskip("duckdb")


class Header(Message):
    kind: int = wire(Int8ub)


class Level(Message):
    meters: int = wire(Int16ub)


@attrs.frozen
class Alarm:
    alarm_text: str


@attrs.frozen
class Fault:
    code: int


class Alarms(Message):
    number: int = wire(Int8ub)

    def rows(self) -> Iterator[Alarm | Fault]:
        yield Alarm("")


class Anything(Message):
    number: int = wire(Int8ub)

    def rows(self):
        yield Alarm("")


def protocol(*messages):
    return Protocol(
        "tanks", header=Header, tag="kind", requests=dict(enumerate(messages))
    )


ORIGIN = {"exporter", "received_at", "exporter_", "received_at_"}


def test_columns_of_declared_messages():
    """A protocol's columns are those of its messages and of the rows that they name."""
    found = columns_of(protocol(Level, Alarms))
    assert {"kind", "meters", "alarm_text", "code"} == set(found) - ORIGIN


def test_columns_that_nobody_says():
    """Where rows may be anything, no name is wrong."""
    assert columns_of(protocol(Level, Anything)) is None
    check_columns(protocol(Level, Anything), ["nope"])


def test_columns_of_all_tables_of_a_protocol():
    """A protocol with a table for each kind of counters knows the columns of all."""
    check_columns(sflow, ["src_ip", "ifInOctets", "uuid"])
    with pytest.raises(DeclarationError, match=r"no column 'nope'$"):
        check_columns(sflow, ["nope"])


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (["meters", "metres"], "tanks has no column 'metres'; did you mean meters?"),
        (["zzz"], "tanks has no column 'zzz'"),
    ],
)
def test_unknown_columns(wanted, said):
    """A column that no table can have is told, with the nearest that there is."""
    with pytest.raises(DeclarationError, match=f"{said.replace('?', '[?]')}$"):
        check_columns(protocol(Level), wanted)


@pytest.mark.parametrize(
    "name",
    [
        "srcaddr",
        "DSTPORT",
        "octetDeltaCount",
        "reverseOctetDeltaCount",
        "scope_interface",
        "observationDomainId",
        "unix_secs",
        "templateId",
        "exporter",
        "enterprise_4242_7",
        "element_999",
    ],
)
def test_columns_of_flows(name):
    """Flow tables have the registry's names, and numbers for what it does not name."""
    check_columns(netflow, [name])


def test_unknown_columns_of_flows():
    """A name that no registry has is told."""
    with pytest.raises(DeclarationError, match="did you mean sourceIPv4Address"):
        check_columns(netflow, ["sourceIPv4Adress"])


@pytest.mark.parametrize(
    ("where", "columns", "names"),
    [
        ("dstport = 53 and srcaddr like '10.%'", None, ["dstport", "srcaddr"]),
        (None, "a, sum(b) over (partition by c) as d", ["a", "b", "c"]),
        (None, "* exclude (a)", []),
        ("received_at > now() - interval 1 hour", None, ["received_at"]),
    ],
)
def test_names(where, columns, names):
    """The columns that an expression is about are found without any table."""
    selection = Selection(where, columns)
    assert set(names) == set(selection.names)
    selection.close()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("a = = 1", "syntax error"),
        ("nothing_like_that(a)", "nothing_like_that does not exist"),
        ("a; select 1", "expected one expression"),
    ],
)
def test_nonsense(where, said):
    """An expression that is no SQL, or calls what there is not, is told at once."""
    with pytest.raises(DeclarationError, match=f"^filter or select: .*{said}"):
        Selection(where)


def test_columns_of_one_name():
    """Columns that no store can tell apart are told at once."""
    with pytest.raises(DeclarationError, match="two columns are called 'a': one of"):
        Selection(columns="a, b, a")
    Selection(columns="a, b, 1 as c").close()


@pytest.mark.parametrize(
    ("where", "rows"),
    [("tag = 'x'", 0), ("lower(tag) like 'a%'", 0), ("coalesce(tag, '') <> 'x'", 2)],
)
def test_a_text_that_a_table_does_not_have(where, rows):
    """It is null there, as a number is, and gives the table no column of numbers."""
    selection = Selection(where)
    tables = {"one": pa.table({"a": [1, 2]}), "other": pa.table({"tag": ["xyz", "a"]})}
    found = selection(tables)
    assert rows == len(found.get("one", ()))
    if rows:
        assert pa.null() == found["one"].schema.field("tag").type
    selection.close()


@pytest.mark.parametrize(
    ("where", "said"),
    [("name > 5", "Binder Error"), ("name::int > 5", "Conversion Error")],
)
def test_values_that_cannot_be_compared(where, said):
    """What shows only with values is one clear error of the selection's."""
    selection = Selection(where)
    with pytest.raises(DeclarationError, match=f"^filter or select: {said}"):
        selection({"t": pa.table({"name": ["abc"]})})
    selection.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("duckdb:/proc/x.duckdb", "/proc: "),
        ("sqlite:{0}/no/x.sqlite", "/no: No such file"),
        ("duckdb:{0}", "Is a directory"),
        ("jsonl:{0}", "Is a directory"),
        ("jsonl:/proc/x", "/proc: "),
        ("parquet:/proc/x", "/proc: "),
        ("arrow:{0}/file", "Not a directory"),
        ("duckdb:{0}/file/x.duckdb", "/file: Not a directory"),
    ],
)
def test_places_that_cannot_be_written(url, said, tmp_path):
    """A file or folder that cannot be there is told, with why."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DeclarationError, match="it cannot be written: ") as caught:
        check_place(url.format(tmp_path))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "duckdb:{0}/x.duckdb",
        "duckdb:{0}/file",
        "duckdb::memory:",
        "sqlite:{0}/x%20y?max_rows=3",
        "jsonl:{0}/new/rows.jsonl",
        "jsonl:-",
        "jsonl:/dev/null",
        "parquet:{0}/new/folders",
        "arrow:{0}",
        "postgresql://127.0.0.1:1/x",
    ],
)
def test_places_that_can(url, tmp_path):
    """What can be written, or is no file, is left as it was."""
    (tmp_path / "file").write_text("as it was")
    check_place(url.format(tmp_path))
    assert ["file"] == [each.name for each in tmp_path.iterdir()]
    assert "as it was" == (tmp_path / "file").read_text()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_no_permission(tmp_path):
    """A folder that this user may not write is told."""
    program = (
        "import os, sys\n"
        "from protoserve.telemetry.sinks.places import check_place\n"
        "os.setuid(65534)\n"
        "try: check_place('duckdb:/x.duckdb')\n"
        "except Exception as error: print(error)\n"
    )
    done = ran(program)
    text = "duckdb:/x.duckdb: it cannot be written: /: Permission denied\n"
    assert (text, "") == (done.stdout, done.stderr)


PREPARED = """
import sys
from pathlib import Path
from examples.netflow_exporter import datagrams
from protocols.netflow import netflow
from protoserve.telemetry.collecting import Collecting, Settings
from protoserve.telemetry.packing import pack_tables
from protoserve.telemetry.tabulate import tabulator_of
from protoserve.urls import Address
from tests.protocols.netflow.blocks import Exporters

sent = datagrams(int(sys.argv[1]), 2000)
block = Exporters().block(list(sent))
for name in [each for each in sys.modules if each.partition(".")[0] == "pandas"]:
    raise SystemExit(f"{name} is there too soon")
folder = Path(sys.argv[2])
addresses = [Address("udp", "127.0.0.1", 0)]
settings = dict(protocol=netflow, addresses=addresses, spool=folder / "spool")
Collecting(Settings(into=[f"arrow:{folder / 'out'}"], **settings))
known = set(sys.modules)
made = tabulator_of(netflow)
pack_tables(made.tables(block).tables)
new = set(sys.modules) - known
heavy = "pandas", "protocols", "protoserve", "pyarrow", "sqlite3"
print(*sorted(name for name in new if name.partition(".")[0] in heavy))
"""


@pytest.mark.parametrize("version", [5, 9, 10])
def test_first_rows(version, tmp_path):
    """What takes long to import is there before the first rows wait for it."""
    command = [sys.executable, "-c", PREPARED, str(version), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("", "", 0)
