"""
``protoserve snapshot`` and ``protoserve compat``: files, exit codes, what is said.
"""

import json
import sys

import pytest

OLD = """
from construct import Int8ub, Optional
from protoserve import LengthPrefixed, Message, Protocol, Request, wire

class Ack(Message):
    value: int = wire(Int8ub)

class Ask(Request[Ack]):
    value: int = wire(Int8ub)

spoken = Protocol("spoken", framing=LengthPrefixed(Int8ub), requests=Ask, responses=Ack)
"""

NEW = OLD.replace(
    "class Ask(Request[Ack]):\n    value: int = wire(Int8ub)\n",
    "class Ask(Request[Ack]):\n    value: int = wire(Int8ub)\n"
    "    more: int | None = wire(Optional(Int8ub), default=None)\n",
)


@pytest.fixture
def run(command, tmp_path, monkeypatch):
    """Run in a folder with two versions; give exit code, output and errors."""
    (tmp_path / "old_version.py").write_text(OLD)
    (tmp_path / "new_version.py").write_text(NEW)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    damaged = {"snapshot": 1, "protocol": "p", "messages": [1]}
    damaged |= dict.fromkeys(
        ("framing", "header", "trailer", "tag", "correlate", "states")
    )
    damaged |= {"requests": [], "responses": []}
    (tmp_path / "damaged").write_text(json.dumps(damaged))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("old_version", "new_version"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return command


def test_snapshot_and_compat(run):
    """A break is told with who sends and who reads, and is exit code 1."""
    code, out, err = run("snapshot", "old_version:spoken", "-o", "old.json")
    assert (0, "", "") == (code, out, err)
    code, out, err = run("compat", "old.json", "old_version:spoken")
    assert code == 0
    assert "old clients with new servers: compatible" in out
    code, out, err = run("compat", "old.json", "new_version:spoken")
    assert code == 1
    assert err == ""
    assert out.splitlines() == [
        "old clients with new servers: compatible",
        "new clients with old servers: 1 break",
        (
            "  request Ask.more: it is new and optional; old peers refuse the bytes, new "
            "ones do without (new client to old server)"
        ),
    ]


def test_json(run):
    """For programs there is an object with the breaks of either way."""
    code, out, _ = run("compat", "old_version:spoken", "new_version:spoken", "--json")
    assert code == 1
    found = json.loads(out)
    assert found["compatible"] is False
    assert found["old_clients_with_new_servers"] == []
    (one,) = found["new_clients_with_old_servers"]
    assert one["where"] == "request Ask.more"
    assert (one["sender"], one["reader"]) == ("new client", "old server")
    assert found["notes"] == []
    code, out, _err = run(
        "compat", "old_version:spoken", "old_version:spoken", "--json"
    )
    assert code == 0
    assert json.loads(out)["compatible"] is True


def test_a_snapshot_goes_to_standard_output(run):
    """Without a file it is written for others to read, in full."""
    code, out, _err = run("snapshot", "new_version:spoken")
    assert code == 0
    found = json.loads(out)
    assert found["snapshot"] == 1
    ask = next(m for m in found["messages"] if m["message"] == "Ask")
    assert [(p["name"], p["offset"]) for p in ask["parts"]] == [
        ("value", 0),
        ("more", 1),
    ]
    assert {"more": None} == ask["defaults"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["compat", "old_version:spken", "old_version:spoken"], "did you mean spoken?"),
        (["compat", "none.json", "old_version:spoken"], "cannot read none.json"),
        (
            ["compat", "old_version.py", "old_version:spoken"],
            "old_version.py: expected a snapshot",
        ),
        (["compat", "old_version:spoken", "."], "cannot read ."),
        (["compat", "damaged", "old_version:spoken"], "damaged is no whole snapshot"),
        (["compat", "old_version:spoken", "binary"], "it is no UTF-8 text"),
        (["snapshot", "old_version"], "expected MODULE:NAME"),
        (
            ["snapshot", "old_version:spoken", "-o", "no/old.json"],
            "cannot write no/old.json",
        ),
    ],
)
def test_wrong_use_is_one_line(run, arguments, expected):
    """What a user can put right is one line on standard error, and exit code 2."""
    code, _out, err = run(*arguments)
    assert code == 2
    (line,) = err.splitlines()
    assert expected in line
