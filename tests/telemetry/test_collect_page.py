"""
What the page of collectors says is so.
"""

import re
import struct

import pytest

from tests.running import ROOT
from tests.telemetry.processes import collect, sender
from tests.test_docs import BLOCK, table

duckdb = pytest.importorskip("duckdb")
typer = pytest.importorskip("typer")
PAGE = (ROOT / "docs" / "collect.md").read_text("utf-8")


def test_options():
    """The page names all options, with their defaults."""
    commands = pytest.importorskip("protoserve.cli.commands")
    command = typer.main.get_command(commands.app).commands["collect"]
    rows = {
        cells[0].strip("`"): cells[1].strip("`")
        for cells in table("docs/collect.md", "Option")
    }
    options = {
        param.opts[0]: param.default
        for param in command.params
        if param.param_type_name == "option" and param.name != "help"
    }
    assert sorted(options) == sorted(rows)
    for name, default in options.items():
        shown = "" if not default else str(default).removesuffix(".0")
        assert shown == rows[name], name


def test_own_protocols(tmp_path):
    """The protocols on the page are collected into the tables that it names."""
    for block in BLOCK.finditer(PAGE):
        if file := re.match(r"# (\w+\.py)\n", block["code"]):
            (tmp_path / file[1]).write_text(block["code"])
    listen = ("--listen", "udp://127.0.0.1:0", "--into", "own.duckdb")
    with collect(tmp_path, *listen, protocol="meters:meters") as running:
        with sender(running.port) as sock:
            for number in (0, 1, 3):
                sock.send(struct.pack(">IHf", 7, number, 60.0))
            running.await_metric("datagrams_delivered_total", 3)
        assert 1 == running.metrics()["sequence_missing"]
        assert 0 == running.stop()
    (tmp_path / "stdout").unlink()
    with collect(tmp_path, *listen, protocol="alarms:alarms") as running:
        with sender(running.port) as sock:
            sock.send(struct.pack(">I", 7) + b"\x0blow voltage\x03off")
            running.await_metric("datagrams_delivered_total", 1)
        assert 0 == running.stop()
    with duckdb.connect(str(tmp_path / "own.duckdb"), read_only=True) as store:
        readings = store.sql("select meter, watts, exporter from readings").fetchall()
        alarms = store.sql("select meter, text from alarms order by text").fetchall()
    assert [(7, 60.0, "127.0.0.1")] * 3 == readings
    assert [(7, "low voltage"), (7, "off")] == alarms
